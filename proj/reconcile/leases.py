"""The right to be the only one who looks at a cluster, or follows its queue, for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from django.db.models import Q

from proj.inventory.models import Cluster


@dataclass(slots=True)
class Lease:
    """A cluster that is ours for the moment, and what is to be left in its row."""

    cluster: Cluster
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
    free = Q(**{column: None}) | Q(**{f"{column}__lt": at})
    if not Cluster.objects.filter(free, name=name).update(**{column: until}):
        yield None
        return
    held = Lease(Cluster.objects.get(name=name))
    try:
        yield held
    finally:
        mine = Cluster.objects.filter(pk=held.cluster.pk, **{column: until})
        mine.update(**{column: None}, **held.values)
