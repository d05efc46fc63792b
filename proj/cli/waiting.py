"""Wait for requests that the workers carry out, and say on stderr what for, and why."""

import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta

from django.conf import settings

from proj.cli.output import some_of
from proj.clock import now_or_here
from proj.inventory.fleet import held
from proj.inventory.models import Cluster, Request
from proj.reconcile.holds import entries_of
from proj.reconcile.requests import Removed
from proj.reconcile.unconfirmed import View
from proj.wiring import policy_of, tuning

FAILED = 1
"""The exit code of a command whose request failed, was held or did not end in time."""

POLL = 0.1
TOLD_EACH = 2.0
"""Seconds between two lines: the reasons take more statements than the states."""
IDLE = timedelta(seconds=10)


def wait_for(requested: list[Request], timeout: float) -> list[Request]:
    """Wait until every request is closed or ``timeout`` seconds are over; return them all.

    Raises:
        Removed: a cluster was removed meanwhile, and the requests with it.
    """
    deadline = time.monotonic() + timeout
    names_of = {request.pk: request.cluster.name for request in requested}
    told: set[str] = set()
    tell_at = 0.0
    while True:
        mine = Request.objects.filter(pk__in=names_of).select_related("cluster")
        found = list(mine.order_by("id"))
        for key in names_of.keys() - {request.pk for request in found}:
            raise Removed(names_of[key])
        left = [request for request in found if request.state != Request.State.CLOSED]
        if not left or time.monotonic() > deadline:
            return found
        if time.monotonic() >= tell_at:
            told = _tell(left, told)
            tell_at = time.monotonic() + TOLD_EACH
        time.sleep(POLL)


def _tell(left: list[Request], told: set[str]) -> set[str]:
    """Print the lines that were not told just before; returns those that hold now."""
    lines = list(_lines(left, at=now_or_here()))
    for line in lines:
        if line not in told:
            print(line, file=sys.stderr, flush=True)
    return set(lines)


def _lines(left: list[Request], *, at: datetime) -> Iterator[str]:
    names_by_reason: dict[str, list[str]] = defaultdict(list)
    for request in left:
        name = f"{request.cluster}/{request.name}" if request.name else request.cluster.name
        names_by_reason[reason_for(request, at=at)].append(name)
    for reason, names in names_by_reason.items():
        yield f"waiting for {some_of(names)}: {reason}"


def reason_for(request: Request, *, at: datetime) -> str:
    """Say why a request is still open."""
    cluster = request.cluster
    if cluster.paused:
        return f"it is paused: manage.py cluster resume {cluster.name}"
    if cluster.is_failing and cluster.last_error:
        return cluster.last_error.removeprefix(f"{cluster.name}: ")
    if _is_idle(request, at):
        return "nobody sees to it: do beat and the workers run?"
    if request.kind == Request.Kind.INSTANCE:
        left = View(cluster, policy_of(cluster), tuning(), at).left_of(request)
        return left.named[0].reason if left.named else "it is confirmed"
    if request.scoped_at is None:
        return "it has not been listed yet"
    return "; ".join(_what_is_left(request, at))


def is_seen_to(request: Request, *, at: datetime) -> bool:
    """Whether a turn at its cluster has begun since, or is under way."""
    moment = request.cluster.moment
    is_begun = moment is not None and moment >= request.requested_at
    return is_begun or _is_at_work(request.cluster, at)


def _is_at_work(cluster: Cluster, at: datetime) -> bool:
    ends = (cluster.look_until, cluster.follow_until, cluster.await_until)
    return any(end is not None and end > at for end in ends)


def _is_idle(request: Request, at: datetime) -> bool:
    """Whether no turn was taken at its cluster for a while, and none is under way."""
    begun = max(filter(None, (request.cluster.moment, request.requested_at)))
    patience = IDLE + 4 * settings.FOLLOW_PERIOD
    return begun < at - patience and not _is_at_work(request.cluster, at)


def _what_is_left(request: Request, at: datetime) -> Iterator[str]:
    cluster = request.cluster
    for hold in held(Cluster.objects.filter(pk=cluster.pk)):
        number = len(entries_of(hold))
        are = "instance is" if number == 1 else "instances are"
        yield f"{number} {are} held: look at Ganeti; if it is right, manage.py approve {hold.pk}"
    if request.blocked_since is None:
        yield "instances are being confirmed"
        return
    left = View(cluster, policy_of(cluster), tuning(), at).left_of(request)
    others = left.others
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        yield f"{others[0].instance}: {others[0].reason}{more}"
