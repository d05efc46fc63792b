"""What is recorded about clusters and instances."""

from typing import Annotated, Any

from django.http import HttpRequest
from ninja import Query, Router

from proj.api.find import cluster_named, instance_named, page, same_with
from proj.api.schemas import (
    BIGINT,
    Changes,
    Cluster,
    Clusters,
    InstanceName,
    Instances,
    InstanceState,
    Limit,
    Problem,
)
from proj.clock import now_or_here
from proj.inventory import models
from proj.inventory.fleet import standings
from proj.observation import INSTANCE_NAME, Status

router = Router(tags=["what is recorded"])
INSTANCE = "/clusters/{slug:cluster}/instances/{name}"


@router.get("/clusters", response=Clusters)
def list_clusters(request: HttpRequest) -> Clusters:
    """Show how every cluster stands."""
    found = standings(models.Cluster.objects.all(), at=now_or_here())
    return Clusters(clusters=[Cluster.of(standing) for standing in found])


@router.get("/clusters/{slug:cluster}", response={200: Cluster, 404: Problem})
def read_cluster(request: HttpRequest, cluster: str) -> Cluster:
    """Show how one cluster stands."""
    row = cluster_named(cluster)
    (standing,) = standings(models.Cluster.objects.filter(pk=row.pk), at=now_or_here())
    return Cluster.of(standing)


@router.get("/clusters/{slug:cluster}/instances", response={200: Instances, 404: Problem})
def list_instances(
    request: HttpRequest,
    cluster: str,
    status: Status | None = None,
    limit: Limit = 100,
    after: Annotated[str, Query(pattern=INSTANCE_NAME)] | None = None,
) -> Instances:
    """Show the instances of a cluster by name, those with ``status`` only, those ``after`` one."""
    row = cluster_named(cluster)
    rows = row.instances.select_related("cluster").order_by("name")
    if status is not None:
        rows = rows.filter(status=status)
    if after is not None:
        rows = rows.filter(name__gt=after)
    found, is_more = page(rows, limit)
    return Instances(
        instances=[InstanceState.of(instance) for instance in found],
        next=same_with(request, after=found[-1].name) if is_more else None,
    )


@router.get(INSTANCE, response={200: InstanceState, 404: Problem})
def read_instance(request: HttpRequest, cluster: str, name: InstanceName) -> InstanceState:
    """Show the last known state of an instance."""
    return InstanceState.of(instance_named(cluster, name))


@router.get(INSTANCE + "/transitions", response={200: Changes, 404: Problem}, by_alias=True)
def list_transitions(
    request: HttpRequest,
    cluster: str,
    name: InstanceName,
    limit: Limit = 100,
    before: Annotated[int, Query(ge=1, le=BIGINT)] | None = None,
) -> dict[str, Any]:
    """Show what changed, when, by which rule and on whose word; newest first."""
    rows = instance_named(cluster, name).transitions.order_by("-pk")
    if before is not None:
        rows = rows.filter(pk__lt=before)
    found, is_more = page(rows, limit)
    return {
        "transitions": [_change(transition) for transition in found],
        "next": same_with(request, before=found[-1].pk) if is_more else None,
    }


def _change(transition: models.Transition) -> dict[str, Any]:
    names = ("id", "at", "field", "backend_status", "rule", "source", "job_id", "folded")
    change = {name: getattr(transition, name) for name in names}
    return change | {"from": transition.before, "to": transition.after}
