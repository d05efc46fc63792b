"""How Celery delivers: queues, limits and connections."""

from django.conf import settings
from kombu import Queue

from beat_schedule import schedule

QUEUES = ("ganeti", "on-demand", "reconcile")

broker_url = settings.REDIS_URL
broker_connection_retry_on_startup = True
broker_connection_max_retries = None
broker_transport_options = {
    "visibility_timeout": 600,
    "unacked_restore_interval": 10,
    "unacked_restore_throttle": 1,
    "socket_timeout": 30,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "max_connections": 64,
}
task_ignore_result = True
task_acks_late = True
task_retry_on_worker_lost = True
task_time_limit = 300
task_soft_time_limit = 280
task_send_sent_event = True
task_create_missing_queues = False
task_default_queue = "reconcile"
# Without a routing key of its own a queue would receive every message.
task_queues = [Queue(name, routing_key=name) for name in QUEUES]
task_routes = {
    "tasks.query.issue_jobs": {"queue": "on-demand"},
    "tasks.query.*": {"queue": "ganeti"},
    "tasks.requery.*": {"queue": "on-demand"},
    "tasks.follow.*": {"queue": "ganeti"},
    "tasks.reconcile.*": {"queue": "reconcile"},
    "tasks.housekeeping.*": {"queue": "reconcile"},
}
worker_prefetch_multiplier = 1
worker_cancel_long_running_tasks_on_connection_loss = True
worker_soft_shutdown_timeout = 30
# Kilobytes after which a process of the pool is replaced; its seat may then be empty for 5 s.
worker_max_memory_per_child = 200_000
worker_hijack_root_logger = False
worker_send_task_events = True
timezone = "UTC"
# Celery closes Django's connections around each task, unless it counts their uses, and never so
# far; their age and health are Django's business (CONN_MAX_AGE, CONN_HEALTH_CHECKS).
CELERY_DB_REUSE_MAX = 1_000_000_000
beat_schedule = schedule(settings.BEAT_PERIOD)
beat_schedule_filename = str(settings.VAR_DIR / "beat")
