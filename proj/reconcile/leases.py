"""The right to be the only one who looks at a cluster, or follows its queue, for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from django.db import connection

from proj.inventory import statements
from proj.inventory.models import Cluster


@dataclass(slots=True)
class Lease:
    """A cluster that is ours for the moment, and what is to be left in its row."""

    cluster: Cluster
    at: datetime
    """When it was taken."""
    values: dict[str, Any] = field(default_factory=dict)


@contextmanager
def lease(
    name: str, purpose: Literal["look", "follow"], seconds: float, *, at: datetime
) -> Iterator[Lease | None]:
    """Hold the cluster for one purpose; None while somebody else holds it.

    ``Lease.values`` are written as the lease ends, unless it has run out and is another's.
    """
    column = f"{purpose}_until"
    until = at + timedelta(seconds=seconds)
    taken = _take(name, column, until, at)
    if taken is None:
        yield None
        return
    held = Lease(taken, at)
    try:
        yield held
    finally:
        left = held.values | {column: None}
        statements.update(Cluster, left, pk=held.cluster.pk, **{column: until})


def _take(name: str, column: str, until: datetime, at: datetime) -> Cluster | None:
    """Take the lease and read the cluster by one statement; None where it is another's."""
    moments = [connection.ops.adapt_datetimefield_value(moment) for moment in (until, at)]
    taken = Cluster.objects.raw(
        f"UPDATE {Cluster._meta.db_table} SET {column} = %s"
        f" WHERE name = %s AND ({column} IS NULL OR {column} < %s) RETURNING *",
        [moments[0], name, moments[1]],
    )
    return next(iter(taken), None)
