"""The numbers an operator may choose, read from Django's settings in one place."""

from dataclasses import dataclass, field
from datetime import timedelta

from proj.reconcile.apply import Flapping
from proj.reconcile.brake import Limits


@dataclass(frozen=True, slots=True)
class Tuning:
    """How patient, how careful and how fast the engine is. All times in seconds."""

    look_period: float = 60.0
    """Between two looks at a cluster where nothing changes."""
    look_period_min: float = 10.0
    """Between two looks at one where something does."""
    look_lease: float = 100.0
    """A look that has not ended by then is taken for dead."""
    follow_period: float = 1.5
    """Between two readings of the job queue."""
    follow_lease: float = 100.0
    feed_max_age: float = 5.0
    """A look reads the queue itself where the last reading is older."""
    chain_lease: float = 20.0
    """A chain of polls that has not said by then that it lives is taken for dead."""
    poll_interval_min: float = 0.1
    """Between two polls of a chain whose last job has just been issued: Ganeti must not run dry."""
    poll_interval_max: float = 2.0
    """Between two polls while none ends and none is issued, as when all wait for a lock."""
    submit_timeout: float = 90.0
    """A query claimed this long ago without a job id was lost with its worker."""
    answer_timeout: float = 30.0
    """An answer that nobody has reconciled by then was lost with its task."""
    query_timeout: float = 300.0
    """A job that has not ended by then is given up."""
    query_attempts: int = 5
    relook_after: float = 2.0
    """Between the two lists that must agree on a word no job can give."""
    gone_after: float = 10.0
    """The least time between the two lists that prove an instance gone."""
    retry_base: float = 1.0
    retry_cap: float = 300.0
    pass_attempts: int = 3
    limits: Limits = field(default_factory=Limits)
    flapping: Flapping = field(
        default_factory=lambda: Flapping(changes=10, window=timedelta(minutes=10))
    )
