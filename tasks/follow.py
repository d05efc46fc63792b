"""FEED: follow the job queues of the clusters: what others did, and what they asked."""

from celery import current_app, shared_task
from django.db.models import Q

from proj.clock import now
from proj.inventory.models import Cluster
from proj.reconcile import feed
from proj.wiring import context


@shared_task(name="tasks.follow.follow_clusters")
def follow_clusters() -> None:
    """Fan out: one task for each cluster whose queue is due to be read."""
    at = now()
    due = Q(next_follow_at=None) | Q(next_follow_at__lte=at) | Q(next_follow_at__gt=at + feed.FAR)
    for name in Cluster.objects.filter(due, paused=False).values_list("name", flat=True):
        follow_jobs.delay(cluster=name)


@shared_task(name="tasks.follow.follow_jobs")
def follow_jobs(*, cluster: str) -> None:
    """Read what became of one cluster's queue since the last time."""
    if feed.follow(cluster, context()):
        current_app.send_task("tasks.query.issue_jobs", kwargs={"cluster": cluster})
