"""Have something reconciled: the request is recorded, the workers carry it out."""

from functools import partial
from typing import Any

from celery import Task
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from ninja import Router, Status
from ninja.errors import HttpError

from proj.api.find import cluster_named
from proj.api.reading import INSTANCE
from proj.api.schemas import (
    Accepted,
    Announced,
    InstanceName,
    Operation,
    Problem,
    ReconcileCluster,
)
from proj.clock import now
from proj.inventory.models import Cluster, Pass
from proj.reconcile import passes
from proj.reconcile.operations import operation_started
from proj.wiring import policy_of, tuning
from tasks.query import issue_jobs, query_cluster

router = Router(tags=["reconcile"])
REFUSALS = {404: Problem, 409: Problem, 503: Problem}


@router.post(INSTANCE + "/reconcile", response={202: Accepted, **REFUSALS}, by_alias=True)
def reconcile_instance(
    request: HttpRequest, response: HttpResponse, cluster: str, name: InstanceName
) -> Status[dict[str, Any]]:
    """Ask Ganeti about one instance, ahead of the periodic work.

    The instance need not be recorded: Ganeti may know it. However many ask at once, one query is
    in flight and one waits behind it.
    """
    row = _not_paused(cluster)
    with transaction.atomic():
        requested = passes.request_instance(row, name, at=now())
        _dispatch_after_commit(issue_jobs, row)
    return _accepted(request, response, requested)


@router.post(
    "/clusters/{slug:cluster}/reconcile", response={202: Accepted, **REFUSALS}, by_alias=True
)
def reconcile_cluster(
    request: HttpRequest, response: HttpResponse, cluster: str, how: ReconcileCluster
) -> Status[dict[str, Any]]:
    """Go over a whole cluster."""
    row = _not_paused(cluster)
    kind = Pass.Kind.ALL if how.all else Pass.Kind.SWEEP
    with transaction.atomic():
        requested = passes.request(row, kind=kind, at=now(), plan=how.plan)
        _dispatch_after_commit(query_cluster, row)
    return _accepted(request, response, requested)


@router.get("/passes/{int:number}", response={200: dict[str, Any], 404: Problem})
def read_pass(request: HttpRequest, number: int) -> dict[str, Any]:
    """Show how far a pass has come, and what it changed."""
    found = Pass.objects.select_related("cluster").filter(pk=number).first()
    if found is None:
        raise HttpError(404, f"no pass {number}")
    return passes.describe(found)


@router.post(INSTANCE + "/operations", response={202: Announced, 404: Problem, 503: Problem})
def announce_operation(
    request: HttpRequest,
    response: HttpResponse,
    cluster: str,
    name: InstanceName,
    operation: Operation,
) -> Status[dict[str, Any]]:
    """Tell that an operation was started, so that its state shows before Ganeti's queue does."""
    row = cluster_named(cluster)
    try:
        operation_started(
            row,
            name,
            action=operation.action,
            job_id=operation.job_id,
            policy=policy_of(row),
            tuning=tuning(),
            at=now(),
        )
    except ValueError as error:
        raise HttpError(422, str(error)) from None
    url = reverse("v1:read_instance", kwargs={"cluster": cluster, "name": name})
    response["Location"] = request.build_absolute_uri(url)
    return Status(202, {"action": operation.action, "url": response["Location"]})


def _not_paused(name: str) -> Cluster:
    cluster = cluster_named(name)
    if cluster.paused:
        raise HttpError(409, f"{name} is paused: manage.py cluster resume {name}")
    return cluster


def _dispatch_after_commit(task: "Task[..., None]", cluster: Cluster) -> None:
    transaction.on_commit(partial(task.delay, cluster=cluster.name))


def _accepted(
    request: HttpRequest, response: HttpResponse, requested: Pass
) -> Status[dict[str, Any]]:
    url = reverse("v1:read_pass", kwargs={"number": requested.pk})
    response["Location"] = request.build_absolute_uri(url)
    return Status(202, {"pass": requested.pk, "url": response["Location"]})
