"""Look at a whole cluster: one look at a time, in two requests, and settle what it shows."""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, Q, Sum

from proj.backend import Backend, BackendError, Look, Misconfigured
from proj.inventory.models import Cluster, Instance, Pass
from proj.observation import JobEnd
from proj.reconcile import brake, passes
from proj.reconcile.apply import Context, apply
from proj.reconcile.decide import Action, Policy, Rule
from proj.reconcile.select import (
    Selection,
    due_for_audit,
    mass_change,
    passes_freely,
    questions,
    select,
)
from proj.reconcile.settings import Tuning

Clock = Callable[[], datetime]

HERD = 10
"""Fewer clusters than these may be looked at all at once."""

FASTER, SLOWER = 0.5, 1.5
"""By what the pace changes after a look that had news, and after one that had none."""


@dataclass(slots=True)
class Lease:
    """The right to look at a cluster, and what the look leaves in the cluster's row."""

    cluster: Cluster
    values: dict[str, Any] = field(default_factory=dict)


@contextmanager
def lease(name: str, tuning: Tuning, *, at: datetime) -> Iterator[Lease | None]:
    """Be the only look at this cluster for a while; None when another one is at work."""
    until = at + timedelta(seconds=tuning.look_lease)
    free = Q(look_until=None) | Q(look_until__lt=at)
    if not Cluster.objects.filter(free, name=name).update(look_until=until):
        yield None
        return
    held = Lease(Cluster.objects.get(name=name))
    try:
        yield held
    finally:
        mine = Cluster.objects.filter(pk=held.cluster.pk, look_until=until)
        mine.update(look_until=None, **held.values)


def look_at(held: Lease, backend: Backend, policy: Policy, tuning: Tuning, now: Clock) -> bool:
    """Take up what is due for this cluster: a requested pass, a second list, the periodic look.

    A failed request closes or defers the pass and is recorded with the cluster.

    Returns:
        Whether a pass is open now, so that something is to be awaited.
    """
    cluster = held.cluster
    pass_of = _due(cluster, at=now())
    if pass_of is None:
        return False
    known = _known(cluster)
    try:
        if cluster.failures:
            backend.version()
        look = backend.look()
        ends = _ends(cluster, backend, look) if known["working"] else {}
    except BackendError as error:
        held.values = _failed(cluster, pass_of, error, tuning, at=now())
        return False
    at = now()
    audit = due_for_audit(cluster, tuning, at=at)
    agreed = (cluster.agreed_digest, cluster.agreed_versions)
    is_stable = (
        agreed == (look.digest, known["versions"])
        and not (look.work or known["working"] or audit)
        and pass_of.kind == Pass.Kind.SWEEP
    )
    if is_stable and pass_of.pk is None:
        held.values = _looked(cluster, look, tuning, is_news=False, at=at)
        return False
    selection = Selection() if is_stable else select(cluster, look, ends, policy)
    return _settle(held, pass_of, look, selection, audit, policy, tuning, at=at)


def spread_herd(tuning: Tuning, *, at: datetime) -> None:
    """Give clusters that nobody looked at for a whole period, as after a restart, turns apart."""
    long_ago = at - timedelta(seconds=tuning.look_period)
    herd = list(Cluster.objects.filter(next_look_at__lt=long_ago, paused=False))
    if len(herd) < HERD:
        return
    for cluster in herd:
        cluster.next_look_at = at + timedelta(seconds=random.random() * tuning.look_period)
    Cluster.objects.bulk_update(herd, ["next_look_at"], batch_size=500)


def _due(cluster: Cluster, *, at: datetime) -> Pass | None:
    """Return the pass to carry on with: open, requested or periodic, in this order."""
    unfinished = (
        Pass.objects.filter(cluster=cluster)
        .exclude(state=Pass.State.CLOSED)
        .exclude(kind=Pass.Kind.REQUERY)
        .select_related("cluster")
    )
    for pass_of in sorted(unfinished, key=lambda it: (it.state != Pass.State.OPEN, it.pk)):
        if pass_of.state == Pass.State.OPEN:
            is_due = pass_of.relook_at is not None and pass_of.relook_at <= at
            return pass_of if is_due else None
        if pass_of.not_until is None or pass_of.not_until <= at:
            return pass_of
    if cluster.next_look_at is None or cluster.next_look_at <= at:
        return Pass(cluster=cluster, kind=Pass.Kind.SWEEP, requested_at=at)
    return None


def _known(cluster: Cluster) -> dict[str, int]:
    """Return what tells by one statement whether any row changed since the last look."""
    found = Instance.objects.filter(cluster=cluster).aggregate(
        versions=Sum("version"), working=Count("pk", filter=~Q(operation=""))
    )
    return {"versions": found["versions"] or 0, "working": found["working"]}


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
) -> dict[str, Any]:
    failures = cluster.failures + 1
    wait = passes.backoff(
        failures, base=tuning.retry_base, cap=tuning.retry_cap, jitter=random.random()
    )
    if pass_of.pk is not None:
        attempts = pass_of.attempts + 1
        if isinstance(error, Misconfigured) or attempts >= tuning.pass_attempts:
            passes.fail(pass_of, str(error), at=at)
        else:
            again = {"relook_at": at + wait} if pass_of.relook_at else {"not_until": at + wait}
            Pass.objects.filter(pk=pass_of.pk).update(attempts=attempts, **again)
    pause = max(wait, timedelta(seconds=tuning.look_period))
    return {"failures": failures, "last_error": str(error), "next_look_at": at + pause}


def _looked(
    cluster: Cluster, look: Look, tuning: Tuning, *, is_news: bool, at: datetime
) -> dict[str, Any]:
    """Return what a look that succeeded leaves in the cluster's row."""
    pace = (cluster.pace or tuning.look_period) * (FASTER if is_news else SLOWER)
    pace = min(max(pace, tuning.look_period_min), tuning.look_period)
    spread = 0.9 + random.random() * 0.2
    return {
        "failures": 0,
        "last_error": "",
        "pace": pace,
        "next_look_at": at + timedelta(seconds=pace * spread),
        "looked_not_before": look.interval.not_before,
        "looked_not_after": look.interval.not_after,
    }


def _settle(
    held: Lease,
    pass_of: Pass,
    look: Look,
    selection: Selection,
    audit: list[str],
    policy: Policy,
    tuning: Tuning,
    *,
    at: datetime,
) -> bool:
    cluster = held.cluster
    mass = mass_change(selection, look, tuning.limits)
    asked = [] if mass else questions(pass_of, look, selection, audit, at=at)
    is_news = bool(mass or asked or look.unreadable or selection.is_news())
    held.values = _looked(cluster, look, tuning, is_news=is_news, at=at)
    if pass_of.plan:
        # A plan leaves nothing behind by which later decisions would change.
        del held.values["looked_not_before"], held.values["looked_not_after"]
    if mass is not None and mass.fingerprint != pass_of.fingerprint:
        _hold(pass_of, look, selection, mass, policy, tuning, at=at)
        return False
    if mass is not None:
        asked = questions(pass_of, look, selection, audit, at=at)
    if not is_news and pass_of.pk is None:
        held.values |= _agreement(cluster, look, selection)
        return False
    _open(pass_of, look, selection, at=at)
    if pass_of.plan:
        _plan(pass_of, selection)
    else:
        context = Context(policy, tuning.flapping, at, pass_of.pk, pass_of.kind)
        _carry_out(cluster, selection, context)
    for question in asked:
        passes.ask(pass_of, question.names, lane=question.lane, by_name=question.by_name)
    _schedule_relook(pass_of, selection, tuning, at=at)
    passes.close_finished(cluster, at=at)
    return True


def _agreement(cluster: Cluster, look: Look, selection: Selection) -> dict[str, Any]:
    if not selection.agrees():
        return {}
    return {"agreed_digest": look.digest, "agreed_versions": _known(cluster)["versions"]}


def _hold(
    pass_of: Pass,
    look: Look,
    selection: Selection,
    mass: brake.Held,
    policy: Policy,
    tuning: Tuning,
    *,
    at: datetime,
) -> None:
    """Hold the pass, except for what takes nothing away."""
    free = Selection(
        {name: it for name, it in selection.decided.items() if passes_freely(it[0], it[1])}
    )
    is_periodic = pass_of.pk is None
    if is_periodic and _is_held_already(pass_of.cluster, mass) and not free.decided:
        return
    _open(pass_of, look, selection, at=at)
    if not pass_of.plan:
        context = Context(policy, tuning.flapping, at, pass_of.pk, pass_of.kind)
        _carry_out(pass_of.cluster, free, context)
    passes.hold(pass_of, mass.reason, mass.fingerprint, at=at)


def _is_held_already(cluster: Cluster, mass: brake.Held) -> bool:
    last = Pass.objects.filter(cluster=cluster, state=Pass.State.CLOSED).first()
    return last is not None and last.fingerprint == mass.fingerprint


def _carry_out(cluster: Cluster, selection: Selection, context: Context) -> None:
    for name, (seen, decision, _) in selection.decided.items():
        if decision.action in (Action.RECORD, Action.REMEMBER) or decision.memory is not None:
            apply(cluster, name, seen, context)


def _plan(pass_of: Pass, selection: Selection) -> None:
    planned = [
        change
        for name, (seen, decision, _) in selection.decided.items()
        if decision.action is Action.RECORD
        for change in passes.changes_json(name, seen, decision, pass_of.kind)
    ]
    Pass.objects.filter(pk=pass_of.pk).update(planned=planned)


def _open(pass_of: Pass, look: Look, selection: Selection, *, at: datetime) -> None:
    pass_of.state = Pass.State.OPEN
    pass_of.started_at = pass_of.started_at or at
    pass_of.listed = look.size
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
