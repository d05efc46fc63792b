"""Whether a cluster's audit budget can keep the maximum age of a confirmation."""

from dataclasses import dataclass
from datetime import timedelta
from math import inf

MORE_JOBS = "manage.py cluster set NAME --jobs-per-hour N"


@dataclass(frozen=True, slots=True)
class Round:
    """How long it takes to confirm every instance of a cluster once, and how long it may take."""

    jobs_per_hour: int
    hours: float
    """Infinite where the budget is nothing."""
    wanted_hours: float

    @property
    def keeps_up(self) -> bool:
        """Whether the budget is enough."""
        return self.hours <= self.wanted_hours

    def __str__(self) -> str:
        """Say it in one sentence that tells what to do."""
        if self.keeps_up:
            return f"each is confirmed by a job at least every {self.wanted_hours:g} h"
        if not self.jobs_per_hour:
            return f"no instance is ever confirmed by turns: raise it: {MORE_JOBS}"
        return (
            f"{self.jobs_per_hour} jobs an hour confirm each only every {self.hours:.0f} h,"
            f" not every {self.wanted_hours:g} h:"
            f" raise one: {MORE_JOBS} or --confirm-hours H"
        )


def audit_round(instances: int, *, jobs_per_hour: int, confirm_max_age: timedelta) -> Round:
    """Return what one round over so many instances takes."""
    hours = instances / jobs_per_hour if jobs_per_hour else inf
    return Round(jobs_per_hour, hours, confirm_max_age / timedelta(hours=1))
