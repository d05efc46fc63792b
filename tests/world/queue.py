"""Ganeti's queue: jobs that wait for locks, run, and end; ours and those of others."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from proj.backend import JobState, Verdict, Work
from proj.observation import Configuration
from tests.world.clock import Clock

TRACKED = 25
"""So many jobs wait for locks or run at once; the rest is queued."""

STATES = {
    "queued": JobState.QUEUED,
    "waiting": JobState.WAITING,
    "running": JobState.RUNNING,
    "canceling": JobState.WAITING,
    "success": JobState.ENDED,
    "error": JobState.ENDED,
    "canceled": JobState.ENDED,
}
"""By Ganeti's word. One that is being canceled has done nothing yet, and may run all the same."""


@dataclass(frozen=True, slots=True)
class Locks:
    """What a job must have before it runs."""

    alone: frozenset[str] = frozenset()
    shared: frozenset[str] = frozenset()

    def bars(self, other: "Locks") -> bool:
        """Whether who has these keeps the other waiting."""
        return bool(self.alone & (other.alone | other.shared) or self.shared & other.alone)


@dataclass(frozen=True, slots=True)
class Seen:
    """One instance as a query job read it."""

    name: str
    uuid: str
    word: str | None
    configuration: Configuration


@dataclass(frozen=True, slots=True)
class Result:
    """What a query job ended with."""

    verdict: Verdict
    seen: tuple[Seen, ...] = ()
    error: str = ""


@dataclass(eq=False)
class Job:
    """One job."""

    number: int = 0
    work: tuple[Work, ...] = ()
    locks: Callable[[], Locks] = Locks
    seconds: float | None = None
    """How long it runs; None: until the test ends it."""
    held: bool = False
    """It stays queued: it depends on another, or a filter pauses it."""
    changes: bool = False
    """It changes instances."""
    is_query: bool = False
    opcodes: int = 1
    is_ours: bool = False
    limit: int | None = None
    """So many of ours wait or run at once: the reason trail's rate limit."""
    begin: Callable[[], bool] = lambda: True
    """Whether it can do what it is to do."""
    end: Callable[[], object] = lambda: None
    undo: Callable[[], object] = lambda: None

    word: str = "queued"
    result: Result | None = None
    has: Locks | None = None
    """The locks that it has while it runs."""
    hidden: bool = False
    """Its id is given, and its file is not there yet."""
    archived: bool = False
    purged: bool = False
    unreadable: bool = False
    received: datetime | None = None
    started: datetime | None = None
    ended: datetime | None = None

    @property
    def is_open(self) -> bool:
        """Whether it may still do something."""
        return STATES[self.word] is not JobState.ENDED


@dataclass
class Queue:
    """All jobs of a cluster, and who may run."""

    clock: Clock
    changed: Callable[[], object] = lambda: None
    """Called when something may have changed in the instances."""
    jobs: dict[int, Job] = field(default_factory=dict)
    """By number, also those whose row is purged: their process may go on."""
    former: list[Job] = field(default_factory=list)
    """Jobs of an earlier numbering that go on."""
    newest: int = 0

    def add(self, job: Job) -> int:
        """Take a job in, and let it run if it may."""
        self.newest += 1
        job.number = self.newest
        job.received = self.clock.real
        self.jobs[job.number] = job
        self.advance()
        return job.number

    def visible(self) -> Iterator[Job]:
        """Return the jobs whose rows can be asked for, the archived ones too."""
        return (job for job in self.jobs.values() if not (job.hidden or job.purged))

    def open(self) -> list[Job]:
        """Return every job that may still do something."""
        return [job for job in [*self.former, *self.jobs.values()] if job.is_open]

    def advance(self) -> None:
        """Let every job go as far as it may."""
        moved = True
        while moved:
            moved = False
            for job in self.open():
                if job.word == "queued" and self._is_tracked(job):
                    job.word = "waiting"
                if job.word == "waiting" and self._is_free(job):
                    self._start(job)
                    moved = True

    def finish(self, job: Job, word: str = "success", *, leaving: str = "") -> None:
        """End a job in success, error or canceled.

        What it did stays ``before``, ``half`` or ``done``; by itself, what such an end leaves.
        """
        if not job.is_open:
            return
        if job.word != "running":
            if word == "canceled":
                leaving = leaving or "before"
            elif not self._begin(job):
                word, leaving = "error", "half"
        leaving = leaving or {"success": "done", "error": "half", "canceled": "before"}[word]
        {"done": job.end, "before": job.undo, "half": lambda: None}[leaving]()
        if job.result is not None and word != "success":
            job.result = Result(Verdict.RETRY, error=f"job {job.number} {word}")
        job.word = word
        job.has = None
        job.ended = self.clock.real
        self.changed()
        self.advance()

    def cancel(self, job: Job) -> bool:
        """Cancel a job, unless it runs."""
        if job.word not in ("queued", "waiting"):
            return False
        self.finish(job, "canceled")
        return True

    def delay(self, job: Job, seconds: float) -> None:
        """Let a job be ``canceling`` for a while, and run all the same."""
        if job.word in ("queued", "waiting"):
            job.word = "canceling"
            self.clock.after(seconds, partial(self._repent, job))

    def renumber(self) -> None:
        """Begin to count anew, with an empty queue; what runs goes on unseen."""
        self.former += self.open()
        self.jobs = {}
        self.newest = 0

    def at_work(self) -> frozenset[str]:
        """Return what jobs change at this moment that anybody can see in the queue."""
        jobs = (job for job in self.visible() if job.changes and job.work and not job.unreadable)
        return frozenset[str]().union(*(job.has.alone for job in jobs if job.has is not None))

    def _is_tracked(self, job: Job) -> bool:
        if job.held:
            return False
        others = [it for it in self.open() if it.word in ("waiting", "running", "canceling")]
        if job.limit is not None and sum(it.is_ours for it in others) >= job.limit:
            return False
        return len(others) < TRACKED

    def _is_free(self, job: Job) -> bool:
        wanted = job.locks()
        for other in self.open():
            if other is job:
                continue
            waits_before = other.word == "waiting" and other.number < job.number
            has = other.has or (other.locks() if waits_before else None)
            if has is not None and has.bars(wanted):
                return False
        return True

    def _start(self, job: Job) -> None:
        can = self._begin(job)
        self.changed()
        if not can:
            self.finish(job, "error")
        elif job.seconds == 0:
            self.finish(job)
        elif job.seconds is not None:
            self.clock.after(job.seconds, partial(self.finish, job))

    def _begin(self, job: Job) -> bool:
        job.word = "running"
        job.has = job.locks()
        job.started = self.clock.real
        return job.begin()

    def _repent(self, job: Job) -> None:
        if job.word == "canceling":
            job.word = "waiting"
            self.advance()
