"""Follow the job queues of the clusters: what others did, and what they asked."""

from celery import shared_task
from django.db.models import Q

from proj.backend import BackendError, Misconfigured
from proj.clock import now
from proj.inventory.models import Cluster
from proj.reconcile import follow
from proj.reconcile.leases import lease
from proj.wiring import backend_of, policy_of, tuning
from tasks.query import have_reconciled, issue_jobs


@shared_task(name="tasks.follow.follow_clusters")
def follow_clusters() -> None:
    """Fan out: one task for each cluster whose queue is due to be read."""
    at = now()
    due = Q(next_follow_at=None) | Q(next_follow_at__lte=at)
    for name in Cluster.objects.filter(due, paused=False).values_list("name", flat=True):
        follow_jobs.delay(cluster=name)


@shared_task(name="tasks.follow.follow_jobs")
def follow_jobs(*, cluster: str) -> None:
    """Read what became of one cluster's queue since the last time."""
    with lease(cluster, "follow", tuning().follow_lease, at=now()) as held:
        if held is None or held.cluster.paused:
            return
        row = held.cluster
        try:
            is_asked = follow.follow(
                held, backend_of(row), policy_of(row), tuning(), now, have_reconciled
            )
        except Misconfigured as error:
            held.values = held.values or follow.failed(row, error, tuning(), at=now())
            return
        except BackendError:
            return
    if is_asked:
        issue_jobs.delay(cluster=cluster)
