"""Whether the database has just the tables that this code needs."""

from enum import StrEnum
from functools import lru_cache

from django.db import connection
from django.db.migrations.loader import MigrationLoader


class Schema(StrEnum):
    """How the database's migrations compare with this code's."""

    SAME = "same"
    BEHIND = "behind"
    """Some were not applied yet."""
    AHEAD = "ahead"
    """Some are of a later version than this code."""


def compare() -> Schema:
    """Compare the migrations of the database with those of this code.

    Raises:
        django.db.Error: the database does not answer.
    """
    loader = MigrationLoader(connection, ignore_no_migrations=True)
    applied, known = set(loader.applied_migrations), set(loader.disk_migrations)
    if known - applied - set(loader.replacements):
        return Schema.BEHIND
    apps = {app for app, _ in known}
    return Schema.AHEAD if any(key[0] in apps for key in applied - known) else Schema.SAME


@lru_cache(maxsize=4)
def is_same_at(_newest: int) -> bool:
    """Whether they are the same; asked anew when another migration was applied last."""
    return compare() is Schema.SAME
