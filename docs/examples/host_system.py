"""A host system whose Celery tasks may fail on an instance.

It imports nothing of the reconciler: the task is known by its name and its queue.
"""

import os
from typing import Any

from celery import Celery, Signature
from django.db import transaction

RECONCILER_REDIS = os.environ["REDIS_URL"]

app = Celery("host_system", broker=os.environ.get("HOST_BROKER_URL", RECONCILER_REDIS))
app.conf.task_default_queue = "host-system"

reconciler = Celery("reconciler", broker=RECONCILER_REDIS, set_as_current=False)


def requery(cluster: str, instance: str) -> Signature:
    """Return the task that has one instance asked and reconciled now."""
    return reconciler.signature(
        "tasks.requery.requery",
        kwargs={"cluster": cluster, "instance": instance},
        immutable=True,
        queue="on-demand",
    )


@app.task
def reboot(*, cluster: str, instance: str) -> None:
    """Stand for whatever a host system does to an instance, and fails at."""
    raise ConnectionError(f"{cluster} did not say whether {instance} was rebooted")


def reboot_or_reconcile(cluster: str, instance: str) -> None:
    """Reboot an instance; if that fails, have it reconciled."""
    reboot.apply_async(
        kwargs={"cluster": cluster, "instance": instance},
        link_error=requery(cluster, instance),
    )


@app.task
def reconcile_its_instance(request: Any, exc: Exception, traceback: Any) -> None:
    """Reconcile the instance that the failed task names: an errback for all tasks."""
    requery(request.kwargs["cluster"], request.kwargs["instance"]).delay()


def reboot_with_errback(cluster: str, instance: str) -> None:
    """Reboot an instance; if that fails, the errback finds out which one it was."""
    reboot.apply_async(
        kwargs={"cluster": cluster, "instance": instance},
        link_error=reconcile_its_instance.s(),
    )


def reconcile_on_commit(cluster: str, instance: str) -> None:
    """Have an instance reconciled once what was noted about it is committed."""
    transaction.on_commit(requery(cluster, instance).delay)


def reboot_on_commit(cluster: str, instance: str) -> None:
    """Reboot an instance once the transaction is committed; if that fails, reconcile it."""
    reboot.apply_async_on_commit(
        kwargs={"cluster": cluster, "instance": instance},
        link_error=requery(cluster, instance),
    )
