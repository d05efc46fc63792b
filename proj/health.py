"""What is missing for the service to do its work, one line each."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from django.conf import settings
from django.db import Error, connection
from django.db.migrations.executor import MigrationExecutor
from django.db.models import Max
from redis.exceptions import RedisError

from proj.clock import now
from proj.inventory.models import Cluster

PERIODS = 5
"""A cluster's turn may be late by so many periods before beat is taken for dead."""


def problems() -> Iterator[str]:
    """Yield a line for each thing that is missing; nothing when all is well."""
    at = None
    try:
        at = now()
    except RedisError:
        yield "no answer from Redis (REDIS_URL)"
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except Error:
        yield "no answer from the database (DATABASE_URL)"
        return
    if lacks_migrations():
        yield "the database lacks migrations: manage.py migrate"
    elif at is not None and _is_nobody_looking(at):
        yield "no cluster was looked at when it was due: do beat and the worker `ganeti` run?"


def lacks_migrations() -> bool:
    """Whether the database has not the tables that this code needs.

    Raises:
        django.db.Error: the database does not answer.
    """
    executor = MigrationExecutor(connection)
    return bool(executor.migration_plan(executor.loader.graph.leaf_nodes()))


def _is_nobody_looking(at: datetime) -> bool:
    """Whether every turn that was set has passed; each look, also one that failed, sets the next.

    One cluster that hangs proves nothing, and one that was just added has no turn yet.
    """
    clusters = Cluster.objects.filter(paused=False)
    newest: datetime | None = clusters.aggregate(newest=Max("next_look_at"))["newest"]
    patience = max(PERIODS * settings.LOOK_PERIOD, timedelta(seconds=30))
    return newest is not None and newest < at - patience
