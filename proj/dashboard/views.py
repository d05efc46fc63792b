"""The one page."""

from collections import Counter
from dataclasses import dataclass

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from proj.clock import age, now_or_here
from proj.dashboard.words import events
from proj.health import problems
from proj.inventory.fleet import Standing, standings
from proj.inventory.models import Cluster, Hold, Instance, Transition
from proj.observation import Status
from proj.reconcile.holds import entries_of

LATEST_CHANGES = 100
LATEST_EVENTS = 20
FLAPPING = 50
HELD = 20
EXISTING = tuple(status for status in Status if status is not Status.DELETED)


@dataclass(frozen=True, slots=True)
class Row:
    """One cluster as the page shows it."""

    standing: Standing
    state: str
    looked: str
    oldest: str
    statuses: list[tuple[Status, int]]

    @property
    def is_in_order(self) -> bool:
        """Whether there is nothing for an operator to do."""
        return self.state == "in order"


@require_safe
def dashboard(request: HttpRequest) -> HttpResponse:
    """Show clusters, what waits for an operator, and what changed last."""
    at = now_or_here()
    found = standings(Cluster.objects.all(), at=at)
    flapping = Instance.objects.filter(flapping_since__isnull=False)
    flapping = flapping.select_related("cluster").order_by("cluster__name", "name")
    latest = Transition.objects.select_related("instance__cluster")[:LATEST_CHANGES]
    rows = [_row(standing) for standing in found]
    return render(
        request,
        "dashboard/index.html",
        {
            "at": at,
            "problems": list(problems()),
            "totals": _existing(sum((it.statuses for it in found), Counter())),
            "rows": sorted(rows, key=lambda row: row.is_in_order),
            "held": [(hold, _held(hold)) for standing in found for hold in standing.held],
            "bound": _bound(),
            "flapping": [(row, age(row.flapping_since, at)) for row in flapping[:FLAPPING]],
            "events": [(it, age(it.at, at)) for it in events(latest)[:LATEST_EVENTS]],
            "flower": f"http://{_host(request)}:{settings.FLOWER_PORT}/",
        },
    )


def _held(hold: Hold) -> str:
    """Name what a hold names, as far as a page can."""
    entries = entries_of(hold)
    names = ", ".join(f"{it.name} {it.before} → {it.after}" for it in entries[:HELD])
    left = len(entries) - HELD
    return f"{names} and {left} more" if left > 0 else names


def _bound() -> int:
    """Return the seconds within which a change is recorded, whatever is locked or refused."""
    return round((settings.PROOF_WITHIN + 2 * settings.LOOK_PERIOD).total_seconds())


def _row(standing: Standing) -> Row:
    return Row(
        standing,
        _state(standing),
        age(standing.cluster.looked_not_after, standing.at),
        age(standing.oldest, standing.at),
        _existing(standing.statuses),
    )


def _state(standing: Standing) -> str:
    cluster = standing.cluster
    if cluster.paused:
        return "paused"
    if standing.held:
        return "held"
    if cluster.is_failing:
        return "failing"
    if cluster.looked_not_after is None:
        return "not looked at yet"
    if cluster.read_not_after is not None and not standing.is_queue_read:
        return "job queue not read"
    return "in order"


def _existing(statuses: Counter[str]) -> list[tuple[Status, int]]:
    return [(status, statuses[status]) for status in EXISTING if statuses[status]]


def _host(request: HttpRequest) -> str:
    """Return the host that the page was asked for, without its port."""
    host, _, port = request.get_host().rpartition(":")
    return host if host and port.isdigit() else request.get_host()
