"""The mirror of a cluster's open jobs, and how far its queue has been read."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from django.db.models import F

from proj.backend import JobState, QueuedJob, Reading
from proj.inventory.models import Cluster, Instance, Job
from proj.observation import Interval, Status
from proj.reconcile import harvest, rows
from proj.reconcile.decide import Policy
from proj.reconcile.settings import Tuning

MOST = 300
"""Results of others' queries that wait to be read; older ones are forgotten, and counted."""


class Mirror:
    """The mirror of a cluster's jobs while a reading is applied to it."""

    def __init__(self, cluster: Cluster, reading: Reading, before: Interval | None) -> None:
        self._cluster, self._reading, self._before = cluster, reading, before
        self._jobs = {
            job.job_id: job
            for job in Job.objects.select_for_update().filter(cluster=cluster).order_by("pk")
            if job.job_id is not None
        }
        self._announced = [
            job for job in Job.objects.filter(cluster=cluster, job_id=None) if job.announced
        ]
        self._ended: list[Job] = []

    def update(self) -> None:
        """Bring every job that the reading shows up to date."""
        read = {job.job_id: job for job in self._reading.jobs}
        changed = []
        for job_id, seen in read.items():
            row = self._jobs.get(job_id)
            if row is None:
                if not (seen.work or seen.is_query or seen.is_ours):
                    continue
                row = self._first_seen(seen)
            was_open = row.state in rows.OPEN
            self._bring(row, seen)
            changed.append(row)
            if was_open and not seen.is_open:
                self._ended.append(row)
        gone = [] if not self._reading.is_whole else self._unseen(read)
        for row in gone:
            row.state = JobState.UNKNOWN.value
            self._ended.append(row)
        self._resolve(changed)
        _save(changed + gone)

    def _first_seen(self, seen: QueuedJob) -> Job:
        row = Job(
            cluster=self._cluster, job_id=seen.job_id, epoch=self._cluster.epoch,
            state=JobState.QUEUED.value, names=[], uuids=[],
            seen_first=self._reading.interval.not_after,
            unstarted_at=self._unstarted(seen.job_id),
        )  # fmt: skip
        self._jobs[seen.job_id] = row
        return row

    def _unstarted(self, job_id: int) -> datetime | None:
        """Return when a job that is new was known not to have begun: it was not there yet.

        Unless the last reading did not ask for it, as the place in the queue was beyond it, or it
        may have been one of those that could not be read.
        """
        after = self._cluster.feed_after
        if self._before is None or after is None or job_id <= after:  # guard
            return None
        if self._cluster.unreadable_jobs:  # guard
            return None
        return self._before.not_before

    def _bring(self, row: Job, seen: QueuedJob) -> None:
        interval = self._reading.interval
        row.state, row.seen_last = seen.state.value, interval.not_before
        row.is_query = seen.is_query
        # Very old masters drop the label; an id that was ours once may be anybody's.
        row.is_ours = seen.is_ours or (row.is_ours and seen.is_query)
        if row.epoch != self._cluster.epoch or not row.seen_first <= interval.not_after:  # guard
            row.seen_first, row.running_since = interval.not_after, None
        row.epoch, row.announced = self._cluster.epoch, False
        if seen.work:
            row.work = [[it.instance, it.operation, it.status] for it in seen.work]
            row.names = sorted({*rows.texts(row.names), *(it.instance for it in seen.work)})
        if seen.state is JobState.RUNNING and row.running_since is None:
            row.running_since = interval.not_after
        if seen.state in (JobState.QUEUED, JobState.WAITING):
            row.unstarted_at, row.running_since = interval.not_before, None

    def _unseen(self, read: Iterable[int]) -> list[Job]:
        """Return what is mirrored as open, and is not among all open jobs, nor told by its id.

        One that was asked for is told, if only as unknown: this is what was not asked for.
        """
        seen = set(read)
        return [
            row
            for job_id, row in self._jobs.items()
            if row.state in rows.OPEN
            and job_id not in seen
            and row.seen_last < self._reading.interval.not_before  # guard
        ]

    def _resolve(self, changed: Sequence[Job]) -> None:
        """Note the uuids of the instances that the jobs name now."""
        names = {name for row in changed for name in rows.texts(row.names)}
        if not names:
            return
        living = Instance.objects.filter(cluster=self._cluster, name__in=names).exclude(uuid=None)
        uuids = {row.name: row.uuid for row in living.exclude(status=Status.DELETED).order_by("pk")}
        for row in changed:
            current = {name for name, _, _ in rows.works_of(row)}
            found = {uuids[name] for name in current if name in uuids}
            row.uuids = sorted({*rows.texts(row.uuids), *found})

    def ended(self) -> list[Job]:
        """Return the jobs whose end is new."""
        return self._ended

    def touched(self, jobs: Iterable[Job]) -> set[tuple[str, bool]]:
        """Return the instances of jobs, as pairs of a name or uuid and whether it is a uuid."""
        found: set[tuple[str, bool]] = set()
        for job in jobs:
            if not job.is_query:
                found |= {(name, False) for name in rows.texts(job.names)}
                found |= {(uuid, True) for uuid in rows.texts(job.uuids)}
        return found

    def works(self) -> list[Job]:
        """Return the open jobs that work on instances."""
        return [row for row in self._jobs.values() if row.state in rows.OPEN and not row.is_query]

    def index(self) -> rows.JobsByInstance:
        """Return the open jobs, and the announced ones, by instance."""
        return rows.JobsByInstance([*self.works(), *self._announced])

    def forget(self, tuning: Tuning) -> None:
        """Forget jobs that are over, unless the feed's place has not passed them yet.

        The results of others' queries are kept until they were read, the newest of them.
        """
        after, _ = place(self._cluster, self._reading, tuning)
        read = {job.job_id for job in self._reading.jobs if job.state is not JobState.UNKNOWN}
        to_be_read = [row for row in self._jobs.values() if harvest.is_to_be_read(row)]
        kept = {row.pk for row in sorted(to_be_read, key=lambda row: -(row.job_id or 0))[:MOST]}
        if len(to_be_read) > MOST:
            lost = len(to_be_read) - MOST
            Cluster.objects.filter(pk=self._cluster.pk).update(set_aside=F("set_aside") + lost)
        over = [
            row.pk
            for job_id, row in self._jobs.items()
            if row.state not in rows.OPEN
            and (after is None or job_id <= after or job_id not in read)
            and row.pk not in kept
        ]
        Job.objects.filter(pk__in=over).delete()

    def end_announcements(self, policy: Policy, *, at: datetime) -> list[Job]:
        """An announcement lasts until a job on the instance shows, or none does for too long.

        Returns:
            Those of the second kind: like any job that the queue does not know, they are over.
        """
        over, unseen = [], []
        for it in self._announced:
            is_shown = any(
                row.seen_first >= it.seen_first
                and not row.is_query
                and not set(rows.texts(row.names)).isdisjoint(rows.texts(it.names))
                for row in self._jobs.values()
            )
            is_late = not it.seen_first <= at <= it.seen_first + policy.proof_within
            if is_shown or is_late:
                over.append(it)
            if is_late and not is_shown:
                unseen.append(it)
        Job.objects.filter(pk__in=[it.pk for it in over]).delete()
        self._announced = [it for it in self._announced if it not in over]
        return unseen


def _save(jobs: Sequence[Job]) -> None:
    Job.objects.bulk_create(
        jobs,
        batch_size=500,
        update_conflicts=True,
        unique_fields=["cluster", "job_id"],
        update_fields=[
            "state", "work", "names", "uuids", "is_query", "is_ours", "announced", "epoch",
            "seen_first", "seen_last", "running_since", "unstarted_at",
        ],
    )  # fmt: skip


def place(cluster: Cluster, reading: Reading, tuning: Tuning) -> tuple[int | None, datetime | None]:
    """Return up to which job all were seen, and since when the one after it is missing.

    An id is passed when every lower one was seen, or was missing for long: ids are given before
    the jobs can be seen. A place above the highest id there is belongs to another queue.
    """
    after, highest = cluster.feed_after, reading.highest
    if after is None or (highest is not None and highest < after):
        return highest, None
    seen = sorted(
        job.job_id
        for job in reading.jobs
        if job.job_id > after and job.state is not JobState.UNKNOWN
    )
    at, since = reading.interval.not_after, cluster.feed_gap_since
    for job_id in seen:
        if job_id != after + 1:
            break
        after = job_id
    if not seen or seen[-1] == after:
        return after, None
    if since is None or since > at or after != cluster.feed_after:
        return after, at
    if at - since >= timedelta(seconds=tuning.gap):
        return seen[-1], None
    return after, since
