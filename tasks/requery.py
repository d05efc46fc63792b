"""Ask about one instance now: by command, by HTTP request, or after an error."""

import logging

from celery import shared_task
from django.db import DatabaseError
from redis.exceptions import RedisError

from proj.clock import now
from proj.inventory.models import Cluster
from proj.observation import is_instance_name
from proj.reconcile import passes
from tasks.query import issue_jobs

logger = logging.getLogger(__name__)


@shared_task(
    name="tasks.requery.requery",
    autoretry_for=(OSError, DatabaseError, RedisError),
    retry_backoff=True,
    retry_jitter=True,
    max_retries=5,
)
def requery(*, cluster: str, instance: str) -> None:
    """Have one instance asked and reconciled ahead of the periodic work.

    Asked a hundred times at once, it runs at most twice.
    """
    row = Cluster.objects.filter(name=cluster).first()
    if row is None or not is_instance_name(instance):
        logger.warning("asked to requery %r in %r: there is no such thing", instance, cluster)
        return
    passes.request_instance(row, instance, at=now())
    issue_jobs.delay(cluster=cluster)
