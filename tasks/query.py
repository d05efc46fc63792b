"""Look at clusters, issue query jobs and await them."""

from functools import partial

from celery import shared_task
from django.db import transaction
from django.db.models import Exists, OuterRef, Q

from proj.backend import Misconfigured
from proj.clock import now
from proj.inventory.models import Cluster, Pass, Query
from proj.reconcile import look, passes, queries
from proj.wiring import backend_of, policy_of, tuning
from tasks.reconcile import reconcile_instance

IDLE_INTERVAL = 1.0
"""Seconds between two steps when nothing is in flight."""


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
    with look.lease(cluster, tuning(), at=now()) as held:
        if held is None:
            return
        row = held.cluster
        if row.paused:
            _refuse(row, f"{cluster} is paused: manage.py cluster resume {cluster}")
            return
        try:
            backend = backend_of(row)
        except Misconfigured as error:
            held.values = {"last_error": str(error)}
            _refuse(row, str(error))
            return
        is_open = look.look_at(held, backend, policy_of(row), tuning(), now)
    if is_open:
        issue_jobs.delay(cluster=cluster)


@shared_task(name="tasks.query.issue_jobs")
def issue_jobs(*, cluster: str) -> None:
    """Issue what waits now; start a chain of polls unless one is alive."""
    row = Cluster.objects.filter(name=cluster, paused=False).first()
    if row is None:
        return
    if queries.take_chain(row, at=now()):
        _advance(row)
    else:
        queries.submit_only(row, backend_of(row), tuning(), now)


@shared_task(name="tasks.query.await_jobs")
def await_jobs(*, cluster: str) -> None:
    """One step of a cluster's chain: poll, issue, and call the next step."""
    row = Cluster.objects.filter(name=cluster, paused=False).first()
    if row is None:
        return
    queries.keep_chain(row, at=now())
    _advance(row)


def _advance(row: Cluster) -> None:
    try:
        backend = backend_of(row)
    except Misconfigured as error:
        _refuse(row, str(error))
        queries.end_chain(row)
        return
    queries.step(row, backend, tuning(), now, _chain)
    if queries.relook_is_due(row, at=now()):
        query_cluster.delay(cluster=row.name)
    if not queries.is_busy(row):
        queries.end_chain(row)
        # A request that came between the two lines above saw a living chain.
        if not (queries.is_busy(row) and queries.take_chain(row, at=now())):
            return
    await_jobs.apply_async(kwargs={"cluster": row.name}, countdown=_pause(row))


def _pause(row: Cluster) -> float:
    row.refresh_from_db(fields=["failures"])
    if row.failures:
        return min(10.0, 0.5 * 2.0**row.failures)
    active = Query.objects.filter(
        cluster=row, state__in=(*Query.IN_FLIGHT, Query.State.PENDING), not_until=None
    )
    return tuning().poll_interval if active.exists() else IDLE_INTERVAL


def _refuse(row: Cluster, error: str) -> None:
    for pass_of in Pass.objects.filter(cluster=row).exclude(state=Pass.State.CLOSED):
        passes.fail(pass_of, error, at=now())


def _chain(query: Query) -> None:
    transaction.on_commit(
        partial(
            reconcile_instance.delay,
            cluster=query.cluster.name,
            instance=query.instance,
            query=query.pk,
        )
    )
