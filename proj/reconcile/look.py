"""Look at a whole cluster, then select: what to record, what to ask, what to hold."""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db.models import F, Q
from django.db.models.functions import Coalesce

from proj.backend import Backend, BackendError, Look, Misconfigured
from proj.inventory.models import Cluster, Instance, Pass, Query, Transition
from proj.observation import Interval, JobEnd, Status
from proj.reconcile import brake, passes
from proj.reconcile.apply import Context, apply
from proj.reconcile.decide import (
    Absence,
    Action,
    Decision,
    Ended,
    Policy,
    Recorded,
    Rule,
    Seen,
    Working,
    decide,
    trail,
)
from proj.reconcile.rows import looked_of, recorded_of, to_json
from proj.reconcile.settings import Tuning

Clock = Callable[[], datetime]


@dataclass(slots=True)
class Selection:
    """What one look came to: a decision for every instance seen or missed."""

    decided: dict[str, tuple[Seen, Decision, Recorded | None]] = field(default_factory=dict)

    def names(self, action: Action) -> list[str]:
        """Return the instances for which ``action`` was decided."""
        return [name for name, (_, it, _) in self.decided.items() if it.action is action]

    def rules(self) -> set[Rule]:
        """Return every rule that fired for something other than agreement."""
        return {it.rule for _, it, _ in self.decided.values() if it.action is not Action.NOTHING}


@contextmanager
def lease(cluster: Cluster, tuning: Tuning, *, at: datetime) -> Iterator[bool]:
    """Be the only look at this cluster for a while; False when another one is at work."""
    until = at + timedelta(seconds=tuning.look_lease)
    free = Q(look_until=None) | Q(look_until__lt=at)
    mine = bool(Cluster.objects.filter(free, pk=cluster.pk).update(look_until=until))
    try:
        yield mine
    finally:
        if mine:
            Cluster.objects.filter(pk=cluster.pk, look_until=until).update(look_until=None)


def look_at(cluster: Cluster, backend: Backend, policy: Policy, tuning: Tuning, now: Clock) -> bool:
    """Take up what is due for this cluster: a requested pass, a second list, the periodic look.

    The caller holds the lease. A failed request closes or defers the pass and is recorded with
    the cluster.

    Returns:
        Whether instances now wait to be asked about.
    """
    pass_of = _due(cluster, at=now())
    if pass_of is None:
        return False
    try:
        if cluster.failures:
            backend.version()
        look = backend.look()
        ends = _ends(cluster, backend, look)
    except BackendError as error:
        _failed(cluster, pass_of, error, tuning, at=now())
        return False
    selection = select(cluster, look, ends, policy)
    _settle(cluster, pass_of, look, selection, policy, tuning, at=now())
    return True


def select(cluster: Cluster, look: Look, ends: Mapping[int, JobEnd], policy: Policy) -> Selection:
    """Decide for every instance that the look saw, or that it missed."""
    rows = {row.name: row for row in Instance.objects.filter(cluster=cluster)}
    looked = looked_of(cluster)
    recorded = {name: recorded_of(row, looked) for name, row in rows.items()}
    selection = Selection()

    def weigh(name: str, seen: Seen) -> None:
        known = recorded.get(name)
        selection.decided[name] = (seen, decide(known, seen, policy), known)

    working = {work.instance: work for work in look.work}
    for observation in look.listed:
        weigh(observation.instance, observation)
    complete = all(record.instance is not None for record in look.unreadable)
    seen_names = {o.instance for o in look.listed} | {u.instance for u in look.unreadable}
    if complete:
        for name in recorded.keys() - seen_names:
            weigh(name, Absence(by_name=False, interval=look.interval))
    for name, work in working.items():
        weigh(name, Working(work.operation, work.job_id, look.interval))
    for name, known in recorded.items():
        operation = known.memory.operation
        if operation is None or operation.job_id is None or name in working:
            continue
        end = ends.get(operation.job_id)
        if end is not None:
            weigh(name, Ended(operation.name, operation.job_id, end, look.interval))
    return selection


def _due(cluster: Cluster, *, at: datetime) -> Pass | None:
    """Return the pass to carry on with: open, requested or periodic, in this order."""
    sweeps = Pass.objects.filter(cluster=cluster).exclude(kind=Pass.Kind.REQUERY)
    opened = sweeps.filter(state=Pass.State.OPEN).first()
    if opened is not None:
        return opened if opened.relook_at is not None and opened.relook_at <= at else None
    ready = Q(not_until=None) | Q(not_until__lte=at)
    requested = sweeps.filter(ready, state=Pass.State.REQUESTED).order_by("id").first()
    if requested is not None:
        return requested
    if cluster.next_look_at is None or cluster.next_look_at <= at:
        return Pass(cluster=cluster, kind=Pass.Kind.SWEEP, requested_at=at)
    return None


def _ends(cluster: Cluster, backend: Backend, look: Look) -> Mapping[int, JobEnd]:
    known = Instance.objects.filter(
        cluster=cluster,
        operation_job_id__isnull=False,
        operation_end="",
        operation_since__lt=look.interval.not_before,
    ).values_list("operation_job_id", flat=True)
    still_open = {work.job_id for work in look.work}
    ended = [job_id for job_id in known if job_id is not None and job_id not in still_open]
    return backend.ends(ended) if ended else {}


def _failed(
    cluster: Cluster, pass_of: Pass, error: BackendError, tuning: Tuning, *, at: datetime
) -> None:
    failures = cluster.failures + 1
    wait = passes.backoff(
        failures, base=tuning.retry_base, cap=tuning.retry_cap, jitter=random.random()
    )
    Cluster.objects.filter(pk=cluster.pk).update(
        failures=F("failures") + 1,
        last_error=str(error),
        next_look_at=at + max(wait, timedelta(seconds=tuning.look_period)),
    )
    if pass_of.pk is None:
        return
    attempts = pass_of.attempts + 1
    if isinstance(error, Misconfigured) or attempts >= tuning.pass_attempts:
        passes.fail(pass_of, str(error), at=at)
        return
    Pass.objects.filter(pk=pass_of.pk).update(attempts=attempts, not_until=at + wait)
    if pass_of.relook_at is not None:
        Pass.objects.filter(pk=pass_of.pk).update(relook_at=at + wait)


def _settle(
    cluster: Cluster,
    pass_of: Pass,
    look: Look,
    selection: Selection,
    policy: Policy,
    tuning: Tuning,
    *,
    at: datetime,
) -> None:
    held = _held(pass_of, look, selection, tuning)
    wanted = _wanted(cluster, pass_of, look, selection, tuning, at=at)
    news = held or wanted or pass_of.pk or selection.rules() or look.unreadable
    if news:
        _open(pass_of, look, selection, at=at)
    if held is not None:
        passes.hold(pass_of, held.reason, held.fingerprint, at=at)
        _release(cluster, tuning, None, at=at)
        return
    if not pass_of.plan:
        context = Context(policy, tuning.flapping, at, pass_of.pk, pass_of.kind)
        for name, (seen, decision, _) in selection.decided.items():
            if decision.action in (Action.RECORD, Action.REMEMBER) or decision.memory is not None:
                apply(cluster, name, seen, context)
    else:
        planned = [
            change
            for name, (seen, decision, _) in selection.decided.items()
            if decision.action is Action.RECORD
            for change in changes_json(name, seen, decision, pass_of.kind)
        ]
        Pass.objects.filter(pk=pass_of.pk).update(planned=planned)
    for lane, names, by_name in wanted:
        passes.ask(pass_of, names, lane=lane, by_name=by_name)
    if news:
        _schedule_relook(pass_of, selection, tuning, at=at)
        passes.close_finished(cluster, at=at)
    _release(cluster, tuning, None if pass_of.plan else look.interval, at=at)


def _held(pass_of: Pass, look: Look, selection: Selection, tuning: Tuning) -> brake.Held | None:
    known = listed = 0
    deleted, stopped = [], []
    for name, (seen, decision, recorded) in selection.decided.items():
        # One that Ganeti never showed, like a build that failed, cannot vanish.
        if recorded is None or not recorded.backend_status:
            continue
        known += 1
        if isinstance(seen, Absence):
            if decision.rule in (Rule.MISSING_ONCE, Rule.MISSING_TWICE):
                deleted.append(name)
        elif (
            recorded.status is Status.ACTIVE
            and decision.action in (Action.ASK, Action.RECORD)
            and getattr(seen, "status", None) is Status.STOPPED
        ):
            stopped.append(name)
    listed = len(look.listed) + len(look.unreadable) + len(look.work)
    held = brake.hold(
        known=known, listed=listed, deleted=deleted, stopped=stopped, limits=tuning.limits
    )
    if held is not None and held.fingerprint == pass_of.fingerprint:
        return None
    return held


def _wanted(
    cluster: Cluster,
    pass_of: Pass,
    look: Look,
    selection: Selection,
    tuning: Tuning,
    *,
    at: datetime,
) -> list[tuple[Query.Lane, list[str], bool]]:
    suspects = selection.names(Action.ASK)
    wanted = [
        (Query.Lane.SUSPECT, suspects, False),
        (Query.Lane.SUSPECT, selection.names(Action.ASK_BY_NAME), True),
    ]
    if pass_of.looks == 0:
        asked = set(suspects)
        if pass_of.kind == Pass.Kind.ALL:
            rest = [o.instance for o in look.listed if o.instance not in asked]
        else:
            rest = [name for name in _audit(cluster, tuning, at=at) if name not in asked]
        wanted.append((Query.Lane.AUDIT, rest, False))
    return [(lane, names, by_name) for lane, names, by_name in wanted if names]


def _audit(cluster: Cluster, tuning: Tuning, *, at: datetime) -> list[str]:
    """Return those whose turn it is to be confirmed, oldest first, within the hourly budget."""
    spent = Query.objects.filter(
        cluster=cluster, lane=Query.Lane.AUDIT, submitted_at__gt=at - timedelta(hours=1)
    ).count()
    per_look = max(1, round(cluster.jobs_per_hour * tuning.look_period / 3600))
    budget = min(per_look, cluster.jobs_per_hour - spent)
    if budget <= 0:
        return []
    due = Q(confirmed_at=None) | Q(confirmed_at__lt=at - cluster.confirm_max_age / 2)
    waiting = Query.objects.filter(cluster=cluster, state__in=Query.UNFINISHED)
    return list(
        Instance.objects.filter(due, cluster=cluster)
        .filter(Q(ask_after=None) | Q(ask_after__lte=at))
        .exclude(status=Status.DELETED)
        .exclude(name__in=waiting.values("instance"))
        .order_by(Coalesce("confirmed_at", at - timedelta(days=36500)))
        .values_list("name", flat=True)[:budget]
    )


def _open(pass_of: Pass, look: Look, selection: Selection, *, at: datetime) -> None:
    pass_of.state = Pass.State.OPEN
    pass_of.started_at = pass_of.started_at or at
    pass_of.listed = len(look.listed)
    pass_of.suspects += len(selection.names(Action.ASK)) + len(selection.names(Action.ASK_BY_NAME))
    pass_of.looks += 1
    pass_of.relook_at = None
    pass_of.findings = [*_findings(look, selection)]
    pass_of.save()


def _findings(look: Look, selection: Selection) -> Iterable[dict[str, str | None]]:
    for record in look.unreadable:
        yield {"instance": record.instance, "problem": record.problem}
    for name in selection.names(Action.REPORT):
        yield {"instance": name, "problem": "Ganeti has it and the database has not"}
    for name, (_, decision, _) in selection.decided.items():
        if decision.action is Action.REMEMBER and decision.rule is not Rule.AGREES:
            yield {"instance": name, "problem": f"awaits proof: {decision.rule}"}


def _schedule_relook(pass_of: Pass, selection: Selection, tuning: Tuning, *, at: datetime) -> None:
    awaits = {
        decision.rule
        for _, decision, _ in selection.decided.values()
        if decision.action is Action.REMEMBER
    }
    if pass_of.plan or pass_of.looks >= 2:
        return
    if Rule.MISSING_ONCE in awaits:
        wait = tuning.gone_after
    elif Rule.FIRST_OF_TWO_LISTS in awaits:
        wait = tuning.relook_after
    else:
        return
    Pass.objects.filter(pk=pass_of.pk).update(relook_at=at + timedelta(seconds=wait))


def _release(cluster: Cluster, tuning: Tuning, looked: Interval | None, *, at: datetime) -> None:
    spread = 0.9 + random.random() * 0.2
    values: dict[str, object] = {
        "failures": 0,
        "last_error": "",
        "next_look_at": at + timedelta(seconds=tuning.look_period * spread),
    }
    if looked is not None:
        values |= {
            "looked_not_before": looked.not_before,
            "looked_not_after": looked.not_after,
        }
    Cluster.objects.filter(pk=cluster.pk).update(**values)


def changes_json(name: str, seen: Seen, decision: Decision, source: str) -> list[dict[str, object]]:
    """Return the changes of a decision in the shape of the outside contract."""
    return [
        {
            "instance": name,
            "field": change.field,
            "from": to_json(change.before),
            "to": to_json(change.after),
            "backend_status": getattr(seen, "backend_status", None) or "",
            "rule": decision.rule,
            "source": source,
            "job_id": getattr(seen, "job_id", None),
        }
        for change in trail(decision)
    ]


def stopped_or_deleted(pass_of: Pass) -> Mapping[str, int]:
    """Count what this pass has taken out of service or out of existence so far."""
    changes = Transition.objects.filter(pass_of=pass_of, field="status")
    return {
        "deleted": changes.filter(after=Status.DELETED).count(),
        "stopped": changes.filter(before=Status.ACTIVE, after=Status.STOPPED).count(),
    }
