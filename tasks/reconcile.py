"""SETTLE: reconcile one instance with what Ganeti answered about it."""

from celery import current_app, shared_task
from django.db import DatabaseError
from redis.exceptions import RedisError

from proj.reconcile import settle
from proj.wiring import context


@shared_task(
    name="tasks.reconcile.reconcile_instance",
    autoretry_for=(OSError, DatabaseError, RedisError),
    retry_backoff=True,
    retry_jitter=True,
    max_retries=5,
)
def reconcile_instance(*, cluster: str, instance: str, question: int) -> None:
    """Decide on the answer of one question and apply it.

    ``cluster`` and ``instance`` name the work for those who watch; the row ``question`` rules.
    """
    done = settle.settle(cluster, question, context())
    if done.waiting is not None:
        reconcile_instance.delay(
            cluster=cluster, instance=done.waiting.name, question=done.waiting.pk
        )
    if done.ask:
        current_app.send_task("tasks.query.issue_jobs", kwargs={"cluster": cluster})
