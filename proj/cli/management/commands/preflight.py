"""manage.py preflight: are the servers there that everything else needs?"""

from typing import Any

from django.core.management.base import BaseCommand
from django.db import OperationalError, connection
from redis.exceptions import RedisError

from proj.cli.output import refuse
from proj.clock import now


class Command(BaseCommand):
    """Say in one line which server is missing."""

    help = "Check that the database and Redis answer."

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            now()
        except RedisError as error:
            refuse(f"no answer from Redis (REDIS_URL): {error}; start it: redis-server")
        try:
            connection.ensure_connection()
        except OperationalError as error:
            refuse(f"no answer from the database (DATABASE_URL): {str(error).splitlines()[0]}")
