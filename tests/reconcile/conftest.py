"""A cluster in memory, and the engine that works on it step by step."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from proj.backend import (
    BackendError,
    Feed,
    JobReport,
    Look,
    QueuedJob,
    SaysNothing,
    TryAgain,
    Unreadable,
    Verdict,
    Work,
)
from proj.ganeti.states import JOB_BLIND, LIST_ONLY, STATUS_OF_WORD
from proj.inventory.models import Cluster, Instance, Pass, Query
from proj.observation import Configuration, Evidence, Interval, JobEnd, Observation
from proj.reconcile import answers, chain, follow, look, passes
from proj.reconcile.chain import Stepper
from proj.reconcile.decide import Policy
from proj.reconcile.leases import lease
from proj.reconcile.queries import Chain
from proj.reconcile.settings import Tuning


class Clock:
    """A clock that moves when it is told to, and a little with each reading."""

    def __init__(self) -> None:
        self._now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        self._now += timedelta(milliseconds=1)
        return self._now

    def peek(self) -> datetime:
        """Return the time without letting it pass."""
        return self._now

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self._now += timedelta(seconds=seconds)


@dataclass
class Memory:
    """A backend whose truth is a dictionary: name -> the list's word."""

    clock: Clock
    truth: dict[str, str] = field(default_factory=dict)
    configuration: dict[str, Configuration] = field(default_factory=dict)
    queue: dict[int, QueuedJob] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    jobs: dict[int, str] = field(default_factory=dict)
    newest: int = 0
    foreign: dict[int, tuple[Sequence[str], bool]] = field(default_factory=dict)
    unreadable: list[Unreadable] = field(default_factory=list)
    is_down: bool = False
    is_stuck: bool = False
    unaskable: set[str] = field(default_factory=set)
    """Names about which a request of their own fails."""
    cancelled: list[int] = field(default_factory=list)
    looks: int = 0
    feeds: int = 0

    def version(self) -> str:
        if self.is_down:
            raise TryAgain("nothing listens")
        return "2"

    def look(self) -> Look:
        if self.is_down:
            raise TryAgain("nothing listens")
        self.looks += 1
        interval = Interval(self.clock(), self.clock())
        listed = tuple(
            self._seen(name, word, Evidence.LIST, interval)
            for name, word in self.truth.items()
            if name not in self.hidden
        )
        records = [*listed, *self.unreadable]
        digest = str([(item.instance, item.backend_status, item.configuration) for item in listed])
        return Look(
            interval,
            len(records),
            f"{hash(digest):x}{len(records)}",
            lambda: [(str(it.instance), hash(_print_of(it))) for it in records],
            lambda places: [records[place] for place in places],
        )

    def look_unless(self, digest: str) -> Look | Interval:
        look = self.look()
        return look.interval if look.digest == digest else look

    def feed(self, after: int | None, known: Sequence[int]) -> Feed:
        if self.is_down:
            raise TryAgain("nothing listens")
        self.feeds += 1
        begun = self.clock()
        found = {job_id: QueuedJob(job_id, True, JobEnd.LOST) for job_id in known}
        for job in self.queue.values():
            is_new = job.end is None if after is None else job.job_id > after
            if is_new or job.job_id in known:
                found[job.job_id] = job
        newest = self.newest if after is None else max([after, *found])
        return Feed(tuple(found.values()), newest, Interval(begun, self.clock()))

    def begin(self, name: str, operation: str, *, running: bool = True) -> int:
        """Put a job of somebody else's into the queue."""
        self.newest += 1
        work = (Work(name, operation),)
        self.queue[self.newest] = QueuedJob(self.newest, running, None, work)
        return self.newest

    def info(self, *names: str, static: bool = False, open: bool = False) -> int:
        """Let somebody else ask about instances by a job of their own."""
        self.newest += 1
        self.foreign[self.newest] = (names, static)
        end = None if open else JobEnd.SUCCESS
        self.queue[self.newest] = QueuedJob(self.newest, not open, end, is_query=True)
        return self.newest

    def finish(self, job_id: int, end: JobEnd = JobEnd.SUCCESS) -> None:
        """End a job; one that is lost is in the queue no more."""
        if end is JobEnd.LOST:
            del self.queue[job_id]
        else:
            self.queue[job_id] = replace(self.queue[job_id], has_started=True, end=end)

    def submit_query(self, instance: str, *, limit: int) -> int:
        if self.is_down:
            raise TryAgain("nothing listens")
        self.newest += 1
        self.jobs[self.newest] = instance
        done = JobEnd.SUCCESS if instance in self.truth else JobEnd.FAILED
        self.queue[self.newest] = QueuedJob(self.newest, True, done, is_query=True)
        return self.newest

    def poll(
        self, submitted: Mapping[int, datetime], *, evidence: Evidence = Evidence.JOB
    ) -> Sequence[JobReport]:
        if self.is_down:
            raise TryAgain("nothing listens")
        return [self._report(job_id, begun, evidence) for job_id, begun in submitted.items()]

    def cancel(self, job_id: int) -> bool:
        self.cancelled.append(job_id)
        return True

    def exists(self, instance: str) -> bool:
        if instance in self.unaskable:
            raise SaysNothing("500 Internal Server Error")
        return instance in self.truth

    def _report(self, job_id: int, begun: datetime, evidence: Evidence) -> JobReport:
        if job_id in self.foreign:
            return self._foreign(job_id, Interval(begun, self.clock()))
        if self.is_stuck:
            return JobReport(job_id, Verdict.PENDING)
        name = self.jobs[job_id]
        if name not in self.truth:
            return JobReport(job_id, Verdict.ABSENT)
        word = self.truth[name]
        word = "ERROR_down" if word == "ERROR_wrongnode" else word
        interval = Interval(begun, self.clock())
        seen = replace(self._seen(name, word, evidence, interval), job_id=job_id)
        return JobReport(job_id, Verdict.ANSWERED, (seen,))

    def _foreign(self, job_id: int, interval: Interval) -> JobReport:
        names, static = self.foreign[job_id]
        observations = [
            replace(
                self._seen(name, self.truth[name], Evidence.FOREIGN_JOB, interval), job_id=job_id
            )
            for name in names
        ]
        if static:
            observations = [replace(o, status=None, backend_status=None) for o in observations]
        return JobReport(job_id, Verdict.ANSWERED, tuple(observations))

    def _seen(self, name: str, word: str, evidence: Evidence, interval: Interval) -> Observation:
        made_of = self.configuration.get(name, Configuration(memory=4))
        return Observation(name, STATUS_OF_WORD[word], word, made_of, evidence, interval)


def _print_of(record: Observation | Unreadable) -> object:
    if isinstance(record, Unreadable):
        return record
    return (record.instance, record.backend_status, record.configuration)


@dataclass
class Engine:
    """The engine over one cluster, driven by the test instead of by workers."""

    cluster: Cluster
    backend: Memory
    clock: Clock
    policy: Policy
    tuning: Tuning = field(default_factory=Tuning)

    def run(self, kind: Pass.Kind = Pass.Kind.SWEEP, **options: object) -> Pass:
        """Request a pass and carry it to its end."""
        requested = passes.request(self.cluster, kind=kind, at=self.clock(), **options)  # type: ignore[arg-type]
        self.settle()
        requested.refresh_from_db()
        return requested

    def ask(self, name: str, **options: bool) -> Pass:
        """Request one instance, without doing anything about it yet."""
        return passes.request_instance(self.cluster, name, at=self.clock(), **options)

    def look(self) -> None:
        """Take what is due, and reconcile what it brought."""
        with lease(self.cluster.name, "look", 100, at=self.clock()) as held:
            assert held is not None
            self._reconciling(
                lambda note: look.look_at(
                    held, self.backend, self.policy, self.tuning, self.clock, note
                )
            )
        self.cluster.refresh_from_db()

    def follow(self) -> None:
        """Read the job queue, and reconcile what it brought."""
        with lease(self.cluster.name, "follow", 100, at=self.clock()) as held:
            assert held is not None
            with suppress(BackendError):
                self._reconciling(
                    lambda note: follow.follow(
                        held, self.backend, self.policy, self.tuning, self.clock, note
                    )
                )
        self.cluster.refresh_from_db()

    def step(self) -> None:
        """One step of the chain, and the reconcile tasks that it calls."""
        self._reconciling(
            lambda note: chain.step(
                Stepper(self.cluster, self.backend, self.tuning, self.clock, note)
            )
        )
        self.cluster.refresh_from_db()
        passes.close_finished(self.cluster, at=self.clock())

    def step_losing(self, lost: list[int] | None = None) -> None:
        """One step of the chain whose reconcile tasks are lost on their way."""
        chain.step(
            Stepper(
                self.cluster, self.backend, self.tuning, self.clock,
                lambda told: (lost if lost is not None else []).extend(it.pk for it in told),
            )
        )  # fmt: skip

    def _reconciling(self, work: Callable[[Chain], object]) -> None:
        answered: list[int] = []
        work(lambda told: answered.extend(query.pk for query in told))
        for key in answered:
            query = Query.objects.select_related("cluster", "pass_of").get(pk=key)
            answers.reconcile(query, self.policy, self.tuning)

    def settle(self) -> None:
        """Go on until nothing is left to do."""
        waiting = Pass.objects.filter(cluster=self.cluster).exclude(state=Pass.State.CLOSED)
        for _ in range(200):
            self.look()
            self.step()
            if not waiting.exists():
                return
            self.clock.wait(1)
        raise AssertionError("200 steps, and still passes are open")

    def recorded(self) -> dict[str, str]:
        """Return status and word of every instance."""
        rows = Instance.objects.filter(cluster=self.cluster)
        return {row.name: f"{row.status} {row.backend_status}".strip() for row in rows}


def make_engine(name: str = "alpha", **tuning: object) -> Engine:
    """Return an engine over an empty cluster."""
    clock = Clock()
    cluster = Cluster.objects.create(
        name=name, host="h", user="u", password_source="env:X", insecure=True,
        confirm_max_age=timedelta(hours=24),
    )  # fmt: skip
    policy = Policy(gone_after=timedelta(seconds=10), list_only=LIST_ONLY, job_blind=JOB_BLIND)
    return Engine(cluster, Memory(clock), clock, policy, Tuning(**tuning))  # type: ignore[arg-type]


@pytest.fixture
def engine(transactional_db: None) -> Engine:
    """An engine over an empty cluster."""
    return make_engine()


@pytest.fixture
def ten(engine: Engine) -> Engine:
    """An engine that knows ten running instances."""
    engine.backend.truth = {f"vm{number}": "running" for number in range(10)}
    assert engine.run(Pass.Kind.ALL).outcome == "reconciled"
    return engine
