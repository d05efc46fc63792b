"""What the rest of the system asks of a backend: anything that answers this can be reconciled.

A backend only reads. Nothing here can start, stop, create or delete an instance.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Protocol

from proj.observation import Interval, JobEnd, Observation


class BackendError(Exception):
    """A request failed. It says nothing about any instance; the text says what to do."""


class TryAgain(BackendError):
    """The network or the master is in trouble; the same request may work later."""


class Misconfigured(BackendError):
    """Wrong address, password or certificate: only an operator can mend it."""


class SaysNothing(BackendError):
    """An answer came, but it cannot be read: cut, not JSON, of an unknown shape."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """One record that could not be read; it spoils itself and not its neighbours."""

    instance: str | None
    problem: str


@dataclass(frozen=True, slots=True)
class Work:
    """A job in the backend's queue that is not final and changes an instance."""

    job_id: int
    instance: str
    operation: str
    """CREATE, REBOOT, REINSTALL, STARTUP, SHUTDOWN, MIGRATE, FAILOVER, REMOVE, ..."""
    running: bool


@dataclass(frozen=True)
class Look:
    """One cheap look at a whole cluster: the open jobs first, then all instances.

    The list is read into observations only when somebody asks: a list with the digest of the
    last one that agreed has nothing to tell.
    """

    work: tuple[Work, ...]
    interval: Interval
    """From the first request's leaving to the last answer's arrival."""
    size: int
    """How many records the list has."""
    digest: str
    """Equal for equal lists."""
    read: Callable[[], Iterable[Observation | Unreadable]]

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
        return tuple(self.read())


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
        """Read the open jobs, then all instances, in two requests."""
        ...

    def submit_query(self, instance: str, *, limit: int) -> int:
        """Issue a query job for one instance and return its id.

        The backend is told to run at most ``limit`` such jobs of ours at once.
        """
        ...

    def poll(self, submitted: Mapping[int, datetime]) -> Sequence[JobReport]:
        """Report on each job of ``submitted`` (job id -> when it was submitted) by one request.

        Observations carry the interval from the job's submission to this answer.
        """
        ...

    def ends(self, job_ids: Sequence[int]) -> Mapping[int, JobEnd]:
        """Tell how each of these jobs ended, by one request; those still open are left out."""
        ...

    def exists(self, instance: str) -> bool:
        """Ask for this very name; False only on the backend's own "not found"."""
        ...
