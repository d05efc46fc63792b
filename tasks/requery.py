"""Ask about one instance now: by command, by HTTP request, or after an error."""

import logging

from celery import shared_task
from django.db import DatabaseError
from redis.exceptions import RedisError

from proj.clock import now
from proj.inventory.models import Cluster
from proj.reconcile import requests
from proj.wiring import tuning
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
    try:
        if row is None:
            raise ValueError("no such cluster")
        requests.request_instance(row, instance, tuning=tuning(), at=now())
    except (ValueError, requests.TooMany) as refused:
        logger.warning("asked to requery %r in %r: %s", instance, cluster, refused)
        return
    issue_jobs.delay(cluster=cluster)
