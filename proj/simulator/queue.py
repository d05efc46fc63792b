"""The queue of jobs: their order, their locks, their time and their ends."""

import functools
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec, TypeVar

from proj.simulator.operations import (
    DELAY,
    LEVELS,
    JobError,
    Operation,
    begin,
    finish,
    lock_of,
    resolve,
)
from proj.simulator.truth import Json, Truth

OPEN = ("queued", "waiting", "running", "canceling")
_RATE_LIMIT = re.compile(r"rate-limit:(\d+):(.+)")

KEPT = 2000
"""More jobs than these, and those that have ended are archived."""


@dataclass(slots=True)
class Job:
    """One job of the queue: operations that are carried out one after the other."""

    number: int
    ops: list[Operation]
    received: float
    seconds: float
    """How long each of its operations takes."""
    limit: tuple[int, str] | None = None
    started: float | None = None
    ended: float | None = None
    canceling_until: float = 0.0

    @property
    def status(self) -> str:
        """What Ganeti makes of the operations' states: the first that is no success counts."""
        return next((op.status for op in self.ops if op.status != "success"), "success")

    @property
    def current(self) -> Operation:
        """The operation whose turn it is."""
        return next(op for op in self.ops if op.status in OPEN)

    @property
    def operation(self) -> dict[str, Json]:
        """The first operation, as RAPI shows it."""
        return self.ops[0].given

    @property
    def instances(self) -> set[str]:
        """Whom it names, as typed and in full."""
        return {name for op in self.ops for name in (*op.typed, *op.instances)}

    @property
    def due(self) -> float | None:
        """When the operation that runs comes to its end."""
        if self.status != "running":
            return None
        op = self.current
        lasts = float(op.given["duration"]) if op.kind == DELAY else self.seconds
        return op.began + lasts + op.delay


P = ParamSpec("P")
R = TypeVar("R")


def _alone(method: Callable[Concatenate["Queue", P], R]) -> Callable[Concatenate["Queue", P], R]:
    """Let one thread at a time be in a queue: tests change it while the server answers."""

    @functools.wraps(method)
    def guarded(queue: "Queue", /, *args: P.args, **options: P.kwargs) -> R:
        with queue._guard:
            return method(queue, *args, **options)

    return guarded


@dataclass(slots=True)
class Queue:
    """Jobs move only when somebody looks: their state follows from the time that has passed.

    Who moves the truth's clock himself calls ``advance`` before he changes anything.
    """

    truth: Truth
    seconds: float = 0.3
    """How long an operation takes."""
    parallel: int = 20
    """Jobs that wait for locks or run at once, as Ganeti's max-running-jobs."""
    jobs: dict[int, Job] = field(default_factory=dict)
    archived: dict[int, Job] = field(default_factory=dict)
    """Found by their id, and listed no more."""
    paused: bool = False
    """Jobs stay queued."""
    held: set[int] = field(default_factory=set)
    """These jobs stay queued, as by a filter."""
    unseen: set[int] = field(default_factory=set)
    """Ids that were given to jobs which cannot be seen yet, nor move."""
    stuck: bool = False
    """Jobs wait for their locks and never get them."""
    reordered: bool = False
    """Of two jobs that begin together, the later ends first."""
    canceling: float = 0.0
    """Seconds for which a waiting job, when canceled, says so; then it goes on all the same."""
    fails: dict[str, Json] = field(default_factory=dict)
    """Kinds of operations that end in an error: OP_ID -> [class, [arguments]]."""
    skew: float = 0.0
    """Seconds by which this cluster's clock is wrong."""
    next_number: int = 1
    """The id of the next job."""
    _open: dict[int, Job] = field(default_factory=dict)
    _begun: dict[int, Job] = field(default_factory=dict)
    """Those of the open ones that have left the queue."""
    _guard: Any = field(default_factory=threading.RLock, repr=False, compare=False)

    @_alone
    def submit(
        self,
        ops: dict[str, Json] | Sequence[dict[str, Json]],
        *,
        seconds: float | None = None,
        held: bool = False,
        unseen: bool = False,
    ) -> int:
        """Put a job of one operation or several into the queue and return its id."""
        given = [ops] if isinstance(ops, dict) else ops
        operations = [self._operation(op, index) for index, op in enumerate(given)]
        return self._submit(operations, seconds, held=held, unseen=unseen)

    @_alone
    def lock(self, name: str, seconds: float) -> int:
        """Lock a node or an instance by a job that names no instance."""
        is_node = name in self.truth.nodes
        given = {"OP_ID": DELAY, "duration": seconds, "on_nodes": [name] if is_node else []}
        operation = self._operation(given, 0)
        operation.instances = [] if is_node else [name]
        return self._submit([operation], seconds)

    def find(self, number: int) -> Job | None:
        """Return a job, archived or not, if it can be seen."""
        if number in self.unseen:
            return None
        return self.jobs.get(number) or self.archived.get(number)

    def listed(self) -> list[Job]:
        """Return the jobs that can be seen and are not archived."""
        return [job for number, job in list(self.jobs.items()) if number not in self.unseen]

    @_alone
    def advance(self) -> None:
        """Let every job come as far as it has come by now."""
        now = self.truth.clock()
        while True:
            due = [(job.due, job) for job in self._begun.values() if job.due is not None]
            moment, job = min(due, key=lambda pair: pair[0], default=(now, None))
            if job is None or moment > now:
                if not self._start_all(now):
                    return
            else:
                self._finish(job, moment)
                self._start_all(moment)

    @_alone
    def cancel(self, number: int) -> bool:
        """Cancel a job that does not run yet."""
        job = self._open.get(number)
        if job is None or job.status == "running":
            return False
        if self.canceling and job.status != "queued":
            job.current.status = "canceling"
            job.canceling_until = self.truth.clock() + self.canceling
        else:
            result = None if job.status == "queued" else "Job canceled by request"
            self._close(job, "canceled", result, self.truth.clock())
        return True

    @_alone
    def end(self, number: int, status: str = "success", result: Json = None) -> None:
        """End an open job now: in success, error, canceled, or "dead" as its process."""
        job, now = self._open[number], self.truth.clock()
        job.started = now if job.started is None else job.started
        if status == "dead":
            self._close(job, "error", f"detected death of job {number}", now)
        elif status == "success":
            while number in self._open:
                self._finish(job, now)
        else:
            self._close(job, status, result, now)

    @_alone
    def lose(self, number: int) -> None:
        """Forget a job, open or not, as a purge or a new master does."""
        for jobs in (self._open, self._begun, self.jobs, self.archived):
            jobs.pop(number, None)

    @_alone
    def archive(self, number: int | None = None) -> None:
        """Archive a job, open or not, or whatever has ended: found by its id, listed no more."""
        ended = [job.number for job in self.jobs.values() if job.status not in OPEN]
        for found in ended if number is None else [number]:
            self.archived[found] = self.jobs.pop(found)

    @_alone
    def purge(self) -> None:
        """Forget whatever is archived, as Ganeti does after three weeks."""
        self.archived.clear()

    @_alone
    def begin_anew(self) -> None:
        """Empty the queue: the ids begin at 1 again."""
        for jobs in (self._open, self._begun, self.jobs, self.archived):
            jobs.clear()
        self.held.clear()
        self.unseen.clear()
        self.next_number = 1

    @_alone
    def move_master(self, by: int = 1000) -> None:
        """Let another node be master: what had begun dies half done, and the ids jump."""
        for number in list(self._begun):
            self.end(number, "dead")
        self.truth.move_master()
        self.next_number += by

    def _operation(self, given: dict[str, Json], index: int) -> Operation:
        word = given["OP_ID"].removeprefix("OP_").lower()
        trail = [f"gnt:opcode:{word}", f"job={self.next_number};index={index}", time.time_ns()]
        defaults = {"priority": 0, "depends": None, "comment": None}
        return Operation(defaults | given | {"reason": [*given.get("reason", ()), trail]})

    def _submit(
        self,
        operations: list[Operation],
        seconds: float | None,
        *,
        held: bool = False,
        unseen: bool = False,
    ) -> int:
        self.advance()
        number = self.next_number
        self.next_number += 1
        if seconds is None:
            seconds = self.seconds * (1 + number % 2) if self.reordered else self.seconds
        job = Job(number, operations, self.truth.clock(), seconds, _limit_of(operations))
        self.jobs[number] = self._open[number] = job
        if held:
            self.held.add(number)
        if unseen:
            self.unseen.add(number)
        self.advance()
        if len(self.jobs) > KEPT:
            self.archive()
        return number

    def _start_all(self, at: float) -> bool:
        """Let jobs leave the queue and get locks, and return whether any did."""
        visible = [job for number, job in self._open.items() if number not in self.unseen]
        return sum(self._start(job, at) for job in visible) > 0

    def _start(self, job: Job, at: float) -> bool:
        op = job.current
        if op.status == "canceling" and job.canceling_until <= at:
            op.status = "waiting"
        if op.status == "queued":
            if job.started is None and not self._may_leave(job, at):
                return False
            op.status, job.started = "waiting", at if job.started is None else job.started
            self._begun[job.number] = job
            return self._try(job, resolve, at)
        if op.status != "waiting" or self.stuck or not self._gets_locks(job, op):
            return False
        op.status, op.began = "running", at
        return self._try(job, begin, at)

    def _may_leave(self, job: Job, at: float) -> bool:
        if self.paused or job.number in self.held:
            return False
        for number, ends in job.operation["depends"] or ():
            other = self.find(number)
            if other is not None and other.status in OPEN:
                return False
            if other is not None and other.status not in ends:
                self._close(job, "canceled", None, at)
                return False
        alike = sum(other.limit == job.limit for other in self._begun.values())
        within = job.limit is None or alike < job.limit[0]
        return within and len(self._begun) < self.parallel

    def _gets_locks(self, job: Job, op: Operation) -> bool:
        others = [other.current.held for other in self._begun.values() if other is not job]
        while len(op.held) < LEVELS:
            level, lock = len(op.held), lock_of(self.truth, op)
            if any(lock.excludes(held[level]) for held in others if len(held) > level):
                return False
            op.held.append(lock)
        return True

    def _try(self, job: Job, step: Callable[[Truth, Operation], None], at: float) -> bool:
        try:
            step(self.truth, job.current)
        except JobError as error:
            self._fail(job, error, at)
        return True

    def _finish(self, job: Job, at: float) -> None:
        op = job.current
        try:
            if op.status != "running":
                resolve(self.truth, op)
                begin(self.truth, op)
            if op.kind in self.fails:
                kind, arguments = self.fails[op.kind]
                raise JobError(kind, *arguments)
            op.result = finish(self.truth, op)
        except JobError as error:
            self._fail(job, error, at)
            return
        op.status = "success"
        op.held.clear()
        if job.status == "success":
            self._close(job, "success", None, at)

    def _fail(self, job: Job, error: JobError, at: float) -> None:
        op = job.current
        op.status, op.result = "error", error.result
        self._close(job, "error", ["OpExecError", ["Preceding opcode failed"]], at)

    def _close(self, job: Job, status: str, result: Json, at: float) -> None:
        """End a job, and give what is left of it this status and this result."""
        for op in job.ops:
            if op.status in OPEN:
                op.status, op.result = status, result
        job.ended = at
        self._open.pop(job.number, None)
        self._begun.pop(job.number, None)


def _limit_of(operations: Sequence[Operation]) -> tuple[int, str] | None:
    texts = [text for op in operations for _, text, _ in op.given["reason"]]
    matches = [match for text in texts if (match := _RATE_LIMIT.fullmatch(text))]
    return (int(matches[0][1]), matches[0][2]) if matches else None
