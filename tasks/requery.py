"""Ask about one instance now: by command, by HTTP request, or after an error."""

from celery import shared_task

from proj.clock import now
from proj.inventory.models import Cluster
from proj.reconcile import passes
from tasks.query import issue_jobs


@shared_task(name="tasks.requery.requery")
def requery(*, cluster: str, instance: str) -> None:
    """Have one instance asked and reconciled ahead of the periodic work.

    Asked a hundred times at once, it runs at most twice.
    """
    row = Cluster.objects.filter(name=cluster).first()
    if row is not None:
        passes.request_instance(row, instance, at=now())
        issue_jobs.delay(cluster=cluster)
