"""The numbers an operator may choose, read from Django's settings in one place."""

from dataclasses import dataclass, field
from datetime import timedelta

from proj.reconcile.brake import Limits


@dataclass(frozen=True, slots=True)
class Flapping:
    """More than ``changes`` of an instance's status within ``window`` is flapping."""

    changes: int = 10
    window: timedelta = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Tuning:
    """How patient, how careful and how fast the engine is. All times in seconds."""

    look_period: float = 60.0
    """Between two looks at a cluster where nothing changes."""
    look_period_min: float = 10.0
    """Between two looks at one where something does."""
    look_lease: float = 80.0
    """A look that has not ended by then is taken for dead; a request may take 75 s."""
    full_look_each: int = 10
    """So many looks may be cut short by what is remembered, but for one."""
    follow_period: float = 1.5
    """Between two readings of the job queue."""
    follow_lease: float = 80.0
    whole_reading_each: int = 10
    gap: float = 60.0
    """A job whose id was given and that is not to be seen is waited for so long."""
    chain_lease: float = 20.0
    """A chain of polls that has not said by then that it lives is taken for dead."""
    poll_interval_min: float = 0.1
    """Between two polls of a chain whose last job has just been issued: Ganeti must not run dry."""
    poll_interval_max: float = 2.0
    """Between two polls while none ends and none is issued, as when all wait for a lock."""
    submit_timeout: float = 90.0
    """A question claimed this long ago without a job id was lost with its worker."""
    answer_timeout: float = 10.0
    """An answer that nobody has settled by then was lost with its task."""
    query_timeout: float = 300.0
    """A job that has not ended by then is given up, and canceled where the user may."""
    relook_after: float = 2.0
    """Between the two lists that must agree on a word no job can give."""
    gone_after: float = 10.0
    """The least time between the two lists that prove an instance gone."""
    proof_within: float = 60.0
    """Where no job could prove a change for so long, lists that agree settle it."""
    retry_base: float = 1.0
    retry_cap: float = 300.0
    question_cap: float = 3600.0
    """The longest wait before an instance that cannot be asked is asked again."""
    hold_for: float = 3600.0
    """How long a mass change that no look finds any more can be approved."""
    open_requests: int = 1000
    """Above so many in a cluster, further ones are refused."""

    limits: Limits = field(default_factory=Limits)
    flapping: Flapping = field(default_factory=Flapping)

    @property
    def read_within(self) -> float:
        """A job that no reading has shown for so long may be over."""
        return max(self.proof_within, 4 * self.follow_period)

    @property
    def bound(self) -> timedelta:
        """No change is recorded later than so long after it."""
        return timedelta(seconds=self.proof_within + 2 * self.look_period)

    @property
    def patience(self) -> timedelta:
        """A request ends when so long nothing could be done for what is left of it."""
        return timedelta(seconds=self.proof_within + 2 * self.look_period_min)
