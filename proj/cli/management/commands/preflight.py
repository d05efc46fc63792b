"""manage.py preflight: are the servers there that all else needs, and the ports free?"""

from typing import Any

from django.db import connection

from proj.cli.base import PlainCommand
from proj.cli.ports import refuse_taken
from proj.clock import now


class Command(PlainCommand):
    """Say in one line which server is missing, or which port is taken."""

    help = "Check that the database and Redis answer, and that the ports are free. For make up."

    def handle(self, *args: Any, **options: Any) -> None:
        now()
        connection.ensure_connection()
        refuse_taken("make demo")
