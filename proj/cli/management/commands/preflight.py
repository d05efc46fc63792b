"""manage.py preflight: are the servers there that everything else needs?"""

from typing import Any

from django.db import connection

from proj.cli.base import PlainCommand
from proj.clock import now


class Command(PlainCommand):
    """Say in one line which server is missing."""

    help = "Check that the database and Redis answer."

    def handle(self, *args: Any, **options: Any) -> None:
        now()
        connection.ensure_connection()
