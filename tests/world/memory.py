"""The backend: what one connection to a cluster of the world answers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, NoReturn, TypeVar

from proj.backend import (
    Found,
    JobReport,
    JobState,
    Look,
    QueuedJob,
    Reading,
    SaysNothing,
    Submitted,
    TryAgain,
    Unreadable,
    Verdict,
)
from proj.ganeti.states import STATUS_OF_WORD
from proj.names import is_instance_name
from proj.observation import Configuration, Interval, Observation
from tests.world.faults import ACTS, PATIENCE, SLOW, Fault, error_of
from tests.world.queue import STATES, Job, Seen

if TYPE_CHECKING:
    from tests.world.world import World

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request that was sent."""

    method: str
    about: object
    at: datetime
    """In real time."""


class Memory:
    """Implements ``proj.backend.Backend`` without a socket."""

    def __init__(self, world: "World") -> None:
        self.world = world

    def version(self) -> str:
        """Return the version of RAPI's protocol."""
        return self._ask("version", None, lambda: "2")[0]

    def look(self) -> Look:
        """Read all instances."""
        look = self.look_unless("")
        assert isinstance(look, Look)
        return look

    def look_unless(self, digest: str) -> Look | Interval:
        """Read all instances, unless the list is the one of this digest."""
        delay = max((node.hangs for node in self.world.truth.nodes.values()), default=0.0)
        rows, interval = self._ask("look", digest, self._list, delay=min(delay, 60.0))
        look = _look_of(rows, interval)
        return interval if look.digest == digest else look

    def read_queue(self, after: int | None, known: Sequence[int], *, whole: bool) -> Reading:
        """Read the queue."""
        highest, begun = None, None
        if whole:
            highest, first = self._ask("highest", None, self._highest)
            begun = first.not_before

        def read() -> tuple[list[QueuedJob], int]:
            return self._jobs(after, set(known), whole=whole)

        (jobs, unreadable), last = self._ask("read_queue", (after, tuple(known)), read)
        interval = _interval(begun or last.not_before, last.not_after)
        return Reading(tuple(jobs), interval, highest, unreadable)

    def submit_query(self, instance: str, *, limit: int) -> Submitted:
        """Issue a query job of ours."""
        if instance in self.world.faults.unaskable:
            self._ask("submit_query", instance, lambda: None)
            raise SaysNothing(f"{instance}: 500")
        ask = self.world.queries
        job_id, interval = self._ask("submit_query", instance, lambda: ask.ours(instance, limit))
        return Submitted(job_id, interval.not_before)

    def poll(self, submitted: Mapping[int, datetime]) -> Sequence[JobReport]:
        """Read how far these jobs have come."""
        faults = self.world.faults
        if faults.hanging & submitted.keys():
            self._fail("poll", tuple(submitted), Fault.HANG)
        if faults.unfetchable & submitted.keys():
            self._fail("poll", tuple(submitted), Fault.SERVER_ERROR)
        states, interval = self._ask("poll", tuple(submitted), lambda: self._states(submitted))
        return [
            self._report(job_id, job, word, submitted[job_id], interval.not_after)
            for job_id, job, word in states
        ]

    def cancel(self, job_id: int) -> bool:
        """Cancel a job, where the user may write."""

        def cancel() -> bool:
            job = self._visible().get(job_id)
            if job is None or self.world.faults.read_only:
                return False
            if not job.is_ours:
                self.world.harm.append(f"canceled job {job_id}, which is not ours")
            return self.world.queue.cancel(job)

        return self._ask("cancel", job_id, cancel)[0]

    def find(self, instance: str) -> Found | None:
        """Ask who answers to a name."""
        if instance in self.world.faults.unaskable:
            self._ask("find", instance, lambda: None)
            raise SaysNothing(f"{instance}: 500")
        if self.world.faults.of("find", self.world.clock.real.timestamp()) is Fault.NOT_FOUND:
            # Nobody can tell a wrong path from a name that is not there.
            self._log("find", instance)
            return None
        found, _ = self._ask("find", instance, lambda: self._found(instance))
        return found

    def _ask(
        self, method: str, about: object, answer: Callable[[], T], *, delay: float = 0.0
    ) -> tuple[T, Interval]:
        world = self.world
        begun = self._log(method, about)
        fault = world.faults.of(method, world.clock.real.timestamp())
        seconds = (world.faults.latency + delay) / 2
        if fault is None or fault in ACTS:
            world.clock.wait(seconds)
            result = answer()
            world.clock.wait(seconds)
        if fault is not None:
            world.clock.wait(PATIENCE if fault in SLOW else 0)
            raise error_of(fault)
        interval = _interval(begun, world.clock())
        world.touched(method)
        return result, interval

    def _fail(self, method: str, about: object, fault: Fault) -> NoReturn:
        self._log(method, about)
        self.world.clock.wait(PATIENCE if fault in SLOW else 0)
        raise error_of(fault)

    def _log(self, method: str, about: object) -> datetime:
        """Note that a request is sent, and return when."""
        world = self.world
        world.touch(method)
        sent = world.clock()
        world.requests.append(Asked(method, about, world.clock.real))
        return sent

    def _list(self) -> list["_Row"]:
        world, faults = self.world, self.world.faults
        rows: list[_Row] = []
        for machine in world.truth.machines.values():
            if faults.empty or machine.name in faults.missing:
                continue
            has_uuid = not faults.no_uuids and machine.name not in faults.uuidless
            word = machine.strange_word or world.truth.listed(machine)
            row = _Row(
                machine.name,
                machine.uuid if has_uuid else None,
                word,
                machine.configuration,
                machine.name in faults.unreadable
                or word not in STATUS_OF_WORD
                or not is_instance_name(machine.name),
            )
            rows += [row, row] if machine.name in faults.twice else [row]
        rows += [_Row("", None, "", Configuration(), True)] * faults.nameless
        if faults.reversed:
            rows.reverse()
        return rows if faults.keeps is None else rows[: faults.keeps]

    def _found(self, instance: str) -> Found | None:
        machine = self.world.truth.expand(instance)
        if machine is None:
            return None
        return Found(machine.name, None if self.world.faults.no_uuids else machine.uuid)

    def _visible(self) -> dict[int, Job]:
        return {job.number: job for job in self.world.queue.visible()}

    def _highest(self) -> int:
        return max((it.number for it in self.world.queue.visible() if not it.archived), default=0)

    def _jobs(
        self, after: int | None, known: set[int], *, whole: bool
    ) -> tuple[list[QueuedJob], int]:
        visible = self._visible()
        wanted = set(known)
        for number, job in visible.items():
            is_new = after is not None and number > after
            if not job.archived and (is_new or (whole and job.is_open)):
                wanted.add(number)
        jobs = {number: visible.get(number) for number in sorted(wanted)}
        unreadable = sum(job is not None and job.unreadable for job in jobs.values())
        readable = [
            _queued(number, job)
            for number, job in jobs.items()
            if job is None or not job.unreadable
        ]
        return readable, unreadable

    def _states(self, numbers: Iterable[int]) -> list[tuple[int, Job | None, str]]:
        visible = self._visible()
        jobs = ((number, visible.get(number)) for number in numbers)
        return [(number, job, job.word if job else "") for number, job in jobs]

    def _report(
        self,
        job_id: int,
        job: Job | None,
        word: str,
        begun: datetime,
        answered: datetime,
    ) -> JobReport:
        if job is None:
            return JobReport(job_id, Verdict.LOST, error=f"job {job_id} is lost")
        if STATES[word] is not JobState.ENDED:
            is_unstarted = STATES[word] in (JobState.QUEUED, JobState.WAITING)
            return JobReport(job_id, Verdict.PENDING, is_unstarted=is_unstarted)
        if word == "canceled":
            return JobReport(job_id, Verdict.RETRY, error=f"job {job_id} was canceled")
        if not job.is_query or job.result is None or job_id in self.world.faults.garbled:
            return JobReport(job_id, Verdict.FAILED, error=f"job {job_id}: it cannot be read")
        if begun > answered:
            return JobReport(job_id, Verdict.FAILED, error=f"job {job_id}: ended before it began")
        result = job.result
        if result.verdict is not Verdict.ANSWERED:
            return JobReport(job_id, result.verdict, error=result.error)
        bad = [seen for seen in result.seen if seen.name in self.world.faults.unreadable]
        return JobReport(
            job_id,
            Verdict.ANSWERED,
            tuple(
                self._observation(seen, Interval(begun, answered), job_id)
                for seen in result.seen
                if seen not in bad
            ),
            tuple(Unreadable(seen.name, "a NIC of 7 fields", seen.uuid) for seen in bad),
        )

    def _observation(self, seen: Seen, interval: Interval, job_id: int) -> Observation:
        return Observation(
            instance=seen.name,
            status=None if seen.word is None else STATUS_OF_WORD[seen.word],
            backend_status=seen.word,
            configuration=seen.configuration,
            interval=interval,
            job_id=job_id,
            uuid=None if self.world.faults.no_uuids else seen.uuid,
        )


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    uuid: str | None
    word: str
    configuration: Configuration
    is_bad: bool


def _look_of(rows: Sequence[_Row], interval: Interval) -> Look:
    return Look(
        interval=interval,
        size=len(rows),
        digest=sha256(repr(rows).encode()).hexdigest(),
        prints=lambda: [(row.name, row.uuid, hash(row)) for row in rows],
        read=lambda places: [_read(rows[place], interval) for place in places],
    )


def _read(row: _Row, interval: Interval) -> Observation | Unreadable:
    if row.is_bad:
        return Unreadable(row.name or None, "it is of an unknown shape", row.uuid)
    return Observation(
        instance=row.name,
        status=STATUS_OF_WORD[row.word],
        backend_status=row.word,
        configuration=row.configuration,
        interval=interval,
        uuid=row.uuid,
    )


def _queued(number: int, job: Job | None) -> QueuedJob:
    if job is None:
        return QueuedJob(number, JobState.UNKNOWN)
    is_query = job.is_query and job.opcodes == 1
    return QueuedJob(number, STATES[job.word], job.work, is_query, job.is_ours)


def _interval(begun: datetime, ended: datetime) -> Interval:
    if ended < begun:
        raise TryAgain("the clock went back while the answer was awaited")
    return Interval(begun, ended)
