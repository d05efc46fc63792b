"""Whom a name means: one function for everybody who has only a name."""

from collections.abc import Iterable

from proj.inventory.models import Cluster, Instance, Request
from proj.observation import Observation, Status


def resolve(cluster: Cluster, name: str) -> Instance | None:
    """Return the living instance of this name, by preference exactly; Ganeti ignores the case."""
    living = Instance.objects.filter(cluster=cluster).exclude(status=Status.DELETED)
    exact = living.filter(name=name).order_by("-pk").first()
    return exact or living.filter(name=name.lower()).order_by("-pk").first()


def resolve_to_read(cluster: Cluster, name: str) -> Instance | None:
    """Return the living instance of this name, else the newest of those that are gone."""
    gone = Instance.objects.filter(cluster=cluster, status=Status.DELETED, name=name)
    return resolve(cluster, name) or gone.order_by("-pk").first()


def living_with_uuid(cluster: Cluster, seen: Iterable[Observation]) -> set[str]:
    """Return the names, of those in evidence that tells no uuid, whose living rows have one."""
    names = [it.instance for it in seen if it.uuid is None]
    if not names:
        return set()
    mine = Instance.objects.filter(cluster=cluster, name__in=names).exclude(uuid=None)
    return set(mine.exclude(status=Status.DELETED).values_list("name", flat=True))


def is_announced(row: Instance) -> bool:
    """Whether this is a creation that was announced, or has begun, and that nobody has shown."""
    return row.uuid is None and not row.backend_status and row.status == Status.BUILD


def completes(full: str, name: str) -> bool:
    """Whether Ganeti may have made the full name of this one: it completes and lowers it."""
    return f"{full}.".lower().startswith(f"{name}.".lower())


def name_announced(cluster: Cluster, full: str) -> bool:
    """Give the creation that was announced as the beginning of a full name this name.

    Ganeti completes and lowers a name as the job starts. Nothing is done where an instance of
    the full name is known, or where more than one announced creation fits.
    """
    living = Instance.objects.filter(cluster=cluster).exclude(status=Status.DELETED)
    if living.filter(name=full).exists():
        return False
    announced = living.filter(uuid=None, backend_status="", status=Status.BUILD)
    fitting = [row for row in announced if completes(full, row.name)]
    return len(fitting) == 1 and name_row(fitting[0], full)


def name_row(row: Instance, full: str) -> bool:
    """Give the row of an announced creation, and whoever waits for it, its full name."""
    wishes = Request.objects.filter(cluster=row.cluster_id, uuid=None, name=row.name)
    wishes.filter(state=Request.State.OPEN).update(name=full)
    return bool(Instance.objects.filter(pk=row.pk).update(name=full))
