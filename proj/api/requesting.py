"""Have something reconciled: the request is recorded, the workers carry it out."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from ninja import Router, Status
from ninja.errors import HttpError

from proj.api.find import cluster_named
from proj.api.reading import CLUSTER, INSTANCE, held_json
from proj.api.schemas import (
    Accepted,
    Announced,
    Held,
    InstanceName,
    Operation,
    Problem,
    ReconcileCluster,
    ReconcileInstance,
)
from proj.clock import now
from proj.inventory.models import Cluster, Hold, Request
from proj.reconcile import holds, requests, shown
from proj.reconcile.announce import announce
from proj.wiring import policy_of, tuning
from tasks.query import reconcile_now

router = Router(tags=["reconcile"])
REFUSALS = {404: Problem, 409: Problem, 429: Problem, 503: Problem}


@router.post(INSTANCE + "/reconcile", response={202: Accepted, **REFUSALS}, by_alias=True)
def reconcile_instance(
    request: HttpRequest,
    response: HttpResponse,
    cluster: str,
    name: InstanceName,
    how: ReconcileInstance | None = None,
) -> Status[dict[str, Any]]:
    """Ask Ganeti about one instance, ahead of the periodic work.

    The instance need not be recorded: Ganeti may know it. However many ask at once, one job is in
    flight and one more follows.
    """
    row, plan = _not_paused(cluster), how is not None and how.plan
    with transaction.atomic(), _refusing():
        requested = requests.request_instance(row, name, tuning=tuning(), at=now(), plan=plan)
        _dispatch_after_commit(row, whole=False, plan=plan)
    return _accepted(request, response, requested)


@router.post(CLUSTER + "/reconcile", response={202: Accepted, **REFUSALS}, by_alias=True)
def reconcile_cluster(
    request: HttpRequest, response: HttpResponse, cluster: str, how: ReconcileCluster
) -> Status[dict[str, Any]]:
    """Go over a whole cluster."""
    row = _not_paused(cluster)
    whole = Request.Kind.ALL if how.all else Request.Kind.SWEEP
    kind = Request.Kind.PLAN if how.plan else whole
    with transaction.atomic(), _refusing():
        requested = requests.request_cluster(row, kind=kind, tuning=tuning(), at=now())
        _dispatch_after_commit(row, whole=True, plan=how.plan)
    return _accepted(request, response, requested)


@router.get("/passes/{int:number}", response={200: dict[str, Any], 404: Problem})
def read_pass(request: HttpRequest, number: int) -> dict[str, Any]:
    """Show how far a request has come, and what it changed."""
    found = Request.objects.select_related("cluster").filter(pk=number).first()
    if found is None:
        raise HttpError(404, f"no pass {number}")
    return shown.describe(found)


@router.post(
    "/holds/{int:number}/approve", response={200: Held, 404: Problem, 409: Problem}, by_alias=True
)
def approve_hold(request: HttpRequest, number: int) -> dict[str, Any]:
    """Let exactly what a hold names pass, for an hour, while it still differs."""
    found = Hold.objects.select_related("cluster").filter(pk=number).first()
    if found is None:
        raise HttpError(404, f"no hold {number}")
    with transaction.atomic():
        try:
            holds.approve(found, tuning(), at=now())
        except holds.CannotBeApproved as error:
            raise HttpError(409, str(error)) from None
        _dispatch_after_commit(found.cluster, whole=True, plan=False)
    return held_json(found)


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
        with _refusing():
            announce(
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


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except requests.TooMany as error:
        raise HttpError(429, str(error)) from None
    except requests.Removed as error:
        raise HttpError(404, str(error)) from None


def _dispatch_after_commit(cluster: Cluster, *, whole: bool, plan: bool) -> None:
    transaction.on_commit(partial(reconcile_now, cluster, whole=whole, plan=plan))


def _accepted(
    request: HttpRequest, response: HttpResponse, requested: Request
) -> Status[dict[str, Any]]:
    url = reverse("v1:read_pass", kwargs={"number": requested.pk})
    response["Location"] = request.build_absolute_uri(url)
    return Status(202, {"pass": requested.pk, "url": response["Location"]})
