"""The Celery application, and what each of its processes does as it begins."""

import gc
import os
import threading
import time
from typing import Any

from celery import Celery
from celery.signals import setup_logging, task_prerun, worker_init, worker_process_init

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proj.settings")

app = Celery("proj")
app.config_from_object("proj.celeryconfig")
for _module in ("follow", "housekeeping", "query", "reconcile", "requery"):
    app.autodiscover_tasks(["tasks"], related_name=_module)


@worker_init.connect
@worker_process_init.connect
def collect_seldom(**_: Any) -> None:
    """Let the garbage collector leave alone what stays, and not run within each long list."""
    gc.freeze()
    gc.set_threshold(200_000, 20, 20)


@setup_logging.connect
def _keep_django_logging(**_: Any) -> None:
    """Leave the logs as Django's settings have them."""


_checked = threading.local()


@task_prerun.connect
def _drop_dead_connections(**_: Any) -> None:
    """Check the thread's connections before a task, at most once a second."""
    from django.db import close_old_connections

    at = time.monotonic()
    if at - getattr(_checked, "at", 0.0) > 1.0:
        _checked.at = at
        close_old_connections()
