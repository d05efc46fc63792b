"""The queue of jobs: their order, their time and their ends."""

import re
import time
from dataclasses import dataclass, field

from proj.simulator.truth import Job, JobError, Json, Truth, effect_of

OPEN = ("queued", "waiting", "running", "canceling")
_RATE_LIMIT = re.compile(r"rate-limit:(\d+):(.+)")


@dataclass(slots=True)
class Queue:
    """Jobs move only when somebody looks: their state follows from the time that has passed."""

    truth: Truth
    seconds: float = 0.3
    """How long a job takes."""
    parallel: int = 20
    """Jobs that run at once, as Ganeti's max-running-jobs."""
    jobs: dict[int, Job] = field(default_factory=dict)
    stuck: bool = False
    """Jobs wait for their locks and never get them."""
    skew: float = 0.0
    """Seconds by which this cluster's clock is wrong."""
    _open: dict[int, Job] = field(default_factory=dict)
    _next: int = 1

    def submit(self, operation: dict[str, Json]) -> int:
        """Put a job into the queue and return its id."""
        number = self._next
        self._next += 1
        job = Job(number, operation, received=time.monotonic(), seconds=self.seconds)
        self.jobs[number] = self._open[number] = job
        self.advance()
        return number

    def advance(self) -> None:
        """Let every job come as far as it has come by now."""
        now = time.monotonic()
        for job in list(self._open.values()):
            due = None if job.started is None else job.started + job.seconds
            if job.status == "running" and due is not None and due <= now:
                self._end(job, due)
        if self.stuck:
            for job in self._open.values():
                if job.status == "queued":
                    job.status = "waiting"
            return
        for job in list(self._open.values()):
            if job.status in ("queued", "waiting") and self._may_start(job):
                job.status, job.started = "running", now
                if job.seconds <= 0:
                    self._end(job, now)

    def cancel(self, number: int) -> bool:
        """Cancel a job that does not run yet."""
        job = self._open.get(number)
        if job is None or job.status == "running":
            return False
        job.result = "Job canceled by request"
        self._close(job, "canceled", time.monotonic())
        return True

    def lose(self, number: int) -> None:
        """Forget a job, as a purge or a new master does."""
        self._open.pop(number, None)
        self.jobs.pop(number, None)

    def archive(self) -> None:
        """Archive whatever has ended: it is found by its id, and listed no more."""
        for job in self.jobs.values():
            job.archived = job.status not in OPEN

    def move_master(self, by: int = 1000) -> None:
        """Let another node be master: running jobs die, and the ids jump."""
        for job in list(self._open.values()):
            if job.status == "running":
                job.result = f"detected death of job {job.number}"
                self._close(job, "error", time.monotonic())
        self._next += by

    def _may_start(self, job: Job) -> bool:
        running = [other for other in self._open.values() if other.status == "running"]
        if len(running) >= self.parallel:
            return False
        limit = _limit_of(job)
        if limit is not None and sum(_limit_of(other) == limit for other in running) >= limit[0]:
            return False
        if job.operation["OP_ID"] == "OP_INSTANCE_QUERY_DATA" and job.operation["static"]:
            return True
        mine = set(job.instances)
        return not any(mine & set(other.instances) for other in running)

    def _end(self, job: Job, at: float) -> None:
        try:
            job.result = effect_of(job.operation["OP_ID"])(self.truth, job)
            self._close(job, "success", at)
        except JobError as error:
            kind, *arguments = error.args
            job.result = [kind, arguments]
            self._close(job, "error", at)

    def _close(self, job: Job, status: str, at: float) -> None:
        job.status, job.ended = status, at
        self._open.pop(job.number, None)


def _limit_of(job: Job) -> tuple[int, str] | None:
    for _, text, _ in job.operation.get("reason", ()):
        match = _RATE_LIMIT.fullmatch(text)
        if match:
            return int(match[1]), match[2]
    return None
