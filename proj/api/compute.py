"""OpenStack's list of servers, read-only, for clients that speak OpenStack Compute."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from ninja import NinjaAPI, Query, Schema
from ninja.errors import HttpError, ValidationError
from pydantic import Field

from proj.api.auth import Bearer, XAuthToken
from proj.api.errors import answer_plainly
from proj.api.find import page, same_with
from proj.clock import now_or_here
from proj.inventory.models import Instance
from proj.names import INSTANCE_NAME
from proj.observation import Status
from proj.reconcile import shown
from proj.reconcile.rows import OLDEST

States = Mapping[int, str | None]
Show = Callable[[HttpRequest, Instance, States], dict[str, Any]]

VM_STATES = {
    Status.ACTIVE: "active",
    Status.BUILD: "building",
    Status.DELETED: "deleted",
    Status.ERROR: "error",
    Status.HARD_REBOOT: "active",
    Status.REBOOT: "active",
    Status.REBUILD: "active",
    Status.RESIZE: "active",
    Status.STOPPED: "stopped",
}
"""Nova's word beside the status; Nova has none for UNKNOWN."""

TASK_STATES = {
    "CREATE": "spawning",
    "REBOOT": "rebooting",
    "REINSTALL": "rebuilding",
    "STARTUP": "powering-on",
    "SHUTDOWN": "powering-off",
    "MIGRATE": "migrating",
    "FAILOVER": "migrating",
    "REMOVE": "deleting",
    "MOVE": "migrating",
    "CHANGE_GROUP": "migrating",
    "MULTI_ALLOC": "spawning",
    "SET_PARAMS": "resize_finish",
    "GROW_DISK": "resize_finish",
}
"""Nova's word for an operation; one that Nova has not is told by its own name."""

api = NinjaAPI(
    title="Servers",
    version="2.1",
    urls_namespace="compute",
    auth=[Bearer(), XAuthToken()],
    openapi_url=None,
)
answer_plainly(api)


@api.exception_handler(HttpError)
def _as_nova_says_it(request: HttpRequest, error: HttpError) -> HttpResponse:
    kind = "itemNotFound" if error.status_code == 404 else "badRequest"
    fault = {kind: {"code": error.status_code, "message": str(error)}}
    return api.create_response(request, fault, status=error.status_code)


@api.exception_handler(ValidationError)
def _bad_request(request: HttpRequest, error: ValidationError) -> HttpResponse:
    problems = (f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors)
    return _as_nova_says_it(request, HttpError(400, "; ".join(problems)))


class Wanted(Schema):
    """Which servers, and from which on."""

    status: Status | None = None
    name: Annotated[str, Field(pattern=INSTANCE_NAME)] | None = None
    """A part of the name."""
    limit: int = Field(default=1000, ge=1, le=1000)
    marker: UUID | None = None
    """The id of the last server of the page before."""


@api.get("/servers")
def list_servers(request: HttpRequest, wanted: Query[Wanted]) -> dict[str, Any]:
    """Name the servers; those that are gone only when they are asked for."""
    return _page(request, wanted, _named)


@api.get("/servers/detail")
def list_servers_in_detail(request: HttpRequest, wanted: Query[Wanted]) -> dict[str, Any]:
    """Show the servers."""
    return _page(request, wanted, _detailed)


@api.get("/servers/{uuid:server}")
def read_server(request: HttpRequest, server: UUID) -> dict[str, Any]:
    """Show one server, also one that is gone."""
    found = _server(server)
    if found is None:
        raise HttpError(404, f"Instance {server} could not be found.")
    return {"server": _detailed(request, found, _task_states([found]))}


def _server(server: UUID) -> Instance | None:
    """Return whom an id means: of a cluster that was added twice, the one that lives."""
    found = Instance.objects.select_related("cluster").filter(api_id=server).order_by("pk")
    living = [it for it in found if it.status != Status.DELETED]
    return next(iter([*living, *found]), None)


def _task_states(instances: Sequence[Instance]) -> States:
    return shown.task_states(instances, at=now_or_here())


def _wanted(wanted: Wanted) -> QuerySet[Instance]:
    rows = Instance.objects.select_related("cluster").order_by("cluster__name", "name", "pk")
    if wanted.status is None:
        rows = rows.exclude(status=Status.DELETED)
    else:
        rows = rows.filter(status=wanted.status)
    if wanted.name is not None:
        rows = rows.filter(name__icontains=wanted.name)
    if wanted.marker is not None:
        last = _server(wanted.marker)
        if last is None:
            raise HttpError(400, f"marker [{wanted.marker}] not found")
        cluster, name = last.cluster.name, last.name
        rows = rows.filter(
            Q(cluster__name__gt=cluster)
            | Q(cluster__name=cluster, name__gt=name)
            | Q(cluster__name=cluster, name=name, pk__gt=last.pk)
        )
    return rows


def _page(request: HttpRequest, wanted: Wanted, show: Show) -> dict[str, Any]:
    found, is_more = page(_wanted(wanted), wanted.limit)
    states = _task_states(found) if show is _detailed else {}
    servers = [show(request, instance, states) for instance in found]
    if not is_more:
        return {"servers": servers}
    next_page = same_with(request, marker=servers[-1]["id"])
    return {"servers": servers, "servers_links": [{"rel": "next", "href": next_page}]}


def _named(request: HttpRequest, instance: Instance, _: States) -> dict[str, Any]:
    server = instance.api_id
    url = reverse("compute:read_server", kwargs={"server": server})
    links = [{"rel": "self", "href": request.build_absolute_uri(url)}]
    return {"id": str(server), "name": instance.name, "links": links}


def _detailed(request: HttpRequest, instance: Instance, states: States) -> dict[str, Any]:
    task = states.get(instance.pk) or ""
    is_hard = task == "REBOOT" and instance.status == Status.HARD_REBOOT
    disks = instance.disks
    return _named(request, instance, states) | {
        "status": instance.status,
        "OS-EXT-STS:vm_state": VM_STATES.get(Status(instance.status)),
        "OS-EXT-STS:task_state": (
            "rebooting_hard" if is_hard else TASK_STATES.get(task, task.lower()) or None
        ),
        "OS-EXT-AZ:availability_zone": instance.cluster.name,
        "OS-EXT-SRV-ATTR:host": instance.nodes[0] if instance.nodes else None,
        "OS-EXT-SRV-ATTR:instance_name": instance.name,
        "addresses": _addresses(instance.nics or []),
        "flavor": {
            "ram": instance.memory,
            "vcpus": instance.vcpus,
            "disk": None if disks is None else sum(disks) // 1024,
        },
        "metadata": {"backend_status": instance.backend_status},
        "updated": f"{_updated(instance):%Y-%m-%dT%H:%M:%SZ}",
    }


def _updated(instance: Instance) -> datetime:
    """Return when the state was read that is recorded; of another epoch, when it was first."""
    observed = instance.observed_not_after
    return observed if observed > OLDEST else instance.created_at


def _addresses(nics: Iterable[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Group the addresses by the link that they are on. A NIC without an address has none."""
    found: dict[str, list[dict[str, Any]]] = {}
    for nic in nics:
        if nic["ip"]:
            address = {
                "addr": nic["ip"],
                "version": 6 if ":" in nic["ip"] else 4,
                "OS-EXT-IPS-MAC:mac_addr": nic["mac"],
            }
            found.setdefault(nic["link"] or "", []).append(address)
    return found
