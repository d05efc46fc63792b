"""What is recorded about clusters and instances."""

from typing import Annotated, Any

from django.db.models import Q
from django.http import HttpRequest
from ninja import Query, Router

from proj.api.find import cluster_named, instance_named, page, same_with
from proj.api.schemas import (
    BIGINT,
    Changes,
    Cluster,
    Clusters,
    Holds,
    InstanceName,
    Instances,
    InstanceState,
    Limit,
    Problem,
)
from proj.clock import now_or_here
from proj.inventory import models
from proj.inventory.fleet import held, standings
from proj.names import INSTANCE_NAME
from proj.observation import Status
from proj.reconcile import holds, shown

router = Router(tags=["what is recorded"])
CLUSTER = "/clusters/{cluster}"
INSTANCE = CLUSTER + "/instances/{name}"


@router.get("/clusters", response=Clusters)
def list_clusters(request: HttpRequest) -> Clusters:
    """Show how every cluster stands."""
    found = standings(models.Cluster.objects.all(), at=now_or_here())
    return Clusters(clusters=[Cluster.of(standing) for standing in found])


@router.get(CLUSTER, response={200: Cluster, 404: Problem})
def read_cluster(request: HttpRequest, cluster: str) -> Cluster:
    """Show how one cluster stands."""
    row = cluster_named(cluster)
    (standing,) = standings(models.Cluster.objects.filter(pk=row.pk), at=now_or_here())
    return Cluster.of(standing)


@router.get(CLUSTER + "/instances", response={200: Instances, 404: Problem})
def list_instances(
    request: HttpRequest,
    cluster: str,
    status: Status | None = None,
    limit: Limit = 100,
    after: Annotated[str, Query(pattern=INSTANCE_NAME)] | None = None,
    after_row: Annotated[int, Query(ge=0, le=BIGINT)] | None = None,
) -> Instances:
    """Show the instances of a cluster by name, those with ``status`` only, those ``after`` one.

    A name may have been used more than once; ``after_row`` tells its bearers apart.
    """
    row = cluster_named(cluster)
    rows = row.instances.select_related("cluster").order_by("name", "pk")
    if status is not None:
        rows = rows.filter(status=status)
    if after is not None:
        bearers = Q() if after_row is None else Q(name=after, pk__gt=after_row)
        rows = rows.filter(Q(name__gt=after) | bearers)
    found, is_more = page(rows, limit)
    states = shown.task_states(found, at=now_or_here())
    return Instances(
        instances=[InstanceState.of(it, states.get(it.pk)) for it in found],
        next=same_with(request, after=found[-1].name, after_row=found[-1].pk) if is_more else None,
    )


@router.get(INSTANCE, response={200: InstanceState, 404: Problem})
def read_instance(request: HttpRequest, cluster: str, name: InstanceName) -> InstanceState:
    """Show the last known state of an instance."""
    found = instance_named(cluster, name)
    return InstanceState.of(found, shown.task_states([found], at=now_or_here()).get(found.pk))


@router.get(CLUSTER + "/holds", response={200: Holds, 404: Problem}, by_alias=True)
def list_holds(request: HttpRequest, cluster: str) -> dict[str, Any]:
    """Show the mass changes of a cluster that wait for an operator."""
    row = cluster_named(cluster)
    return {"holds": [held_json(it) for it in held(models.Cluster.objects.filter(pk=row.pk))]}


def held_json(hold: models.Hold) -> dict[str, Any]:
    """Describe a hold."""
    changes = [
        {"instance": it.name, "from": it.before, "to": it.after} for it in holds.entries_of(hold)
    ]
    return {
        "id": hold.pk,
        "cluster": hold.cluster.name,
        "reason": hold.reason,
        "since": hold.since,
        "changes": changes,
    }


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
