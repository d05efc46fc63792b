"""The Celery application: queues, delivery and connections."""

import gc
import os
from typing import Any

from celery import Celery
from celery.signals import setup_logging, task_prerun, worker_init, worker_process_init
from kombu import Queue

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proj.settings")
# Celery closes Django's connections after so many uses of its own count; their age and health
# are Django's business (CONN_MAX_AGE, CONN_HEALTH_CHECKS).
os.environ.setdefault("CELERY_DB_REUSE_MAX", "1000000000")

QUEUES = ("ganeti", "on-demand", "reconcile")

app = Celery("proj")


@app.on_configure.connect
def _configure(sender: Celery, **_: Any) -> None:
    from django.conf import settings

    from beat_schedule import schedule

    sender.conf.update(
        broker_url=settings.REDIS_URL,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": 600,
            "unacked_restore_interval": 10,
            "unacked_restore_throttle": 1,
            "socket_timeout": 30,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "max_connections": 64,
        },
        task_ignore_result=True,
        task_acks_late=True,
        task_retry_on_worker_lost=True,
        task_time_limit=300,
        task_soft_time_limit=280,
        task_send_sent_event=True,
        task_create_missing_queues=False,
        task_default_queue="reconcile",
        # Without a routing key of its own a queue would receive every message.
        task_queues=[Queue(name, routing_key=name) for name in QUEUES],
        task_routes={
            "tasks.query.issue_jobs": {"queue": "on-demand"},
            "tasks.query.*": {"queue": "ganeti"},
            "tasks.requery.*": {"queue": "on-demand"},
            "tasks.follow.*": {"queue": "ganeti"},
            "tasks.reconcile.*": {"queue": "reconcile"},
            "tasks.housekeeping.*": {"queue": "reconcile"},
        },
        worker_prefetch_multiplier=1,
        worker_cancel_long_running_tasks_on_connection_loss=True,
        worker_soft_shutdown_timeout=30,
        worker_max_tasks_per_child=1000,
        worker_hijack_root_logger=False,
        worker_send_task_events=True,
        timezone="UTC",
        beat_schedule=schedule(settings.BEAT_PERIOD),
        beat_schedule_filename=str(settings.VAR_DIR / "beat"),
    )


for _module in ("follow", "housekeeping", "query", "reconcile", "requery"):
    app.autodiscover_tasks(["tasks"], related_name=_module)


@worker_init.connect
@worker_process_init.connect
def _collect_seldom(**_: Any) -> None:
    """Let the garbage collector leave alone what stays, and not run within each long list."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@setup_logging.connect
def _keep_django_logging(**_: Any) -> None:
    """Leave the logs as Django's settings have them."""


@task_prerun.connect
def _drop_dead_connections(**_: Any) -> None:
    from django.db import close_old_connections

    close_old_connections()
