"""Whom a name means: one function for everybody who has only a name."""

from proj.inventory.models import Cluster, Instance, Request
from proj.observation import Status


def resolve(cluster: Cluster, name: str) -> Instance | None:
    """Return the living instance of this name, by preference exactly; Ganeti ignores the case."""
    living = Instance.objects.filter(cluster=cluster).exclude(status=Status.DELETED)
    exact = living.filter(name=name).order_by("-pk").first()
    return exact or living.filter(name=name.lower()).order_by("-pk").first()


def resolve_to_read(cluster: Cluster, name: str) -> Instance | None:
    """Return the living instance of this name, else the newest of those that are gone."""
    gone = Instance.objects.filter(cluster=cluster, status=Status.DELETED, name=name)
    return resolve(cluster, name) or gone.order_by("-pk").first()


def name_announced(cluster: Cluster, full: str) -> bool:
    """Give the creation that was announced as the beginning of a full name this name.

    Ganeti completes and lowers a name as the job starts. Nothing is done where an instance of
    the full name is known, or where more than one announced creation fits.
    """
    living = Instance.objects.filter(cluster=cluster).exclude(status=Status.DELETED)
    if living.filter(name=full).exists():
        return False
    announced = living.filter(uuid=None, backend_status="", status=Status.BUILD)
    fitting = [row for row in announced if f"{full}.".lower().startswith(f"{row.name}.".lower())]
    if len(fitting) != 1:
        return False
    wishes = Request.objects.filter(cluster=cluster, uuid=None, name=fitting[0].name)
    wishes.filter(state=Request.State.OPEN).update(name=full)
    return bool(living.filter(pk=fitting[0].pk).update(name=full))
