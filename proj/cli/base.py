"""What every command has in common: what is missing is said in one line."""

from typing import Any

import kombu.exceptions
from django.core.management.base import BaseCommand
from django.db import Error, OperationalError, ProgrammingError
from redis.exceptions import RedisError

from proj.cli.output import refuse
from proj.inventory import schema
from proj.inventory.schema import Schema


class PlainCommand(BaseCommand):
    """A command that says which server is missing, and ends as after wrong usage."""

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            return super().execute(*args, **options)
        except (RedisError, kombu.exceptions.OperationalError) as error:
            refuse(f"no answer from Redis (REDIS_URL): {_line(error)}; start it: redis-server")
        except (OperationalError, ProgrammingError) as error:
            if _is_migrated(error):
                raise
            refuse("the database (DATABASE_URL) lacks tables or columns: manage.py migrate")


def _is_migrated(error: Error) -> bool:
    try:
        return schema.compare() is not Schema.BEHIND
    except Error:
        refuse(f"no answer from the database (DATABASE_URL): {_line(error)}")


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
