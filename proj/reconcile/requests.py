"""Requests: somebody's wish that an instance, or a whole cluster, be confirmed.

Whether one is done is derived: every instance in its scope was confirmed by evidence that began
after it. Otherwise it ends too, and says which were not, and why.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import F, Max, Q, QuerySet

from proj.backend import JobState, Look
from proj.inventory import statements
from proj.inventory.models import (
    Cluster,
    Hold,
    Instance,
    Job,
    Priority,
    Question,
    Request,
    Transition,
)
from proj.names import is_instance_name
from proj.observation import Status
from proj.reconcile import confirmed, holds, questions, rows, turns
from proj.reconcile.context import Clock
from proj.reconcile.decide import Policy
from proj.reconcile.questions import Wanted
from proj.reconcile.resolve import resolve, resolve_to_read
from proj.reconcile.settings import Tuning

PRUNED_AT_ONCE = 1_000
SEEN_TO_AT_ONCE = 100
NAMED = 200
"""Instances that an answer names among those that could not be confirmed."""

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
        if waiting is not None and not fresh.look_token:
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
        question = _question(fresh, uuid, known)
        begun = question.claimed_at if question is not None and question.token else None
        mine = Request.objects.filter(
            cluster=cluster, kind=Request.Kind.INSTANCE, name=known, uuid=uuid, state=OPEN
        )
        joined = mine.first()
        if joined is None or (begun is not None and begun >= joined.requested_at):
            joined = _create(fresh, Request.Kind.INSTANCE, known, uuid, tuning, at)
        else:
            _join(joined, at)
        wanted = [Wanted(uuid, known, at)]
        questions.ask(fresh, wanted, Priority.ON_DEMAND, at=at)
        questions.override(fresh, wanted, tuning, at=at)
    return joined


def _join(request: Request, at: datetime) -> None:
    """Date a request at the latest wish: the clock was read before the lock was had."""
    request.requested_at = max(request.requested_at, at)
    request.blocked_since = None
    request.save(update_fields=["requested_at", "blocked_since"])


def locked(cluster: Cluster) -> Cluster:
    """Lock the cluster's row, and read it.

    Raises:
        Removed: it is not there any more.
    """
    fresh = turns.locked(cluster)
    if fresh is None:
        raise Removed(cluster.name)
    return fresh


def _question(cluster: Cluster, uuid: str | None, name: str) -> Question | None:
    mine = Question.objects.filter(cluster=cluster)
    return mine.filter(uuid=uuid).first() if uuid else mine.filter(uuid=None, name=name).first()


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
    mine.filter(requested_at__lte=begun).update(absent_at=begun)  # guard: requested_at__lte


def _is_absent(request: Request) -> bool:
    return request.absent_at is not None and request.absent_at >= request.requested_at


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


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """One instance that was not confirmed since a request, and why."""

    instance: str
    reason: str
    is_blocked: bool
    """Nothing that this service does now can confirm it."""
    is_held: bool = False


def settle(cluster: Cluster, policy: Policy, tuning: Tuning, *, now: Clock) -> None:
    """End every request of which nothing is left, or nothing that can be done; see to the rest.

    The caller has locked the cluster's row. The clock is read under that lock, as whoever makes a
    request does, so that none seems to be of the future.
    """
    mine = Request.objects.filter(cluster=cluster, state=OPEN).exclude(kind=Request.Kind.PLAN)
    _settle(cluster, _next(mine), policy, tuning, now())


def settle_instances(cluster: Cluster, policy: Policy, tuning: Tuning, *, now: Clock) -> None:
    """End those of single instances that an answer has just confirmed."""
    kind = Request.Kind.INSTANCE
    if not statements.exists(Request, cluster=cluster.pk, state=OPEN, kind=kind):
        return
    with transaction.atomic():
        fresh = locked(cluster)
        mine = Request.objects.filter(cluster=cluster, state=OPEN, kind=kind)
        _settle(fresh, _next(mine), policy, tuning, now())


def _next(waiting: "QuerySet[Request]") -> list[Request]:
    """Return those to be seen to now: one that is blocked keeps none waiting that is not."""
    turn = F("blocked_since").asc(nulls_first=True)
    return list(waiting.order_by(turn, "pk")[:SEEN_TO_AT_ONCE])


def _settle(
    cluster: Cluster, found: Sequence[Request], policy: Policy, tuning: Tuning, at: datetime
) -> None:
    if not found:
        return
    view = _View(cluster, policy, tuning, at)
    for request in found:
        if request.requested_at > at:  # guard
            Request.objects.filter(pk=request.pk).update(requested_at=at)
            continue
        left = view.left_of(request)
        if not left:
            _close(request, cluster, [], at)
            continue
        blocked = all(it.is_blocked for it in left)
        since = request.blocked_since
        if since is not None and since > at:
            since = None
        if blocked and since is not None and at - since >= tuning.patience:
            _close(request, cluster, left, at)
            continue
        wanted = (since or at) if blocked else None
        if not blocked and view.awaits_reading(request.requested_at):
            # Most that is left is so until the queue is read: each look would begin the wait anew.
            wanted = since
        if wanted != request.blocked_since:
            Request.objects.filter(pk=request.pk).update(blocked_since=wanted)
        _see_to(request, cluster, at)
    view.pull_look([it for it in found if it.kind != Request.Kind.INSTANCE])


def _see_to(request: Request, cluster: Cluster, at: datetime) -> None:
    """Make again the question of a request that has none."""
    if request.kind != Request.Kind.INSTANCE or _is_absent(request):
        return
    row, since = _row_of(cluster, request), request.requested_at
    if row and row.epoch == cluster.epoch and row.confirmed_at and since <= row.confirmed_at <= at:
        # A job has told all that it can; what is left, lists tell.
        return
    uuid, name = (row.uuid, row.name) if row else (request.uuid, request.name)
    if _question(cluster, uuid, name) is None:
        questions.ask(cluster, [Wanted(uuid, name, since)], Priority.ON_DEMAND, at=at)


def _row_of(cluster: Cluster, request: Request) -> Instance | None:
    if request.uuid:
        return Instance.objects.filter(cluster=cluster, uuid=request.uuid).first()
    return resolve(cluster, request.name)


class _View:
    """What is so in a cluster, as far as requests depend on it; read once for all of them."""

    def __init__(self, cluster: Cluster, policy: Policy, tuning: Tuning, at: datetime) -> None:
        self.cluster, self.policy, self.tuning, self.at = cluster, policy, tuning, at
        ours = Job.objects.filter(cluster=cluster, state__in=rows.OPEN, is_ours=True)
        self.jobs = rows.at_work(cluster, tuning, at=at)
        long_ago = at - timedelta(seconds=tuning.proof_within)
        stuck = ours.filter(seen_first__lte=long_ago).count()
        self.is_stuck = stuck >= cluster.max_in_flight
        """Whether each seat is held by a job that has waited longer than proof is promised."""
        self.work = rows.JobsByInstance(self.jobs)
        self.holds = {
            entry.key: hold
            for hold in Hold.objects.filter(cluster=cluster, current=True, approved_at=None)
            for entry in holds.entries_of(hold)
        }

    def awaits_reading(self, since: datetime) -> bool:
        """Whether a list has come that may confirm what was wanted since then, and no reading."""
        looked = self.cluster.looked
        if looked is None or looked.not_before <= since:
            return False
        return confirmed.list_since(self.cluster, since, at=self.at) is None

    def unconfirmed(self, request: Request) -> "QuerySet[Instance]":
        """Return the living rows of a cluster that no evidence has confirmed since a request."""
        mine = Instance.objects.filter(cluster=self.cluster).exclude(status=Status.DELETED)
        if request.kind != Request.Kind.INSTANCE and request.scoped_at is not None:
            # A row that was made since, of evidence from before, is of one that was there.
            scoped = request.scoped_at
            is_in = Q(created_at__lte=scoped) | Q(observed_not_before__lte=scoped)
            if request.kind == Request.Kind.ALL:
                # What was made known since may have been there: by lists, or by a job from before.
                is_in |= ~Q(backend_status="")
            mine = mine.filter(is_in)
        since = request.requested_at
        asked = Q(confirmed_at__gte=since, confirmed_at__lte=self.at, epoch=self.cluster.epoch)
        # What no job can tell, and lists say is another, is not confirmed by a job.
        of_lists = Q(differs__has_any_keys=sorted(self.policy.list_fields))
        left = mine.exclude(asked & ~of_lists)
        listed_at = confirmed.list_since(self.cluster, since, at=self.at)
        if listed_at is None:
            return left
        agreed = confirmed.agrees(self.cluster, self.jobs, listed_at)
        if request.kind == Request.Kind.ALL:
            # No job can tell these words, or speak of what was never there.
            words = [*self.policy.list_only, ""]
            agreed &= Q(backend_status__in=words)
        return left.exclude(agreed)

    def left_of(self, request: Request) -> list[Unconfirmed]:
        """Return what is left of a request, no more than may be named."""
        if request.kind == Request.Kind.INSTANCE:
            return self._left_of_instance(request)
        if request.scoped_at is None:
            return [self._no_list()]
        # Strangers before rows: one that becomes known in between is found as both, not as neither.
        strangers = Question.objects.filter(
            cluster=self.cluster, listed__isnull=False, wanted_since__lte=request.scoped_at
        )
        known = Instance.objects.filter(cluster=self.cluster).exclude(uuid=None).values("uuid")
        unknown = list(strangers.exclude(uuid__in=known)[:NAMED])
        left = [self._why(row) for row in self.unconfirmed(request).order_by("pk")[:NAMED]]
        return [*left, *(self._why_question(it.name, it, None) for it in unknown)]

    def _left_of_instance(self, request: Request) -> list[Unconfirmed]:
        is_it = Q(name=request.name)
        if request.uuid:
            is_it |= Q(uuid=request.uuid)
        left = self.unconfirmed(request).filter(is_it)
        found = [self._why(row) for row in left.order_by("pk")]
        known = Instance.objects.filter(is_it, cluster=self.cluster)
        if found or known.exclude(status=Status.DELETED).exists():
            return found
        if request.uuid and known.filter(uuid=request.uuid).exists():
            # Gone, by proof; and nobody lives under its name.
            return []
        if _is_absent(request):
            return []
        question = _question(self.cluster, request.uuid, request.name)
        return [self._why_question(request.name, question, None)]

    def _no_list(self) -> Unconfirmed:
        cluster = self.cluster
        if cluster.findings and cluster.failures == 0:
            problem = f"the list is incomplete: {cluster.findings[0].get('problem', '')}"
            return Unconfirmed(cluster.name, problem, is_blocked=True)
        return Unconfirmed(
            cluster.name,
            cluster.last_error.removeprefix(f"{cluster.name}: ") or "no list has been read since",
            is_blocked=cluster.paused or cluster.is_failing,
        )

    def _why(self, row: Instance) -> Unconfirmed:
        hold = self.holds.get(rows.key_of(row))
        if hold is not None:
            return Unconfirmed(
                row.name, f"held: manage.py approve {hold.pk}", is_blocked=True, is_held=True
            )
        question = _question(self.cluster, row.uuid, row.name)
        jobs = [job for job in self.work.on(row) if job.state != JobState.QUEUED]
        if jobs:
            return Unconfirmed(row.name, f"job {jobs[-1].job_id} works on it", is_blocked=True)
        return self._why_question(row.name, question, row)

    def _why_question(
        self, name: str, question: Question | None, row: Instance | None
    ) -> Unconfirmed:
        if self.cluster.paused:
            return Unconfirmed(name, "the cluster is paused", is_blocked=True)
        if self.cluster.is_failing:
            error = self.cluster.last_error or "the cluster is failing"
            return Unconfirmed(name, error.removeprefix(f"{self.cluster.name}: "), is_blocked=True)
        if question is None:
            return self._unasked(name, "its turn has not come yet")
        if question.answer is not None:
            return Unconfirmed(name, "its answer waits to be settled", is_blocked=False)
        if question.token and question.job_id is not None:
            before = f", after {question.attempts} in vain: " if question.attempts else ""
            text = f"query job {question.job_id} is open{before}{question.error if before else ''}"
            return Unconfirmed(name, text, is_blocked=True)
        if question.retry_at is not None and question.retry_at > self.at:
            until = f"{question.retry_at:%H:%M:%S}"
            text = f"set aside until {until}: {question.error or 'asked in vain'}"
            return Unconfirmed(name, text, is_blocked=True)
        if question.attempts:
            text = f"asked {question.attempts} times in vain: {question.error}"
            return Unconfirmed(name, text, is_blocked=True)
        return self._unasked(name, "it waits to be asked about")

    def _unasked(self, name: str, reason: str) -> Unconfirmed:
        if self.is_stuck:
            text = f"all {self.cluster.max_in_flight} seats are stuck behind locks"
            return Unconfirmed(name, text, is_blocked=True)
        return Unconfirmed(name, reason, is_blocked=False)

    def pull_look(self, found: Iterable[Request]) -> None:
        """Have looks go on while a request over a whole cluster waits for one."""
        cluster = self.cluster
        if cluster.failures or not list(found):
            return
        looked = cluster.looked_not_before
        is_unserved = any(
            it.scoped_at is None and (looked is None or looked <= it.requested_at) for it in found
        )
        soon = timedelta(seconds=0 if is_unserved else self.tuning.look_period_min)
        Cluster.objects.filter(pk=cluster.pk, next_look_at__gt=self.at + soon).update(
            next_look_at=self.at + soon
        )


def _close(request: Request, cluster: Cluster, left: Sequence[Unconfirmed], at: datetime) -> None:
    last = Transition.objects.aggregate(it=Max("pk"))["it"] or 0
    request.last_transition = last
    changed = transitions_of(request).exists()
    outcome = Request.Outcome.RECONCILED if changed else Request.Outcome.IN_SYNC
    error = ""
    if left:
        is_held = all(it.is_held for it in left)
        outcome = Request.Outcome.HELD if is_held else Request.Outcome.FAILED
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        error = f"not confirmed: {left[0].instance}: {left[0].reason}{more}"
    elif _is_unknown(request, cluster):
        outcome = Request.Outcome.FAILED
        error = f"neither Ganeti nor the database knows {request.name}"
        if any(it.get("instance") == request.name for it in cluster.findings):
            error = f"Ganeti has {request.name} and the database has not: see cluster --unknown"
    Request.objects.filter(pk=request.pk, state=OPEN).update(
        state=Request.State.CLOSED,
        outcome=outcome,
        error=error,
        closed_at=at,
        last_transition=last,
        unconfirmed=[[it.instance, it.reason] for it in left],
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


def transitions_of(request: Request) -> "QuerySet[Transition]":
    """Return the changes of a request's scope, from its beginning to its end or to now."""
    mine = Transition.objects.filter(
        instance__cluster_id=request.cluster_id, pk__gt=request.first_transition
    )
    if request.last_transition is not None:
        mine = mine.filter(pk__lte=request.last_transition)
    if request.name:
        mine = mine.filter(Q(instance__name=request.name) | Q(instance__uuid=request.uuid or "-"))
    return mine.order_by("pk")


def describe(request: Request) -> dict[str, Any]:
    """Return a request as JSON: the outside contract of ``reconcile --json`` and of the API."""
    is_plan = request.kind == Request.Kind.PLAN
    changes = request.planned if is_plan else [
        {
            "instance": it.instance.name,
            "field": it.field,
            "from": it.before,
            "to": it.after,
            "backend_status": it.backend_status,
            "rule": it.rule,
            "source": it.source,
            "job_id": it.job_id,
        }
        for it in transitions_of(request).select_related("instance")
    ]  # fmt: skip
    cluster = request.cluster
    return {
        "id": request.pk,
        "cluster": cluster.name,
        "kind": request.kind,
        "instance": request.name or None,
        "state": request.state,
        "outcome": request.outcome or None,
        "listed": request.listed,
        "suspects": request.suspects,
        "queried": request.queried,
        "jobs_failed": len(request.unconfirmed),
        "unconfirmed": [
            {"instance": name, "reason": reason} for name, reason in request.unconfirmed
        ],
        "findings": cluster.findings if not request.name else [],
        "error": request.error,
        "changes": changes,
    }
