"""Find rows by what a URL names, and cut long answers into pages."""

from typing import Any, TypeVar

from django.db.models import Model, QuerySet
from django.http import HttpRequest
from ninja.errors import HttpError

from proj.inventory.models import Cluster, Instance
from proj.names import is_cluster_name
from proj.reconcile.resolve import resolve_to_read

Row = TypeVar("Row", bound=Model)


def cluster_named(name: str) -> Cluster:
    """Return the cluster.

    Raises:
        HttpError: 404, there is none.
    """
    found = Cluster.objects.filter(name=name).first() if is_cluster_name(name) else None
    if found is None:
        raise HttpError(404, f"no cluster {name}")
    return found


def instance_named(cluster: str, name: str) -> Instance:
    """Return the instance with its cluster.

    Raises:
        HttpError: 404, one of the two is unknown.
    """
    row = cluster_named(cluster)
    instance = resolve_to_read(row, name)
    if instance is None:
        raise HttpError(404, f"no instance {name} is recorded in {cluster}")
    instance.cluster = row
    return instance


def page(rows: "QuerySet[Row]", limit: int) -> tuple[list[Row], bool]:
    """Return the first ``limit`` rows, and whether there are more."""
    found = list(rows[: limit + 1])
    return found[:limit], len(found) > limit


def same_with(request: HttpRequest, **changes: Any) -> str:
    """Return the URL of the request with other parameters."""
    parameters = request.GET.copy()
    for name, value in changes.items():
        parameters[name] = str(value)
    return f"{request.build_absolute_uri(request.path)}?{parameters.urlencode()}"
