"""What this process remembers of a cluster; all of it may be thrown away at any time.

The decision about a settled instance that is listed as it is recorded depends on nothing but
the two, so that it need not be taken again. A process that has just begun knows nothing, and
neither does one whose database became another.
"""

from dataclasses import dataclass, field

Agreed = set[int]
"""For each instance that agreed: one number of who it is, the listed record and the row, whole.

A hundred thousand of them are held by a worker: no more than a number is kept of each.
"""


@dataclass(slots=True)
class Memo:
    """What is remembered of one cluster."""

    generation: str
    """Of the database that it was remembered of."""
    version: int = 0
    """Of the cluster's row: one that goes back comes from a backup."""
    agreed: Agreed = field(default_factory=set)
    has_looked: bool = False
    has_read: bool = False
    """Whether this process has read the cluster's queue."""


_of_clusters: dict[int, Memo] = {}


def recall(cluster: int, generation: str) -> Memo:
    """Return what this process remembers of a cluster in this very database."""
    memo = _of_clusters.get(cluster)
    if memo is None or memo.generation != generation:
        memo = _of_clusters[cluster] = Memo(generation)
    return memo


def forget() -> None:
    """Forget everything, as a process that begins anew."""
    _of_clusters.clear()
