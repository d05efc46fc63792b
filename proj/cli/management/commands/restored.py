"""manage.py restored: the database was restored from a backup."""

from typing import Any

from proj.cli.base import PlainCommand
from proj.inventory.models import Installation, new_generation


class Command(PlainCommand):
    """Have every process forget what it remembers, and every moment in the database void."""

    help = "Say that the database was restored from a backup: everything is looked at anew."

    def handle(self, *args: Any, **options: Any) -> None:
        generation = new_generation()
        if not Installation.objects.update(generation=generation):
            Installation.objects.create(generation=generation)
        self.stdout.write("every process begins anew with its next turn")
