"""Requests: somebody's wish that an instance, or a whole cluster, be confirmed.

Whether one is done is derived: every instance in its scope was confirmed by evidence that began
after it. Otherwise it ends too, and says which were not, and why.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Max, Q

from proj.backend import Look
from proj.inventory import statements
from proj.inventory.models import (
    Cluster,
    Instance,
    Priority,
    Request,
    Transition,
)
from proj.names import is_instance_name
from proj.reconcile import questions, rows, turns
from proj.reconcile.context import Clock
from proj.reconcile.decide import Policy
from proj.reconcile.questions import Wanted
from proj.reconcile.resolve import resolve, resolve_to_read
from proj.reconcile.settings import Tuning
from proj.reconcile.shown import transitions_of
from proj.reconcile.unconfirmed import Left, View, is_absent, question_of

PRUNED_AT_ONCE = 1_000
SEEN_TO_AT_ONCE = 100
OPEN = Request.State.OPEN


class TooMany(Exception):
    """More requests are open in the cluster than it may have: come again later."""


class Removed(Exception):
    """The cluster was removed meanwhile, with all that was wanted of it."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} was removed meanwhile: see manage.py cluster list")


def request_cluster(
    cluster: Cluster, *, kind: Request.Kind, tuning: Tuning, at: datetime
) -> Request:
    """Want a whole cluster confirmed; joins a request that no look has begun to serve.

    Args:
        cluster: whose instances.
        kind: SWEEP lists them, and asks about what differs; ALL asks about every one; PLAN lists
            them, names what differs, and writes nothing.
        tuning: the engine's numbers.
        at: now.

    Raises:
        TooMany: so many requests are open already.
        Removed: the cluster is not there any more.
    """
    with transaction.atomic():
        fresh = locked(cluster)
        mine = Request.objects.filter(cluster=cluster, kind=kind, name="", state=OPEN)
        waiting = mine.filter(scoped_at=None, planned=[]).first()
        if waiting is not None and not fresh.look_token and _has_time(waiting, tuning, at):
            _join(waiting, at)
        else:
            waiting = _create(fresh, kind, "", None, tuning, at)
        if kind != Request.Kind.PLAN:
            Cluster.objects.filter(pk=cluster.pk, failures=0).update(next_look_at=at)
    return waiting


def request_instance(
    cluster: Cluster, name: str, *, tuning: Tuning, at: datetime, plan: bool = False
) -> Request:
    """Want one instance confirmed, now. Joins a request for which no evidence has begun yet.

    However many ask at once, one job is in flight and one more follows.

    Raises:
        ValueError: the name cannot be one of an instance.
        TooMany: so many requests are open already.
        Removed: the cluster is not there any more.
    """
    if not is_instance_name(name):
        raise ValueError(f"{name[:50]!r} is no name of an instance")
    with transaction.atomic():
        fresh = locked(cluster)
        row = resolve(fresh, name)
        uuid, known = (row.uuid, row.name) if row else (None, name)
        if plan:
            return _create(fresh, Request.Kind.PLAN, known, uuid, tuning, at)
        question = question_of(fresh, uuid, known)
        begun = question.begun_at(at) if question is not None else None
        mine = Request.objects.filter(
            cluster=cluster, kind=Request.Kind.INSTANCE, name=known, uuid=uuid, state=OPEN
        )
        joined = mine.first()
        is_served = joined is not None and begun is not None and begun >= joined.requested_at
        if joined is None or is_served or not _has_time(joined, tuning, at):
            joined = _create(fresh, Request.Kind.INSTANCE, known, uuid, tuning, at)
        else:
            _join(joined, at)
        wanted = [Wanted(uuid, known, at)]
        each = timedelta(seconds=tuning.proof_within)
        questions.ask(fresh, wanted, Priority.ON_DEMAND, at=at, override_each=each)
    return joined


def _join(request: Request, at: datetime) -> None:
    """Date a request at the latest wish: the clock was read before the lock was had."""
    request.requested_at = max(request.requested_at, at)
    request.save(update_fields=["requested_at"])


def _has_time(request: Request, tuning: Tuning, at: datetime) -> bool:
    """Whether nearly all of the time is left in which it may be confirmed.

    A later wish has time of its own, and takes none from the first: that one ends.
    """
    since = request.blocked_since
    return since is None or at - since <= timedelta(seconds=tuning.look_period_min)


def locked(cluster: Cluster) -> Cluster:
    """Lock the cluster's row, and read it.

    Raises:
        Removed: it is not there any more.
    """
    fresh = turns.locked(cluster)
    if fresh is None:
        raise Removed(cluster.name)
    return fresh


def _create(
    cluster: Cluster,
    kind: Request.Kind,
    name: str,
    uuid: str | None,
    tuning: Tuning,
    at: datetime,
) -> Request:
    if Request.objects.filter(cluster=cluster, state=OPEN).count() >= tuning.open_requests:
        raise TooMany(f"{cluster.name}: {tuning.open_requests} requests are open; try later")
    last = Transition.objects.aggregate(it=Max("pk"))["it"] or 0
    return Request.objects.create(
        cluster=cluster, kind=kind, name=name, uuid=uuid, epoch=cluster.epoch,
        requested_at=at, first_transition=last,
    )  # fmt: skip


def scope(cluster: Cluster, look: Look, *, suspects: int) -> None:
    """Note the first complete list that began after a request: who is in it is in its scope."""
    Request.objects.filter(
        cluster=cluster,
        state=OPEN,
        scoped_at=None,
        requested_at__lte=look.interval.not_before,  # guard: requested_at__lte
    ).update(scoped_at=look.interval.not_after, listed=look.size, suspects=suspects)


def absent(cluster: Cluster, uuid: str | None, name: str, begun: datetime) -> None:
    """Note that there is nobody of this uuid, or name, neither with the backend nor here."""
    mine = Request.objects.filter(cluster=cluster, state=OPEN, name=name, uuid=uuid)
    mine.update(absent_at=begun)


def refuse(
    cluster: Cluster, error: str, *, at: datetime, kinds: Iterable[Request.Kind] = Request.Kind
) -> None:
    """Close the requests of a cluster that cannot be served before it is mended."""
    Request.objects.filter(cluster=cluster, state=OPEN, kind__in=list(kinds)).update(
        state=Request.State.CLOSED, outcome=Request.Outcome.FAILED, error=error, closed_at=at
    )


def forget(cluster: Cluster, *, before: datetime) -> None:
    """Forget requests that were closed before then, in one bounded batch; the trail stays."""
    closed = Request.objects.filter(
        cluster=cluster, state=Request.State.CLOSED, closed_at__lt=before
    )
    oldest = list(closed.order_by("id").values_list("pk", flat=True)[:PRUNED_AT_ONCE])
    Request.objects.filter(pk__in=oldest).delete()


def settle(cluster: Cluster, policy: Policy, tuning: Tuning, *, now: Clock) -> None:
    """End every request of which nothing is left, or nothing that can be done; see to the rest.

    The caller has locked the cluster's row. The clock is read under that lock, as whoever makes a
    request does, so that none seems to be of the future.
    """
    mine = Request.objects.filter(cluster=cluster, state=OPEN).exclude(kind=Request.Kind.PLAN)
    seen_to = rows.portion(mine, SEEN_TO_AT_ONCE)
    _settle(cluster, seen_to, policy, tuning, now())


def settle_instances(
    cluster: Cluster,
    about: Iterable[tuple[str | None, str]],
    policy: Policy,
    tuning: Tuning,
    *,
    now: Clock,
) -> None:
    """End those of single instances, given by uuid and name, about whom an answer has just come."""
    pairs = list(about)
    kind = Request.Kind.INSTANCE
    if not statements.exists(Request, cluster=cluster.pk, state=OPEN, kind=kind):
        return
    with transaction.atomic():
        fresh = turns.locked(cluster)
        if fresh is None:
            return
        is_it = Q(uuid__in=[uuid for uuid, _ in pairs if uuid])
        is_it |= Q(name__in=[name for _, name in pairs])
        mine = Request.objects.filter(is_it, cluster=cluster, state=OPEN, kind=kind)
        _settle(fresh, list(mine.order_by("pk")), policy, tuning, now())


def _settle(
    cluster: Cluster, found: Sequence[Request], policy: Policy, tuning: Tuning, at: datetime
) -> None:
    if not found:
        return
    view = View(cluster, policy, tuning, at)
    for request in found:
        left = view.left_of(request)
        if not left.number:
            _close(request, cluster, left, at)
            continue
        since = request.blocked_since
        if since is not None and since > at:
            since = None
        if left.is_blocked and since is not None and at - since >= tuning.patience:
            _close(request, cluster, left, at)
            continue
        wanted = (since or at) if left.is_blocked else None
        if not left.is_blocked and view.awaits_reading(request.requested_at):
            # Most that is left is so until the queue is read: each look would begin the wait anew.
            wanted = since
        if wanted != request.blocked_since:
            Request.objects.filter(pk=request.pk).update(blocked_since=wanted)
        _see_to(request, cluster, at)
    view.pull_look([it for it in found if it.kind != Request.Kind.INSTANCE])


def _see_to(request: Request, cluster: Cluster, at: datetime) -> None:
    """Make again the question of a request that has none."""
    if request.kind != Request.Kind.INSTANCE or is_absent(request, at=at):
        return
    row, since = _row_of(cluster, request), request.requested_at
    if row and row.epoch == cluster.epoch and row.confirmed_at and since <= row.confirmed_at <= at:
        # A job has told all that it can; what is left, lists tell.
        return
    uuid, name = (row.uuid, row.name) if row else (request.uuid, request.name)
    if question_of(cluster, uuid, name) is None:
        questions.ask(cluster, [Wanted(uuid, name, since)], Priority.ON_DEMAND, at=at)


def _row_of(cluster: Cluster, request: Request) -> Instance | None:
    if request.uuid:
        return Instance.objects.filter(cluster=cluster, uuid=request.uuid).first()
    return resolve(cluster, request.name)


def _close(request: Request, cluster: Cluster, left: Left, at: datetime) -> None:
    last = Transition.objects.aggregate(it=Max("pk"))["it"] or 0
    request.last_transition = last
    changed = transitions_of(request).exists()
    outcome = Request.Outcome.RECONCILED if changed else Request.Outcome.IN_SYNC
    error = ""
    if left.number:
        outcome = Request.Outcome.FAILED if left.others else Request.Outcome.HELD
        first, others = left.named[0], left.number - 1
        more = f" and {others} more" if others else ""
        error = f"not confirmed: {first.instance}: {first.reason}{more}"
    elif _is_unknown(request, cluster):
        outcome = Request.Outcome.FAILED
        error = f"neither Ganeti nor the database knows {request.name}"
        if any(it.get("instance") == request.name for it in cluster.findings):
            error = f"Ganeti has {request.name} and the database has not: see cluster --unknown"
    mine = Request.objects.filter(pk=request.pk)
    mine.filter(state=OPEN).update(  # guard: state
        state=Request.State.CLOSED,
        outcome=outcome,
        error=error,
        closed_at=at,
        last_transition=last,
        unconfirmed=[[it.instance, it.reason] for it in left.named],
        queried=_queried(request, cluster, at),
    )


def _is_unknown(request: Request, cluster: Cluster) -> bool:
    return (
        request.kind == Request.Kind.INSTANCE
        and _row_of(cluster, request) is None
        and resolve_to_read(cluster, request.name) is None
    )


def _queried(request: Request, cluster: Cluster, at: datetime) -> int:
    asked = Instance.objects.filter(
        cluster=cluster, confirmed_at__gte=request.requested_at, confirmed_at__lte=at
    )
    if request.kind == Request.Kind.INSTANCE:
        asked = asked.filter(Q(name=request.name) | Q(uuid=request.uuid or "-"))
    return asked.count()
