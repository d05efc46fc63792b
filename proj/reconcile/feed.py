"""FEED: read the cluster's job queue, and bring the mirror of its open jobs up to date.

A reading is applied whole, by one transaction, and only in the turn in which it was read: it began
after the last one that was. Its place in the queue is a hint: what is mirrored is asked for by its
id, and every so often all open jobs are read.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import connection, transaction
from django.db.models import Q

from proj.backend import BackendError, Busy, JobState, Misconfigured, Reading
from proj.inventory.models import Cluster, Instance, Job, Priority, Question, Request
from proj.observation import Interval, Status
from proj.reconcile import harvest, holds, questions, requests, rows, turns
from proj.reconcile.context import Context, backoff
from proj.reconcile.decide import Listed, Policy, QueueRead
from proj.reconcile.mirror import Mirror, place
from proj.reconcile.questions import Wanted
from proj.reconcile.record import Item, record
from proj.reconcile.resolve import name_announced
from proj.reconcile.settings import Tuning
from proj.reconcile.turns import Turn, turn

SOURCE = "queue"
LISTS = "lists"

KNOWN_AT_ONCE = 200
"""Mirrored jobs that one reading asks for by their ids; further ones wait for the next."""
MANY = 500
"""While more jobs than these are mirrored, all open ones are read each time."""
SETTLED_AT_ONCE = 500
"""Instances on which two lists agree that one reading settles; the others wait for the next."""


def follow(name: str, context: Context) -> bool:
    """Read what became of the queue, and settle what it shows; safe to call at any time.

    Returns:
        Whether anything is to be asked now.
    """
    tuning = context.tuning
    with turn(name, "follow", tuning.follow_lease, now=context.now) as held:
        if held is None or held.cluster.paused:
            return False
        if not turns.is_due(held.cluster.next_follow_at, tuning, at=held.at):
            return False
        try:
            # Before the first reading of an epoch nothing is issued.
            is_first = held.cluster.read is None
            is_asked = _follow(held, context) or is_first
        except BackendError as error:
            _failed(held, error, tuning, at=context.now())
            return False
    policy = context.policy_of(held.cluster)
    return harvest.harvest(held.cluster, context, policy) or is_asked


def due(tuning: Tuning, *, at: datetime) -> list[str]:
    """Return the clusters whose queue is to be read."""
    mine = Cluster.objects.filter(turns.due("follow", tuning, at=at))
    return list(mine.values_list("name", flat=True))


def _follow(held: Turn, context: Context) -> bool:
    cluster, memo, tuning = held.cluster, held.memo, context.tuning
    backend = context.connect(cluster)
    if cluster.is_failing:
        backend.version()
    is_quiet = _is_quiet(cluster)
    open_jobs = Job.objects.filter(cluster=cluster, state__in=rows.OPEN).exclude(job_id=None)
    mirrored = [] if is_quiet else list(open_jobs)
    is_whole = (
        cluster.feed_after is None
        or not memo.has_read
        or len(mirrored) > MANY
        or cluster.feeds % max(1, tuning.whole_reading_each) == 0
    )
    oldest = sorted(mirrored, key=lambda job: job.seen_last)[:KNOWN_AT_ONCE]
    known = [job.job_id for job in oldest if job.job_id is not None]
    reading = backend.read_queue(cluster.feed_after, known, whole=is_whole)
    memo.has_read = True
    at = context.now()
    if is_quiet and not any(job.work or job.is_query or job.is_ours for job in reading.jobs):
        held.values |= _read(cluster, reading, tuning, at=at)
        return False
    with transaction.atomic():
        return held.lock() and _apply(cluster, reading, context, at=at)


def _is_quiet(cluster: Cluster) -> bool:
    """Whether nothing waits for a reading: no job, no difference, no question, no request."""
    wheres = {
        Job: "TRUE",
        Instance: "differs_since IS NOT NULL",
        Question: "TRUE",
        Request: "state = 'open'",
    }
    exist = " OR ".join(
        f"EXISTS (SELECT 1 FROM {model._meta.db_table} WHERE cluster_id = %s AND ({where}))"
        for model, where in wheres.items()
    )
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {exist}", [cluster.pk] * len(wheres))
        return not cursor.fetchone()[0]


def _read(cluster: Cluster, reading: Reading, tuning: Tuning, *, at: datetime) -> dict[str, Any]:
    """Return what a reading that succeeded leaves in the cluster's row."""
    after, gap = place(cluster, reading, tuning)
    since = cluster.followed_since
    is_known = since is not None and since <= at and cluster.feed_after is not None
    if not is_known or (after or 0) < (cluster.feed_after or 0):  # guard
        # What began and ended before the first reading, or in another queue, was never seen.
        since = reading.interval.not_before
    values = {
        "feed_after": after,
        "followed_since": since,
        "feed_gap_since": gap,
        "feeds": cluster.feeds + 1,
        "read_not_before": reading.interval.not_before,
        "read_not_after": reading.interval.not_after,
        "next_follow_at": at + timedelta(seconds=tuning.follow_period),
        "follow_failures": 0,
        "unreadable_jobs": reading.unreadable,
        "moment": at,
    }
    if cluster.follow_failures:
        # Whoever was out of reach may show anything now.
        values["next_look_at"] = at
    return values


def _apply(cluster: Cluster, reading: Reading, context: Context, *, at: datetime) -> bool:
    """Apply one reading, whole; the caller has locked the cluster's row."""
    policy, tuning = context.policy_of(cluster), context.tuning
    before = cluster.read
    left = _read(cluster, reading, tuning, at=at)
    for name in ("followed_since", "read_not_before", "read_not_after"):
        setattr(cluster, name, left[name])
    mirror = Mirror(cluster, reading, before)
    mirror.update()
    ended = mirror.ended()
    created = _created(ended)
    for name in sorted(created):
        name_announced(cluster, name)
    created = created if policy.adopt else set()
    touched = mirror.touched([*ended, *mirror.end_announcements(policy, at=at)])
    is_asked = _ask_about(cluster, touched, created, reading.interval, at=at)
    mirror.forget(tuning)
    _begin_builds(cluster, mirror.works(), policy, reading.interval, at=at)
    _settle(cluster, mirror, policy, context, reading.interval)
    _adopt_listed(cluster, mirror, policy, context, reading.interval)
    Cluster.objects.filter(pk=cluster.pk).update(**left)
    cluster.refresh_from_db()
    questions.end_needless(cluster, mirror.works(), tuning, at=at)
    requests.settle(cluster, policy, tuning, now=context.now)
    return is_asked


def _created(ended: Iterable[Job]) -> set[str]:
    """Return the names of those that jobs which are over may have created."""
    return {
        str(instance)
        for job in ended
        if job.state == JobState.ENDED
        for instance, _, status in rows.works_of(job)
        if status == Status.BUILD
    }


def _ask_about(
    cluster: Cluster,
    touched: set[tuple[str, bool]],
    created: set[str],
    interval: Interval,
    *,
    at: datetime,
) -> bool:
    """What was read before these jobs had ended is void for their instances; ask about them.

    ``created`` are names of those that may exist now and are not known.
    """
    if not touched:
        return False
    names = {key for key, is_uuid in touched if not is_uuid}
    by_name = Q(name__in=names) | Q(differs__name__value__in=sorted(names))
    by_uuid = Q(uuid__in=[key for key, is_uuid in touched if is_uuid])
    mine = Instance.objects.filter(by_name | by_uuid, rows.LIVES_OR_RETURNS, cluster=cluster)
    found = list(mine.order_by("pk"))
    keys = [row.pk for row in found]
    end = interval.not_after
    wanted = [Wanted(row.uuid, row.name, end) for row in found]
    known = {row.name for row in found}
    wanted += [Wanted(None, name, end) for name in sorted(created - known)]
    # Questions before instances: whoever settles an answer locks them in this order.
    questions.ask(cluster, wanted, Priority.SUSPECT, at=at)
    questions.begin_anew(cluster, names, at=end)
    mine = Instance.objects.filter(pk__in=keys)
    mine.exclude(epoch=cluster.epoch).update(**rows.void(cluster))
    mine.update(stale_before=end)
    return bool(wanted)


def _begin_builds(
    cluster: Cluster, jobs: Sequence[Job], policy: Policy, interval: Interval, *, at: datetime
) -> None:
    """Record what is being created and is not known yet, under the name that it has by now."""
    for job in jobs:
        if job.running_since is None or not policy.adopt:
            continue
        for instance, _, status in rows.works_of(job):
            if status == Status.BUILD:
                begin_build(cluster, instance, interval, at=at)


def begin_build(
    cluster: Cluster, name: str, interval: Interval, *, at: datetime, source: str = SOURCE
) -> None:
    """Record an instance that is being created, unless it is known or was announced."""
    living = Instance.objects.filter(cluster=cluster).exclude(status=Status.DELETED)
    if living.filter(name=name).exists():
        return
    if name_announced(cluster, name):
        return
    row = Instance.objects.create(
        cluster=cluster, name=name, status=Status.BUILD, epoch=cluster.epoch, created_at=at,
        observed_not_before=interval.not_before, observed_not_after=interval.not_after,
    )  # fmt: skip
    row.transitions.create(
        field="status", before=None, after=Status.BUILD.value, rule="operation-began",
        source=source, at=at,
    )  # fmt: skip


def _settle(
    cluster: Cluster, mirror: Mirror, policy: Policy, context: Context, interval: Interval
) -> None:
    """Show operations that have begun, and settle what two lists agree on."""
    differing = Instance.objects.filter(cluster=cluster, differs_since__isnull=False)
    items = {
        row.pk: Item(QueueRead(interval), row.uuid, row.name, LISTS)
        for row in rows.portion(differing, SETTLED_AT_ONCE)
    }
    begun = [job for job in mirror.works() if job.running_since and _status_of(job)]
    names = [name for job in begun for name in rows.texts(job.names)]
    if names:
        mine = Instance.objects.filter(cluster=cluster, name__in=names)
        for row in mine.exclude(status=Status.DELETED):
            items[row.pk] = Item(QueueRead(interval), row.uuid, row.name, SOURCE)
    if items:
        evidence = list(items.values())
        settled = record(cluster, evidence, policy, context.tuning, now=context.now)
        held = {rows.key_of(it.row) for it in settled if it.is_held and it.row is not None}
        if held and not held <= holds.held_keys(cluster):
            # A look shows the operator all of it; what one has shown needs no other.
            Cluster.objects.filter(pk=cluster.pk).update(next_look_at=context.now())


def _status_of(job: Job) -> bool:
    return any(status for _, _, status in rows.works_of(job))


def _adopt_listed(
    cluster: Cluster, mirror: Mirror, policy: Policy, context: Context, interval: Interval
) -> None:
    """Adopt those that no job could prove for too long, and that two lists agree on."""
    listed = Question.objects.filter(cluster=cluster, listed__isnull=False)
    work = mirror.index()
    items = []
    for question in rows.portion(listed, SETTLED_AT_ONCE):
        stranger = rows.stranger_of(question.listed)
        if stranger is None:
            continue
        first, seen = stranger.first, stranger.seen
        last, is_of_lists = seen.interval, seen.backend_status in policy.list_only
        wait = timedelta(0) if is_of_lists else policy.proof_within
        named = Instance(uuid=seen.uuid, name=seen.instance)
        if (
            (cluster.listed_at is None or cluster.listed_at <= last.not_after)  # guard
            and (cluster.followed_since is None or cluster.followed_since <= first)  # guard
            and first < last.not_before
            and last.not_before - first >= wait  # guard
            and last.not_after < interval.not_before  # guard
            and not any(job.running_since for job in work.on(named))  # guard
        ):
            items.append(Item(Listed(seen, is_proof=True), seen.uuid, seen.instance, LISTS))
    if items:
        record(cluster, items, policy, context.tuning, now=context.now)


def _failed(held: Turn, error: BackendError, tuning: Tuning, *, at: datetime) -> None:
    """Leave when the queue is to be read again."""
    if isinstance(error, Busy):
        held.values["next_follow_at"] = at + timedelta(seconds=tuning.follow_period)
        return
    failures = held.cluster.follow_failures + 1
    base = tuning.retry_cap if isinstance(error, Misconfigured) else tuning.retry_base
    wait = backoff(failures, base=base, cap=tuning.retry_cap)
    pause = max(wait, timedelta(seconds=tuning.follow_period))
    held.values |= {
        "follow_failures": failures,
        "last_error": str(error),
        "next_follow_at": at + pause,
    }
