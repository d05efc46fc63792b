"""Look at clusters, issue query jobs and await them."""

from datetime import datetime
from functools import partial

from celery import shared_task
from django.db import transaction
from django.db.models import Exists, OuterRef, Q

from proj.backend import Misconfigured
from proj.clock import now
from proj.inventory.models import Cluster, Pass, Query
from proj.reconcile import look, passes, queries
from proj.reconcile.leases import lease
from proj.wiring import backend_of, policy_of, tuning
from tasks.reconcile import reconcile_instance

IDLE_INTERVAL = 1.0
"""Seconds between two steps when all that is left waits for its time."""


@shared_task(name="tasks.query.query_clusters")
def query_clusters() -> None:
    """Fan out: one query task for each cluster that is due; dead chains are taken up."""
    at = now()
    mine = {"cluster": OuterRef("pk")}
    requested = Pass.objects.filter(**mine, state=Pass.State.REQUESTED)
    opened = Pass.objects.filter(**mine, state=Pass.State.OPEN)
    unfinished = Query.objects.filter(**mine, state__in=Query.UNFINISHED)
    clusters = Cluster.objects.annotate(
        is_requested=Exists(requested), is_busy=Exists(opened) | Exists(unfinished)
    )
    look.spread_herd(tuning(), at=at)
    due = Q(next_look_at=None) | Q(next_look_at__lte=at)
    for name in clusters.filter(due | Q(is_requested=True), paused=False).values_list(
        "name", flat=True
    ):
        query_cluster.delay(cluster=name)
    dead = Q(await_until=None) | Q(await_until__lt=at)
    for name in clusters.filter(dead, is_busy=True, paused=False).values_list("name", flat=True):
        issue_jobs.delay(cluster=name)


@shared_task(name="tasks.query.query_cluster")
def query_cluster(*, cluster: str) -> None:
    """Look at one cluster, select, and set the chain of polls going."""
    with lease(cluster, "look", tuning().look_lease, at=now()) as held:
        if held is None:
            return
        row = held.cluster
        if row.paused:
            _refuse(row, f"{cluster} is paused: manage.py cluster resume {cluster}")
            return
        try:
            backend = backend_of(row)
        except Misconfigured as error:
            held.values = look.misconfigured(error, tuning(), at=now())
            _refuse(row, str(error))
            return
        is_open = look.look_at(held, backend, policy_of(row), tuning(), now, chain)
    if is_open:
        issue_jobs.delay(cluster=cluster)


@shared_task(name="tasks.query.issue_jobs")
def issue_jobs(*, cluster: str) -> None:
    """Issue what waits now; start a chain of polls unless one is alive."""
    row = Cluster.objects.filter(name=cluster, paused=False).first()
    if row is None:
        return
    mine = queries.take_chain(row, tuning(), at=now())
    if mine is not None:
        _advance(row, mine)
        return
    try:
        queries.submit_only(row, backend_of(row), tuning(), now)
    except Misconfigured:
        # The chain that is alive meets the same, and says so.
        return


@shared_task(name="tasks.query.await_jobs")
def await_jobs(*, cluster: str, until: str) -> None:
    """One step of a cluster's chain: poll, issue, and call the next step.

    ``until`` is the token by which a step knows that the chain is still this one.
    """
    row = Cluster.objects.filter(name=cluster, paused=False).first()
    if row is None:
        return
    mine = queries.keep_chain(row, datetime.fromisoformat(until), tuning(), at=now())
    if mine is not None:
        _advance(row, mine)


def chain(query: Query) -> None:
    """Reconcile the instance of a query as soon as its answer is committed."""
    transaction.on_commit(
        partial(
            reconcile_instance.delay,
            cluster=query.cluster.name,
            instance=query.instance,
            query=query.pk,
        )
    )


def _advance(row: Cluster, mine: datetime) -> None:
    try:
        backend = backend_of(row)
    except Misconfigured as error:
        _refuse(row, str(error))
        queries.end_chain(row, mine)
        return
    queries.step(row, backend, tuning(), now, chain)
    if queries.relook_is_due(row, at=now()):
        query_cluster.delay(cluster=row.name)
    if not queries.is_busy(row):
        queries.end_chain(row, mine)
        # A request that came between the two lines above saw a living chain.
        again = queries.take_chain(row, tuning(), at=now()) if queries.is_busy(row) else None
        if again is None:
            return
        mine = again
    await_jobs.apply_async(
        kwargs={"cluster": row.name, "until": mine.isoformat()}, countdown=_pause(row)
    )


def _pause(row: Cluster) -> float:
    row.refresh_from_db(fields=["query_failures"])
    if row.query_failures:
        return min(10.0, 0.5 * 2.0**row.query_failures)
    active = Query.objects.filter(cluster=row, state__in=Query.UNFINISHED, not_until=None)
    return tuning().poll_interval if active.exists() else IDLE_INTERVAL


def _refuse(row: Cluster, error: str) -> None:
    for pass_of in Pass.objects.filter(cluster=row).exclude(state=Pass.State.CLOSED):
        passes.fail(pass_of, error, at=now())
