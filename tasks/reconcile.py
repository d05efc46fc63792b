"""Reconcile one instance with what Ganeti answered about it."""

from celery import current_app, shared_task
from django.db import DatabaseError
from redis.exceptions import RedisError

from proj.inventory import statements
from proj.inventory.models import Query
from proj.reconcile import answers
from proj.reconcile.decide import Action
from proj.wiring import policy_of, tuning


@shared_task(
    name="tasks.reconcile.reconcile_instance",
    autoretry_for=(OSError, DatabaseError, RedisError),
    retry_backoff=True,
    retry_jitter=True,
    max_retries=5,
)
def reconcile_instance(*, cluster: str, instance: str, query: int) -> None:
    """Decide on the answer of one query and apply it.

    ``cluster`` and ``instance`` name the work for those who watch; the row ``query`` rules.
    """
    row = statements.find(Query, "cluster", "pass_of", pk=query)
    if row is None:
        return
    decision = answers.reconcile(row, policy_of(row.cluster), tuning())
    if decision is not None and decision.action is Action.ASK:
        current_app.send_task("tasks.query.issue_jobs", kwargs={"cluster": cluster})
