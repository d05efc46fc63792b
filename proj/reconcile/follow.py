"""Follow a cluster's job queue: what others began, what ended, and what they asked.

The feed's place and every job that is open are rows, so that it goes on where it was after a
restart. Whatever is done about a job may be done twice without harm.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

from django.db import transaction

from proj.backend import Backend, BackendError, Busy, Feed, Misconfigured, QueuedJob
from proj.inventory import statements
from proj.inventory.models import Cluster, Job, Pass, Query
from proj.observation import Evidence, Interval, JobEnd
from proj.reconcile import passes
from proj.reconcile.apply import Context, apply
from proj.reconcile.decide import Action, Ended, Policy, Rule, Working
from proj.reconcile.harvest import harvest
from proj.reconcile.leases import Lease
from proj.reconcile.queries import Chain
from proj.reconcile.settings import Tuning

Clock = Callable[[], datetime]

KNOWN_AT_ONCE = 200
"""Open jobs that one feed asks for by their ids; further ones wait for the next."""

TOLD_AT_ONCE = 500
HARVESTED_AT_ONCE = 10
"""Results of others' queries that one turn reads, each by a request of its own."""


def is_fresh(cluster: Cluster, tuning: Tuning, *, at: datetime) -> bool:
    """Whether the queue was read recently enough for a look to build on it."""
    read = cluster.followed_not_before
    return read is not None and at - read < timedelta(seconds=tuning.feed_max_age)


def follow(
    held: Lease, backend: Backend, policy: Policy, tuning: Tuning, now: Clock, chain: Chain
) -> bool:
    """Read what became of the queue, and settle what it shows.

    Returns:
        Whether anything is to be asked or awaited now.

    Raises:
        BackendError: a request failed; what was read before it is settled.
    """
    cluster = held.cluster
    is_quiet = not statements.exists(Job, cluster=cluster.pk)
    known = {} if is_quiet else _known(cluster)
    try:
        if cluster.is_failing:
            backend.version()
        feed = backend.feed(cluster.feed_after, list(known))
    except BackendError as error:
        held.values = failed(cluster, error, tuning, at=now())
        raise
    at = now()
    if is_quiet and not feed.jobs:
        held.values = _followed(cluster, feed, tuning, at=at)
        return False
    _keep(cluster, feed, known)
    context = Context(policy, tuning.flapping, at, source=Pass.Kind.FOLLOW)
    asked = _settle_ends(cluster, feed.jobs, known, context, feed.interval)
    _tell(cluster, {job.job_id for job in feed.jobs}, context, feed.interval)
    is_asked = _ask(cluster, asked, at=at)
    ended = [job.job_id for job in feed.jobs if job.end is not None]
    Job.objects.filter(cluster=cluster, job_id__in=ended, is_query=False).delete()
    held.values = _followed(cluster, feed, tuning, at=at)
    return _harvest(cluster, backend, policy, now, chain) or is_asked


def announce(cluster: Cluster, job_id: int, operation: str, instance: str, *, at: datetime) -> None:
    """Follow a job that a host system says it has issued, from now on."""
    Job.objects.get_or_create(
        cluster=cluster,
        job_id=job_id,
        defaults={"work": [[operation, instance]], "told": True, "seen_at": at},
    )


def begin_anew(cluster: Cluster) -> None:
    """Forget the feed's place: the queue is another than it was, its ids went back."""
    Cluster.objects.filter(pk=cluster.pk).update(feed_after=None)


def _known(cluster: Cluster) -> dict[int, Job]:
    """Return the open jobs whose turn it is to be asked for: those asked for longest ago."""
    mine = Job.objects.filter(cluster=cluster, has_ended=False)
    return {job.job_id: job for job in mine.order_by("seen_at")[:KNOWN_AT_ONCE]}


def _keep(cluster: Cluster, feed: Feed, known: dict[int, Job]) -> None:
    """Keep a row for each job that is open, and for each query whose result is to be read."""
    since = None if cluster.feed_after is None else cluster.followed_not_before
    queries = [job.job_id for job in feed.jobs if job.is_query]
    mine = Query.objects.filter(cluster=cluster, job_id__in=queries)
    ours = {query.job_id for query in mine.only("job_id") if query.job_id is not None}
    rows: list[Job] = []
    for job in feed.jobs:
        if job.job_id in ours or not (job.work or job.is_query):
            continue
        row = known.get(job.job_id)
        if row is None:
            if job.end is not None and not job.is_query:
                continue
            row = Job(cluster=cluster, job_id=job.job_id, unstarted_at=since)
            row.work = [[work.operation, work.instance] for work in job.work]
            row.is_query = job.is_query
        row.has_ended = job.end is not None
        row.seen_at = feed.interval.not_after
        if not job.has_started:
            row.unstarted_at = feed.interval.not_before
        rows.append(row)
    Job.objects.bulk_create(
        rows,
        batch_size=500,
        update_conflicts=True,
        unique_fields=["cluster", "job_id"],
        update_fields=["has_ended", "seen_at", "unstarted_at"],
    )
    # A query of ours may have shown up before its row had the job's id.
    Job.objects.filter(cluster=cluster, job_id__in=ours).delete()


def _settle_ends(
    cluster: Cluster,
    jobs: Iterable[QueuedJob],
    known: dict[int, Job],
    context: Context,
    interval: Interval,
) -> list[str]:
    """Note for each instance that a job on it has ended; return whom to ask about."""
    ends: dict[str, Ended] = {}
    for job in jobs:
        if job.end is None:
            continue
        work = [(it.operation, it.instance) for it in job.work]
        row = known.get(job.job_id)
        if not work and row is not None:
            work = [(operation, instance) for operation, instance in row.work]
        for operation, instance in work:
            ends[instance] = Ended(operation, job.job_id, job.end, interval)
    return [
        name
        for name, end in ends.items()
        if apply(cluster, name, end, context).decision.action is Action.ASK
    ]


def _tell(cluster: Cluster, seen: set[int], context: Context, interval: Interval) -> None:
    """Let instances show the open jobs that work on them."""
    untold = Job.objects.filter(cluster=cluster, told=False, has_ended=False, is_query=False)
    told = []
    for job in untold.order_by("job_id")[:TOLD_AT_ONCE]:
        if job.job_id not in seen:
            continue
        rules = {
            apply(
                cluster, instance, Working(operation, job.job_id, interval), context
            ).decision.rule
            for operation, instance in job.work
        }
        if Rule.STALE not in rules:
            told.append(job.pk)
    Job.objects.filter(pk__in=told).update(told=True)


def _ask(cluster: Cluster, names: Sequence[str], *, at: datetime) -> bool:
    if not names:
        return False
    passes.ask(_open_pass(cluster, at=at), names, lane=Query.Lane.SUSPECT)
    return True


def _open_pass(cluster: Cluster, *, at: datetime) -> Pass:
    return Pass.objects.create(
        cluster=cluster,
        kind=Pass.Kind.FOLLOW,
        state=Pass.State.OPEN,
        requested_at=at,
        started_at=at,
    )


def _harvest(cluster: Cluster, backend: Backend, policy: Policy, now: Clock, chain: Chain) -> bool:
    """Read the results of queries that somebody else issued."""
    waiting = Job.objects.filter(cluster=cluster, is_query=True, has_ended=True)
    is_open = False
    for job in waiting.order_by("job_id")[:HARVESTED_AT_ONCE]:
        if job.unstarted_at is not None:
            submitted = {job.job_id: job.unstarted_at}
            for report in backend.poll(submitted, evidence=Evidence.FOREIGN_JOB):
                asked = harvest(cluster, report.observations, policy)
                if asked:
                    pass_of = _open_pass(cluster, at=now())
                    with transaction.atomic():
                        chain(passes.answer(pass_of, asked, at=now()))
                    is_open = True
        job.delete()
    return is_open


def _followed(cluster: Cluster, feed: Feed, tuning: Tuning, *, at: datetime) -> dict[str, object]:
    values: dict[str, object] = {
        "feed_after": feed.newest,
        "followed_not_before": feed.interval.not_before,
        "next_follow_at": at + timedelta(seconds=tuning.follow_period),
        "follow_failures": 0,
    }
    if any(job.end is JobEnd.LOST for job in feed.jobs):
        # A job that vanished while it was open may mean another queue, with other ids.
        values["feed_after"] = None
    if cluster.follow_failures:
        # Whoever was out of reach may show anything now.
        values["next_look_at"] = at
    return values


def failed(
    cluster: Cluster, error: BackendError, tuning: Tuning, *, at: datetime
) -> dict[str, object]:
    """Return what a failure leaves in the cluster's row: when the queue is to be read again."""
    if isinstance(error, Busy):
        return {"next_follow_at": at + timedelta(seconds=tuning.follow_period)}
    failures = cluster.follow_failures + 1
    base = tuning.retry_cap if isinstance(error, Misconfigured) else tuning.retry_base
    wait = passes.backoff(failures, base=base, cap=tuning.retry_cap, jitter=random.random())
    pause = max(wait, timedelta(seconds=tuning.follow_period))
    return {
        "follow_failures": failures,
        "last_error": str(error),
        "next_follow_at": at + pause,
    }
