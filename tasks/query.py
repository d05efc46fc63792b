"""LOOK and ASK: list the clusters, issue query jobs and await them."""

from collections.abc import Sequence
from functools import partial

from celery import current_app, shared_task
from kombu import Producer

from proj.clock import now
from proj.inventory.models import Cluster
from proj.reconcile import ask, look, plan
from proj.wiring import context, tuning
from tasks.follow import follow_jobs
from tasks.reconcile import reconcile_instance


@shared_task(name="tasks.query.query_clusters")
def query_clusters() -> None:
    """Fan out: a look for each cluster that is due, and a chain for each that has none."""
    at = now()
    look.spread_herd(tuning(), at=at)
    for name in look.due(tuning(), at=at):
        query_cluster.delay(cluster=name)
    for name in ask.due(tuning(), at=at):
        issue_jobs.delay(cluster=name)


@shared_task(name="tasks.query.query_cluster")
def query_cluster(*, cluster: str) -> None:
    """Look at one cluster, and have what differs asked about."""
    after = look.look(cluster, context())
    if after.ask:
        issue_jobs.delay(cluster=cluster)
    if after.follow:
        follow_jobs.delay(cluster=cluster)


@shared_task(name="tasks.query.plan_cluster")
def plan_cluster(*, cluster: str) -> None:
    """Answer those who wait for a plan of one cluster."""
    plan.plan(cluster, context())


@shared_task(name="tasks.query.issue_jobs")
def issue_jobs(*, cluster: str) -> None:
    """Issue what waits now; start a chain of polls unless one is alive."""
    _go_on(cluster, ask.issue(cluster, context(), partial(_settle, cluster)))


@shared_task(name="tasks.query.await_jobs")
def await_jobs(*, cluster: str, token: str) -> None:
    """One step of a cluster's chain: poll, issue, and call the next step.

    ``token`` is what a step knows its chain by.
    """
    _go_on(cluster, ask.step(cluster, token, context(), partial(_settle, cluster)))


def _go_on(cluster: str, step: ask.Step) -> None:
    """Have the answers settled, in one exchange with Redis, and the next step taken.

    What is lost on the way is taken up from the rows.
    """
    with current_app.producer_or_acquire() as producer, producer.batch():
        _settle(cluster, step.answered, producer)
        if step.token is not None:
            await_jobs.apply_async(
                kwargs={"cluster": cluster, "token": step.token},
                countdown=step.pause,
                producer=producer,
            )


def _settle(
    cluster: str, answered: Sequence[ask.Answered], producer: Producer | None = None
) -> None:
    for it in answered:
        reconcile_instance.apply_async(
            kwargs={"cluster": cluster, "instance": it.instance, "question": it.key},
            producer=producer,
        )


def reconcile_now(cluster: Cluster, *, whole: bool, plan: bool) -> None:
    """Send the task that serves a request which was just made."""
    task = plan_cluster if plan else query_cluster if whole else issue_jobs
    task.delay(cluster=cluster.name)
