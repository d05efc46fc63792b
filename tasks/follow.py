"""FEED: follow the job queues of the clusters: what others did, and what they asked."""

from celery import current_app, shared_task

from proj.clock import now
from proj.reconcile import feed
from proj.wiring import context, tuning


@shared_task(name="tasks.follow.follow_clusters")
def follow_clusters() -> None:
    """Fan out: one task for each cluster whose queue is due to be read."""
    for name in feed.due(tuning(), at=now()):
        follow_jobs.delay(cluster=name)


@shared_task(name="tasks.follow.follow_jobs")
def follow_jobs(*, cluster: str) -> None:
    """Read what became of one cluster's queue since the last time."""
    if feed.follow(cluster, context()):
        current_app.send_task("tasks.query.issue_jobs", kwargs={"cluster": cluster})
