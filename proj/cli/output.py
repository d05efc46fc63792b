"""What every command prints alike: one clear line for an error, JSON or a table."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from django.core.management.base import CommandError
from django.core.serializers.json import DjangoJSONEncoder
from rich.console import Console
from rich.table import Table

WRONG_USAGE = 2


def refuse(message: str) -> NoReturn:
    """End the command: the caller has to change something first."""
    raise CommandError(message, returncode=WRONG_USAGE)


def some_of(names: Sequence[str], most: int = 5) -> str:
    """Name the first few, and count the others."""
    left = len(names) - most
    named = ", ".join(names[:most])
    return f"{named} and {left} more" if left > 0 else named


def print_json(value: object) -> None:
    """Print ``value`` as JSON on stdout."""
    print(json.dumps(value, indent=2, cls=DjangoJSONEncoder))


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print rows as a table, or as plain lines where there is no terminal; nothing is cut."""
    table = Table()
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*("" if row[name] is None else str(row[name]) for name in columns))
    console = Console()
    if not console.is_terminal:
        console.width = 200
    console.print(table)
