"""The queue of jobs: their order, their time and their ends."""

import re
import time
from dataclasses import dataclass, field

from proj.simulator.truth import Effect, Job, JobError, Json, Truth, beginning_of, effect_of

OPEN = ("queued", "waiting", "running", "canceling")
_RATE_LIMIT = re.compile(r"rate-limit:(\d+):(.+)")


KEPT = 2000
"""More jobs than these, and those that have ended are archived."""


@dataclass(slots=True)
class Queue:
    """Jobs move only when somebody looks: their state follows from the time that has passed."""

    truth: Truth
    seconds: float = 0.3
    """How long a job takes."""
    parallel: int = 20
    """Jobs that run at once, as Ganeti's max-running-jobs."""
    jobs: dict[int, Job] = field(default_factory=dict)
    archived: dict[int, Job] = field(default_factory=dict)
    """Found by their id, and listed no more."""
    paused: bool = False
    """Jobs stay queued."""
    stuck: bool = False
    """Jobs wait for their locks and never get them."""
    reordered: bool = False
    """Of two jobs that begin together, the later ends first."""
    skew: float = 0.0
    """Seconds by which this cluster's clock is wrong."""
    _open: dict[int, Job] = field(default_factory=dict)
    _next: int = 1

    def submit(self, operation: dict[str, Json]) -> int:
        """Put a job into the queue and return its id."""
        number = self._next
        self._next += 1
        seconds = self.seconds * (1 + number % 2) if self.reordered else self.seconds
        job = Job(number, operation, received=time.monotonic(), seconds=seconds)
        self.jobs[number] = self._open[number] = job
        self.advance()
        self._tidy_up()
        return number

    def find(self, number: int) -> Job | None:
        """Return a job, archived or not."""
        return self.jobs.get(number) or self.archived.get(number)

    def advance(self) -> None:
        """Let every job come as far as it has come by now."""
        now = time.monotonic()
        for job in list(self._open.values()):
            due = None if job.started is None else job.started + job.seconds
            if job.status == "running" and due is not None and due <= now:
                self._end(job, due)
        if self.paused:
            return
        for job in list(self._open.values()):
            if job.status == "queued" and self.stuck:
                job.status = "waiting"
            elif job.status in ("queued", "waiting") and not self.stuck and self._may_start(job):
                self._start(job, now)

    def cancel(self, number: int) -> bool:
        """Cancel a job that does not run yet."""
        job = self._open.get(number)
        if job is None or job.status == "running":
            return False
        job.result = None if job.status == "queued" else "Job canceled by request"
        self._close(job, "canceled", time.monotonic())
        return True

    def lose(self, number: int) -> None:
        """Forget a job, as a purge or a new master does."""
        for jobs in (self._open, self.jobs, self.archived):
            jobs.pop(number, None)

    def archive(self) -> None:
        """Archive whatever has ended: it is found by its id, and listed no more."""
        for job in [job for job in self.jobs.values() if job.status not in OPEN]:
            self.archived[job.number] = self.jobs.pop(job.number)

    def purge(self) -> None:
        """Forget whatever is archived, as Ganeti does after three weeks."""
        self.archived.clear()

    def move_master(self, by: int = 1000) -> None:
        """Let another node be master: running jobs die half done, and the ids jump."""
        for job in list(self._open.values()):
            if job.status == "running":
                job.result = f"detected death of job {job.number}"
                self._close(job, "error", time.monotonic())
        self.truth.move_master()
        self._next += by

    def _may_start(self, job: Job) -> bool:
        running = [other for other in self._open.values() if other.status == "running"]
        if len(running) >= self.parallel:
            return False
        limit = _limit_of(job)
        if limit is not None and sum(_limit_of(other) == limit for other in running) >= limit[0]:
            return False
        if job.reads_only and job.operation["static"]:
            return True
        return not any(_exclude_each_other(job, other) for other in running)

    def _start(self, job: Job, at: float) -> None:
        job.status, job.started = "running", at
        if self._carry_out(job, beginning_of(job.operation["OP_ID"]), at) and job.seconds <= 0:
            self._end(job, at)

    def _end(self, job: Job, at: float) -> None:
        if self._carry_out(job, effect_of(job.operation["OP_ID"]), at):
            self._close(job, "success", at)

    def _carry_out(self, job: Job, effect: Effect, at: float) -> bool:
        try:
            job.result = effect(self.truth, job)
        except JobError as error:
            kind, *arguments = error.args
            job.result = [kind, arguments]
            self._close(job, "error", at)
            return False
        return True

    def _close(self, job: Job, status: str, at: float) -> None:
        job.status, job.ended = status, at
        self._open.pop(job.number, None)

    def _tidy_up(self) -> None:
        if len(self.jobs) > KEPT:
            self.archive()


def _exclude_each_other(job: Job, other: Job) -> bool:
    if job.reads_only and other.reads_only:
        return False
    is_of_all = not job.instances or not other.instances
    return is_of_all or not set(job.instances).isdisjoint(other.instances)


def _limit_of(job: Job) -> tuple[int, str] | None:
    for _, text, _ in job.operation.get("reason", ()):
        match = _RATE_LIMIT.fullmatch(text)
        if match:
            return int(match[1]), match[2]
    return None
