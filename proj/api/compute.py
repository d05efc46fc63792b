"""OpenStack's list of servers, read-only, for clients that speak OpenStack Compute."""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any
from uuid import UUID, uuid5

from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from ninja import NinjaAPI, Query, Schema
from ninja.errors import HttpError, ValidationError
from pydantic import Field

from proj.api.auth import Bearer, XAuthToken
from proj.api.errors import answer_plainly
from proj.api.find import page, same_with
from proj.inventory.models import Instance
from proj.observation import INSTANCE_NAME, Status

Show = Callable[[HttpRequest, Instance], dict[str, Any]]

IDS = UUID("8a0c3f52-6f0b-5d0e-9b53-0f2a4c1d7e66")
"""The namespace of the servers' ids: never to be changed."""

VM_STATES = {
    Status.ACTIVE: "active",
    Status.BUILD: "building",
    Status.DELETED: "deleted",
    Status.ERROR: "error",
    Status.REBOOT: "active",
    Status.REBUILD: "active",
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
}

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
    place = _place(server)
    if place is None:
        raise HttpError(404, f"Instance {server} could not be found.")
    cluster, name = place
    found = Instance.objects.select_related("cluster").get(cluster__name=cluster, name=name)
    return {"server": _detailed(request, found)}


def id_of(cluster: str, name: str) -> UUID:
    """Return a server's id: the same for the same name in the same cluster, for ever."""
    return uuid5(IDS, f"{cluster}/{name}")


def _place(server: UUID) -> tuple[str, str] | None:
    """Return cluster and name of a server. An id tells neither, so that all are tried."""
    places = Instance.objects.order_by().values_list("cluster__name", "name")
    return next((place for place in places if id_of(*place) == server), None)


def _wanted(wanted: Wanted) -> QuerySet[Instance]:
    rows = Instance.objects.select_related("cluster").order_by("cluster__name", "name")
    if wanted.status is None:
        rows = rows.exclude(status=Status.DELETED)
    else:
        rows = rows.filter(status=wanted.status)
    if wanted.name is not None:
        rows = rows.filter(name__icontains=wanted.name)
    if wanted.marker is not None:
        place = _place(wanted.marker)
        if place is None:
            raise HttpError(400, f"marker [{wanted.marker}] not found")
        cluster, name = place
        rows = rows.filter(Q(cluster__name__gt=cluster) | Q(cluster__name=cluster, name__gt=name))
    return rows


def _page(request: HttpRequest, wanted: Wanted, show: Show) -> dict[str, Any]:
    found, is_more = page(_wanted(wanted), wanted.limit)
    servers = [show(request, instance) for instance in found]
    if not is_more:
        return {"servers": servers}
    next_page = same_with(request, marker=servers[-1]["id"])
    return {"servers": servers, "servers_links": [{"rel": "next", "href": next_page}]}


def _named(request: HttpRequest, instance: Instance) -> dict[str, Any]:
    server = id_of(instance.cluster.name, instance.name)
    url = reverse("compute:read_server", kwargs={"server": server})
    links = [{"rel": "self", "href": request.build_absolute_uri(url)}]
    return {"id": str(server), "name": instance.name, "links": links}


def _detailed(request: HttpRequest, instance: Instance) -> dict[str, Any]:
    task = instance.task_state
    disks = instance.disks
    return _named(request, instance) | {
        "status": instance.status,
        "OS-EXT-STS:vm_state": VM_STATES.get(Status(instance.status)),
        "OS-EXT-STS:task_state": TASK_STATES.get(task, task.lower()) or None,
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
        "updated": f"{instance.observed_not_after:%Y-%m-%dT%H:%M:%SZ}",
    }


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
