"""HOUSEKEEPING: keep the database from growing for ever, and void what lies ahead."""

from celery import shared_task
from django.conf import settings

from proj.reconcile import housekeeping
from proj.wiring import context


@shared_task(name="tasks.housekeeping.keep_house")
def keep_house() -> None:
    """Forget what is older than KEEP_DAYS, and void what another clock has dated."""
    housekeeping.keep_house(context(), keep=settings.KEEP)
