"""What the rest of the system asks of a backend: anything that answers this can be reconciled.

A backend only reads. Nothing here can start, stop, create or delete an instance; the one thing
that may be taken back is a query of ours.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Protocol

from proj.observation import Interval, Observation, Status


class BackendError(Exception):
    """A request failed. It says nothing about any instance; the text says what to do."""


class TryAgain(BackendError):
    """The network or the master is in trouble; the same request may work later."""


class Misconfigured(BackendError):
    """Wrong address, password, certificate or rights: only an operator can mend it."""


class Busy(TryAgain):
    """As many requests are under way as the cluster may have; nothing was sent."""


class SaysNothing(BackendError):
    """An answer came, but it cannot be read: cut, not JSON, of an unknown shape."""


@dataclass(slots=True)
class Span:
    """When one request was under way, on the one clock."""

    begun: datetime
    ended: datetime
    """As soon as it is over."""


Gate = Callable[[], AbstractContextManager[Span]]
"""What each request passes through: it may hold requests back, and tells when this one was."""


@contextmanager
def timed(clock: Callable[[], datetime]) -> Iterator[Span]:
    """Hold no request back, and tell by ``clock`` when it was."""
    begun = clock()
    span = Span(begun, begun)
    try:
        yield span
    finally:
        span.ended = clock()


@dataclass(frozen=True, slots=True)
class Unreadable:
    """One record that could not be read; it spoils itself and not its neighbours."""

    instance: str | None
    problem: str
    uuid: str | None = None


class JobState(StrEnum):
    """How far a job of the queue has come."""

    QUEUED = "queued"
    WAITING = "waiting"
    """It wants locks that others hold; it has done nothing yet."""
    RUNNING = "running"
    ENDED = "ended"
    """In success, in error, canceled or dead: what it did is to be looked at."""
    UNKNOWN = "unknown"
    """The queue does not know it any more: impossible to tell what happened."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a job does to an instance."""

    instance: str
    operation: str
    """CREATE, REBOOT, REINSTALL, STARTUP, SHUTDOWN, MIGRATE, FAILOVER, REMOVE, ..."""
    status: Status | None = None
    """The API's word for an instance that this is done to, where it has one."""


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """One job of the backend's queue, as far as it matters here."""

    job_id: int
    state: JobState
    work: tuple[Work, ...] = ()
    """The instances that it changes; one that is renamed is named by both names."""
    is_query: bool = False
    """It reads instances, all at once, and its result tells what it read."""
    is_ours: bool = False
    """It bears our label."""

    @property
    def is_open(self) -> bool:
        """Whether it may still do something."""
        return self.state in (JobState.QUEUED, JobState.WAITING, JobState.RUNNING)


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading of the queue."""

    jobs: tuple[QueuedJob, ...]
    """Every job above the place that was asked from, every one that was asked for by its id,
    and, of a whole reading, every one that is open. By their ids, each once. One that was asked
    for and is not known any more has the state UNKNOWN."""
    interval: Interval
    highest: int | None = None
    """Of a whole reading: the highest id that the queue has given, 0 for an empty one."""
    unreadable: int = 0
    """Rows of the queue that could not be read."""

    @property
    def is_whole(self) -> bool:
        """Whether every open job is in it."""
        return self.highest is not None


@dataclass(frozen=True)
class Look:
    """One cheap look at a whole cluster: the list of all its instances.

    The list is read into observations only when somebody asks, and only as far as he asks: a
    list with the digest of the last one that agreed has nothing to tell, and neither has a
    record with the print of the last one.
    """

    interval: Interval
    """From the request's leaving to the answer's arrival."""
    size: int
    """How many records the list has."""
    digest: str
    """Equal for equal lists."""
    prints: Callable[[], Sequence[tuple[str, str | None, int]]]
    """For each record, in order: name and uuid as far as they can be told ("" and None where
    not), and a number that is equal for equal records within one process."""
    read: Callable[[Iterable[int]], Iterable[Observation | Unreadable]]
    """Read the records at these places."""

    @cached_property
    def records(self) -> tuple[Observation | Unreadable, ...]:
        """Every record of the list."""
        return tuple(self.read(range(self.size)))


@dataclass(frozen=True, slots=True)
class Found:
    """The one who answers to a name: Ganeti completes a name to one that begins with it."""

    name: str
    uuid: str | None


@dataclass(frozen=True, slots=True)
class Submitted:
    """A query job that was issued."""

    job_id: int
    begun: datetime
    """When the request for it left: the job begins later."""


class Verdict(StrEnum):
    """How far a query job has come, and what its end means."""

    PENDING = "pending"
    ANSWERED = "answered"
    ABSENT = "absent"
    """The backend does not know the name: worth asking for a 404, no proof by itself."""
    RETRY = "retry"
    """Ended without an answer for a passing reason: canceled, died, wrong state."""
    LOST = "lost"
    """The backend does not know the job any more: archived and purged, or a new master."""
    FAILED = "failed"
    """Ended in an error that says nothing about the instance, its node being down included."""


@dataclass(frozen=True, slots=True)
class JobReport:
    """One query job at one poll."""

    job_id: int
    verdict: Verdict
    observations: tuple[Observation, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    error: str = ""
    is_unstarted: bool = False
    """It is pending, and has read nothing yet."""


class Backend(Protocol):
    """A connection to one cluster. Every method may raise a ``BackendError``."""

    def version(self) -> str:
        """Return the backend's version: the cheapest request, with a short timeout."""
        ...

    def look(self) -> Look:
        """Read all instances, in one request."""
        ...

    def look_unless(self, digest: str) -> Look | Interval:
        """Read all instances, unless the list has this digest: then tell only when it was read."""
        ...

    def read_queue(self, after: int | None, known: Sequence[int], *, whole: bool) -> Reading:
        """Read the jobs newer than ``after`` and those of ``known``, in one request.

        Where it is to be ``whole``, every open job and the highest id too, by one more request.
        Where ``after`` is None, nothing is read only because it is new.
        """
        ...

    def submit_query(self, instance: str, *, limit: int) -> Submitted:
        """Issue a query job for one instance.

        The backend is told to run at most ``limit`` such jobs of ours at once.
        """
        ...

    def poll(self, submitted: Mapping[int, datetime]) -> Sequence[JobReport]:
        """Report on each query job of ``submitted`` (job id -> not begun before) by one request.

        Observations carry the interval from that moment to this answer.
        """
        ...

    def cancel(self, job_id: int) -> bool:
        """Cancel a query job of ours that is stuck; False where this is not possible."""
        ...

    def find(self, instance: str) -> Found | None:
        """Ask who answers to this name; None only on the backend's own "not found"."""
        ...
