"""Keep the database from growing for ever."""

from celery import shared_task
from django.conf import settings

from proj.clock import now
from proj.reconcile import passes


@shared_task(name="tasks.housekeeping.prune_passes")
def prune_passes() -> None:
    """Forget passes, and their queries, that are older than KEEP_DAYS."""
    passes.prune(before=now() - settings.KEEP)
