"""What lists confirm: a complete one that agrees, and a reading of the queue that began after it.

The reading shows that no job was at work, whose half-done work the list may have seen.
"""

from collections.abc import Iterable
from datetime import datetime

from django.db.models import Q

from proj.backend import JobState
from proj.inventory.models import Cluster, Job
from proj.reconcile import rows
from proj.reconcile.context import BACKWARDS


def list_since(cluster: Cluster, since: datetime, *, at: datetime) -> datetime | None:
    """Return when the complete list began that may confirm what was wanted since then."""
    looked, read = cluster.looked, cluster.read
    if looked is None or read is None:
        return None
    if looked.not_after > at:  # guard
        return None
    followed = cluster.followed_since
    if followed is not None and looked.not_before < followed <= at + BACKWARDS:  # guard
        return None
    is_newer = (
        looked.not_before > since  # guard
        and read.not_before > looked.not_after  # guard
    )
    return looked.not_before if is_newer else None


def agrees(cluster: Cluster, jobs: Iterable[Job], listed_at: datetime) -> Q:
    """Return the condition that a row agrees with the list that began at ``listed_at``.

    Args:
        cluster: whose list it is.
        jobs: the open ones that work on instances.
        listed_at: of a list for which ``list_since`` was asked.
    """
    running = {
        name for job in jobs if job.state == JobState.RUNNING for name in rows.texts(job.names)
    }
    is_old = ~Q(epoch=cluster.epoch)
    nothing_kept = Q(differs_since=None, missing_first=None) | is_old
    nothing_ended = Q(stale_before=None) | Q(stale_before__lte=listed_at) | is_old
    # Judged by that list, or recorded by it.
    recorded = Q(observed_not_before=listed_at, observed_not_after=cluster.looked_not_after)
    was_judged = Q(observed_not_after__lt=listed_at) | recorded | is_old
    is_listed = Q(created_at__lte=listed_at)
    return nothing_kept & nothing_ended & ~Q(name__in=running) & was_judged & is_listed
