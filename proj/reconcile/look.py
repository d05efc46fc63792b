"""Look at a whole cluster: one look at a time, jobs first, and settle what the list shows."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from proj.backend import Backend, BackendError, Busy, Look, Misconfigured
from proj.inventory import statements
from proj.inventory.models import Cluster, Pass
from proj.observation import Interval
from proj.reconcile import brake, follow, passes
from proj.reconcile.apply import Context, apply
from proj.reconcile.decide import Action, Policy, Rule
from proj.reconcile.leases import Lease, lease
from proj.reconcile.queries import Chain
from proj.reconcile.select import (
    Selection,
    due_for_audit,
    known_rows,
    mass_change,
    passes_freely,
    questions,
    select,
)
from proj.reconcile.settings import Tuning

Clock = Callable[[], datetime]

_OF_THE_WHOLE = (Pass.Kind.SWEEP, Pass.Kind.ALL)

LATER = timedelta(seconds=1)
"""When to look again at a cluster that has no request to spare."""

HERD = 10
"""Fewer clusters than these may be looked at all at once."""

FASTER, SLOWER = 0.5, 1.5
"""By what the pace changes after a look that had news, and after one that had none."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What one look came to."""

    look: Look
    selection: Selection
    audit: list[str]
    """Those whose turn it is to be confirmed."""
    revisions: int
    """The rows' revisions before the list was read."""
    at: datetime


@dataclass(frozen=True, slots=True)
class Next:
    """What a look leaves to be done."""

    is_asked: bool = False
    """Queries wait to be issued."""
    look_in: float | None = None
    """Seconds until a second list is to be taken for a proof."""


def look_at(
    held: Lease, backend: Backend, policy: Policy, tuning: Tuning, now: Clock, chain: Chain
) -> Next:
    """Take up what is due for this cluster: a requested pass, a second list, the periodic look.

    A failed request closes or defers the pass and is recorded with the cluster.
    """
    cluster = held.cluster
    pass_of = _due(cluster, at=held.at)
    if pass_of is None:
        return Next()
    try:
        if cluster.is_failing:
            backend.version()
        is_asked = False
        if not follow.is_fresh(cluster, tuning, at=held.at):
            is_asked = _read_queue(cluster, backend, policy, tuning, now, chain)
        rows = known_rows(cluster, at=held.at)
        audit = due_for_audit(cluster, tuning, at=held.at) if rows.due else []
        is_at_rest = not rows.working and rows.revisions == cluster.agreed_revisions
        if is_at_rest and not audit and pass_of.pk is None:
            seen = backend.look_unless(cluster.agreed_digest)
        else:
            seen = backend.look()
    except Busy:
        held.values = {"next_look_at": now() + LATER}
        return Next()
    except BackendError as error:
        held.values = _failed(cluster, pass_of, error, tuning, at=now())
        return Next()
    if isinstance(seen, Interval):
        held.values = _looked(cluster, seen, tuning, is_news=False)
        return Next(is_asked)
    has_news = not is_at_rest or seen.digest != cluster.agreed_digest
    selection = select(cluster, seen, policy) if has_news else Selection()
    sight = Sight(seen, selection, audit, rows.revisions, seen.interval.not_after)
    settled = _settle(held, pass_of, sight, policy, tuning)
    return replace(settled, is_asked=settled.is_asked or is_asked)


def _read_queue(
    cluster: Cluster, backend: Backend, policy: Policy, tuning: Tuning, now: Clock, chain: Chain
) -> bool:
    """Read the jobs before the instances.

    Raises:
        BackendError: the request failed, or somebody else's is still under way.
    """
    with lease(cluster.name, "follow", tuning.follow_lease, at=now()) as held:
        if held is None:
            raise Busy(f"{cluster.name}: its queue is being read")
        return follow.follow(held, backend, policy, tuning, now, chain)


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
    unfinished = {"kind": _OF_THE_WHOLE, "state": (Pass.State.REQUESTED, Pass.State.OPEN)}
    found: Iterable[Pass] = ()
    if statements.exists(Pass, cluster=cluster.pk, **unfinished):
        found = Pass.objects.filter(
            cluster=cluster, kind__in=unfinished["kind"], state__in=unfinished["state"]
        ).select_related("cluster")
    for pass_of in sorted(found, key=lambda it: (it.state != Pass.State.OPEN, it.pk)):
        if pass_of.state == Pass.State.OPEN:
            is_due = pass_of.relook_at is not None and pass_of.relook_at <= at
            return pass_of if is_due else None
        if pass_of.not_until is None or pass_of.not_until <= at:
            return pass_of
    if cluster.next_look_at is None or cluster.next_look_at <= at:
        return Pass(cluster=cluster, kind=Pass.Kind.SWEEP, requested_at=at)
    return None


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


def misconfigured(error: Misconfigured, tuning: Tuning, *, at: datetime) -> dict[str, Any]:
    """Return what is left in the row of a cluster to which nothing can be sent."""
    pause = timedelta(seconds=tuning.look_period)
    return {"last_error": str(error), "next_look_at": at + pause}


def _looked(cluster: Cluster, read: Interval, tuning: Tuning, *, is_news: bool) -> dict[str, Any]:
    """Return what a look that succeeded leaves in the cluster's row."""
    pace = (cluster.pace or tuning.look_period) * (FASTER if is_news else SLOWER)
    pace = min(max(pace, tuning.look_period_min), tuning.look_period)
    spread = 0.9 + random.random() * 0.2
    return {
        "failures": 0,
        "last_error": "",
        "pace": pace,
        "next_look_at": read.not_after + timedelta(seconds=pace * spread),
        "looked_not_before": read.not_before,
        "looked_not_after": read.not_after,
    }


def _settle(held: Lease, pass_of: Pass, sight: Sight, policy: Policy, tuning: Tuning) -> Next:
    cluster, look, selection, at = held.cluster, sight.look, sight.selection, sight.at
    mass = mass_change(selection, look, tuning.limits)
    is_news = mass is not None or selection.is_news()
    held.values = _looked(cluster, look.interval, tuning, is_news=is_news)
    if pass_of.plan:
        # A plan leaves nothing behind by which later decisions would change.
        del held.values["looked_not_before"], held.values["looked_not_after"]
    if mass is not None and mass.fingerprint != pass_of.fingerprint:
        _hold(pass_of, sight, mass, policy, tuning)
        return Next()
    if (selection.decided or selection.agreed) and selection.agrees():
        held.values |= {"agreed_digest": look.digest, "agreed_revisions": sight.revisions}
    asked = questions(pass_of, look, selection, sight.audit, at=at)
    findings = list(_findings(selection))
    if pass_of.pk is None and not (is_news or asked) and _is_told(cluster, findings):
        return Next()
    _open(pass_of, look, selection, findings, at=at)
    if pass_of.plan:
        _plan(pass_of, selection)
    else:
        context = Context(policy, tuning.flapping, at, pass_of.pk, pass_of.kind)
        _carry_out(cluster, selection, context)
    for question in asked:
        passes.ask(pass_of, question.names, lane=question.lane, by_name=question.by_name)
    look_in = _second_list_in(pass_of, selection, tuning)
    if look_in is not None:
        relook_at = at + timedelta(seconds=look_in)
        Pass.objects.filter(pk=pass_of.pk).update(relook_at=relook_at)
    passes.close_if_finished(pass_of, at=at)
    return Next(is_asked=bool(asked), look_in=look_in)


def _hold(pass_of: Pass, sight: Sight, mass: brake.Held, policy: Policy, tuning: Tuning) -> None:
    """Hold the pass, except for what takes nothing away."""
    look, selection, at = sight.look, sight.selection, sight.at
    free = Selection(
        {name: it for name, it in selection.decided.items() if passes_freely(it[0], it[1])}
    )
    is_periodic = pass_of.pk is None
    if is_periodic and _is_held_already(pass_of.cluster, mass) and not free.decided:
        return
    _open(pass_of, look, selection, list(_findings(selection)), at=at)
    if not pass_of.plan:
        context = Context(policy, tuning.flapping, at, pass_of.pk, pass_of.kind)
        _carry_out(pass_of.cluster, free, context)
    passes.hold(pass_of, mass.reason, mass.fingerprint, at=at)


def _is_told(cluster: Cluster, findings: list[dict[str, str | None]]) -> bool:
    """Whether the last pass said the same already, or there is nothing to say."""
    if not findings:
        return True
    last = Pass.objects.filter(cluster=cluster, kind__in=_OF_THE_WHOLE).first()
    return last is not None and last.findings == findings


def _is_held_already(cluster: Cluster, mass: brake.Held) -> bool:
    last = Pass.objects.filter(
        cluster=cluster, kind__in=_OF_THE_WHOLE, state=Pass.State.CLOSED
    ).first()
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


def _open(
    pass_of: Pass,
    look: Look,
    selection: Selection,
    findings: list[dict[str, str | None]],
    *,
    at: datetime,
) -> None:
    pass_of.state = Pass.State.OPEN
    pass_of.started_at = pass_of.started_at or at
    pass_of.listed = look.size
    pass_of.suspects += len(selection.names(Action.ASK)) + len(selection.names(Action.ASK_BY_NAME))
    pass_of.looks += 1
    pass_of.relook_at = None
    pass_of.findings = findings
    pass_of.save()


def _findings(selection: Selection) -> Iterable[dict[str, str | None]]:
    for record in selection.unreadable:
        yield {"instance": record.instance, "problem": record.problem}
    for name in selection.names(Action.REPORT):
        yield {"instance": name, "problem": "Ganeti has it and the database has not"}
    for name, (_, decision, _) in selection.decided.items():
        if decision.action is Action.REMEMBER and decision.rule is not Rule.AGREES:
            yield {"instance": name, "problem": f"awaits proof: {decision.rule}"}


def _second_list_in(pass_of: Pass, selection: Selection, tuning: Tuning) -> float | None:
    """Return in how many seconds a second list is needed to prove what the first one said."""
    if pass_of.plan or pass_of.looks >= 2:
        return None
    awaits = {
        decision.rule
        for _, decision, _ in selection.decided.values()
        if decision.action is Action.REMEMBER
    }
    if Rule.MISSING_ONCE in awaits:
        return tuning.gone_after
    return tuning.relook_after if Rule.FIRST_OF_TWO_LISTS in awaits else None
