"""What the rest of the system asks of a backend: anything that answers this can be reconciled.

A backend only reads. Nothing here can start, stop, create or delete an instance; the one thing
that may be taken back is a query of ours.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Protocol

from proj.observation import Evidence, Interval, JobEnd, Observation


class BackendError(Exception):
    """A request failed. It says nothing about any instance; the text says what to do."""


class TryAgain(BackendError):
    """The network or the master is in trouble; the same request may work later."""


class Misconfigured(BackendError):
    """Wrong address, password or certificate: only an operator can mend it."""


class Busy(TryAgain):
    """As many requests are under way as the cluster may have; nothing was sent."""


class SaysNothing(BackendError):
    """An answer came, but it cannot be read: cut, not JSON, of an unknown shape."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """One record that could not be read; it spoils itself and not its neighbours."""

    instance: str | None
    problem: str


@dataclass(frozen=True, slots=True)
class Work:
    """What a job does to an instance."""

    instance: str
    operation: str
    """CREATE, REBOOT, REINSTALL, STARTUP, SHUTDOWN, MIGRATE, FAILOVER, REMOVE, ..."""


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """One job of the backend's queue, as far as it matters here."""

    job_id: int
    has_started: bool
    end: JobEnd | None
    """None while it is open."""
    work: tuple[Work, ...] = ()
    """The instances that it changes."""
    is_query: bool = False
    """It reads instances, and its result tells what it read."""


@dataclass(frozen=True, slots=True)
class Feed:
    """What became of the queue since the last feed."""

    jobs: tuple[QueuedJob, ...]
    """Every job that is new, and every one that was asked for by its id."""
    newest: int
    """The highest job id seen so far: the place from which the next feed goes on."""
    interval: Interval


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
    prints: Callable[[], Sequence[tuple[str, int]]]
    """For each record, in order: its name as far as it can be told, and a number that is equal
    for equal records within one process."""
    read: Callable[[Iterable[int]], Iterable[Observation | Unreadable]]
    """Read the records at these places."""

    @cached_property
    def listed(self) -> tuple[Observation, ...]:
        """Every instance of the list that could be read."""
        return tuple(item for item in self._records if isinstance(item, Observation))

    @cached_property
    def unreadable(self) -> tuple[Unreadable, ...]:
        """Every record that could not."""
        return tuple(item for item in self._records if isinstance(item, Unreadable))

    @cached_property
    def _records(self) -> tuple[Observation | Unreadable, ...]:
        return tuple(self.read(range(self.size)))


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
    """Ended in an error that says nothing about the instance."""


@dataclass(frozen=True, slots=True)
class JobReport:
    """One query job at one poll."""

    job_id: int
    verdict: Verdict
    observations: tuple[Observation, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    error: str = ""


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

    def feed(self, after: int | None, known: Sequence[int]) -> Feed:
        """Read the jobs newer than ``after`` and those of ``known``, in one request.

        Where ``after`` is None the feed begins: only what is open now is told.
        One of ``known`` that the queue has lost is told with the end LOST.
        """
        ...

    def submit_query(self, instance: str, *, limit: int) -> int:
        """Issue a query job for one instance and return its id.

        The backend is told to run at most ``limit`` such jobs of ours at once.
        """
        ...

    def poll(
        self, submitted: Mapping[int, datetime], *, evidence: Evidence = Evidence.JOB
    ) -> Sequence[JobReport]:
        """Report on each query job of ``submitted`` (job id -> not begun before) by one request.

        Observations carry the interval from that moment to this answer.
        """
        ...

    def cancel(self, job_id: int) -> bool:
        """Cancel a query job of ours that is stuck; False where this is not possible."""
        ...

    def exists(self, instance: str) -> bool:
        """Ask for this very name; False only on the backend's own "not found"."""
        ...
