"""What this process has decided before: a record that agreed, with a row that is as it was.

The decision about a settled instance that is listed as it is recorded depends on nothing but
the two, so that it need not be taken again. A process that has just begun knows nothing, and
decides about all.
"""

Agreed = dict[str, tuple[int, int]]
"""Name -> the print of the listed record, and the revision of the row."""

_of_clusters: dict[int, Agreed] = {}


def recall(cluster: int) -> Agreed:
    """Return what agreed when this process last looked at the cluster."""
    return _of_clusters.get(cluster, {})


def keep(cluster: int, agreed: Agreed) -> None:
    """Keep what agrees now, in place of what was kept before."""
    _of_clusters[cluster] = agreed
