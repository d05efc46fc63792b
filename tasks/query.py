"""Look at clusters, issue query jobs and await them."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial

from celery import current_app, shared_task
from django.db import transaction
from django.db.models import Exists, OuterRef, Q

from proj.backend import Misconfigured
from proj.clock import now
from proj.inventory.models import Cluster, Pass, Query
from proj.reconcile import chain, look, passes
from proj.reconcile.leases import lease
from proj.wiring import backend_of, policy_of, tuning
from tasks.reconcile import reconcile_instance


@shared_task(name="tasks.query.query_clusters")
def query_clusters() -> None:
    """Fan out: a look for each cluster that is due, and a step for each chain that died.

    Passes whose last task died before it closed them are closed here.
    """
    at = now()
    passes.sweep(at=at)
    look.spread_herd(tuning(), at=at)
    of_it = {"cluster": OuterRef("pk")}
    requested = Q(state=Pass.State.REQUESTED) | Q(state=Pass.State.OPEN, relook_at__lte=at)
    forgotten = Query.objects.filter(
        Q(state__in=(Query.State.PENDING, *Query.IN_FLIGHT))
        | Q(state=Query.State.ANSWERED, answered_at__lt=at - timedelta(seconds=30)),
        **of_it,
    )
    clusters = Cluster.objects.filter(paused=False).annotate(
        is_requested=Exists(Pass.objects.filter(requested, **of_it)),
        is_dead=Exists(forgotten),
    )
    due = Q(next_look_at=None) | Q(next_look_at__lte=at) | Q(is_requested=True)
    for name in clusters.filter(due).values_list("name", flat=True):
        query_cluster.delay(cluster=name)
    free = Q(await_until=None) | Q(await_until__lt=at)
    for name in clusters.filter(free, is_dead=True).values_list("name", flat=True):
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
        after = look.look_at(held, backend, policy_of(row), tuning(), now, have_reconciled)
    if after.is_asked:
        issue_jobs.delay(cluster=cluster)
    if after.look_in is not None:
        query_cluster.apply_async(kwargs={"cluster": cluster}, countdown=after.look_in + 0.1)


@shared_task(name="tasks.query.issue_jobs")
def issue_jobs(*, cluster: str) -> None:
    """Issue what waits now; start a chain of polls unless one is alive."""
    row = Cluster.objects.filter(name=cluster, paused=False).first()
    if row is None:
        return
    mine = chain.take(row, tuning(), at=now())
    if mine is not None:
        _advance(row, mine)
        return
    try:
        chain.submit_only(_stepper(row))
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
    mine = chain.keep(row, datetime.fromisoformat(until), tuning(), at=now())
    if mine is not None:
        _advance(row, mine)


def have_reconciled(answered: Sequence[Query]) -> None:
    """Reconcile the instances of queries as soon as their answers are committed."""
    transaction.on_commit(partial(_send_all, answered))


def _send_all(answered: Sequence[Query]) -> None:
    """Send a task for each, in one exchange with Redis; if it fails, the rows are sent again."""
    with current_app.producer_or_acquire() as producer, producer.batch():
        for query in answered:
            reconcile_instance.apply_async(
                kwargs={
                    "cluster": query.cluster.name,
                    "instance": query.instance,
                    "query": query.pk,
                },
                producer=producer,
            )


def _stepper(row: Cluster) -> chain.Stepper:
    return chain.Stepper(row, backend_of(row), tuning(), now, have_reconciled)


def _advance(row: Cluster, mine: datetime) -> None:
    try:
        stepper = _stepper(row)
    except Misconfigured as error:
        _refuse(row, str(error))
        chain.end(row, mine)
        return
    chain.step(stepper)
    pause = chain.pause(row, tuning(), at=now())
    if pause is None:
        passes.close_finished(row, at=now())
        chain.end(row, mine)
        if chain.pause(row, tuning(), at=now()) is not None:
            # A request that came between the lines above saw a living chain.
            issue_jobs.delay(cluster=row.name)
        return
    await_jobs.apply_async(kwargs={"cluster": row.name, "until": mine.isoformat()}, countdown=pause)


def _refuse(row: Cluster, error: str) -> None:
    for pass_of in Pass.objects.filter(cluster=row).exclude(state=Pass.State.CLOSED):
        passes.fail(pass_of, error, at=now())
