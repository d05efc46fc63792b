"""Reconcile one instance with the answer to a query: decide on it, apply it, end the query."""

from datetime import datetime
from functools import partial
from typing import Any, Literal

from django.db import transaction
from django.db.models import F

from proj.inventory.models import Instance, Pass, Query
from proj.observation import Interval, Observation, Status
from proj.reconcile import brake, passes, queries
from proj.reconcile.apply import Context, KeepsChanging, apply, weigh
from proj.reconcile.decide import Absence, Action, Decision, Policy, Recorded, Rule
from proj.reconcile.settings import Tuning

EXPLAINED = (Rule.REMOVED, Rule.OPERATION_ENDED)
"""Rules that rest on a job of Ganeti's own: what it did on purpose is not held."""


def reconcile(query: Query, policy: Policy, tuning: Tuning) -> Decision | None:
    """Decide on a query's answer and apply it; a plan only keeps what it would change.

    What is written is dated by the answer's arrival.

    Returns:
        The decision, or None when the query was reconciled already or its pass is held.
    """
    at = query.answered_at
    if query.state != Query.State.ANSWERED or query.answer is None or at is None:
        return None
    seen = _seen_in(query.answer)
    if query.pass_of.plan:
        decision = _plan(query, seen, policy)
    else:
        context = Context(
            policy,
            tuning.flapping,
            at,
            query.pass_of_id,
            query.pass_of.kind,
            may_record=partial(_brake_allows, query, tuning.limits),
        )
        try:
            with transaction.atomic():
                applied = apply(query.cluster, query.instance, seen, context)
                decision = applied.decision
                if not applied.held and decision.action is not Action.ASK:
                    queries.finish(query, decision.rule)
        except KeepsChanging:
            queries.ask_again(query, tuning, "other writers kept changing the instance", at=at)
            return None
        if applied.held:
            mark = brake.fingerprint([query.instance], [])
            passes.hold(query.pass_of, "too many instances would go out of service", mark, at=at)
            return None
        if decision.action is Action.ASK:
            queries.ask_again(query, tuning, f"undecided: {decision.rule}", at=at)
            return decision
    passes.close_if_finished(query.pass_of, at=at)
    return decision


def _seen_in(answer: dict[str, Any]) -> Observation | Absence:
    if "absent" in answer:
        not_before, not_after = (datetime.fromisoformat(text) for text in answer["absent"])
        return Absence(by_name=True, interval=Interval(not_before, not_after))
    return Observation.from_json(answer)


def _plan(query: Query, seen: Observation | Absence, policy: Policy) -> Decision:
    decision = weigh(query.cluster, query.instance, seen, policy)
    changes = (
        passes.changes_json(query.instance, seen, decision, query.pass_of.kind)
        if decision.action is Action.RECORD
        else []
    )
    queries.finish(query, decision.rule, changes=changes)
    return decision


def _brake_allows(
    query: Query, limits: brake.Limits, recorded: Recorded | None, decision: Decision
) -> bool:
    """Whether this change, after those that the pass has made, is still no mass change."""
    pass_of = query.pass_of
    status = next((c.after for c in decision.changes if c.field == "status"), None)
    if (
        recorded is None
        or status not in (Status.STOPPED, Status.DELETED)
        or (status is Status.STOPPED and recorded.status is not Status.ACTIVE)
        or pass_of.kind == Pass.Kind.REQUERY
        or pass_of.fingerprint
        or decision.rule in EXPLAINED
    ):
        return True
    count = _count(pass_of, "stopped" if status is Status.STOPPED else "deleted")
    return count <= limits.at_least(status) or count <= limits.share(status) * _known(pass_of)


def _count(pass_of: Pass, column: Literal["stopped", "deleted"]) -> int:
    """Count one more change of the pass, and return how many there are now.

    The pass keeps the count, and its row stays locked until the change is written: to count
    what has changed so far, for each change anew, would cost the square of a mass change.
    """
    mine = Pass.objects.filter(pk=pass_of.pk).order_by()
    mine.update(**{column: F(column) + 1})
    count: int = mine.values_list(column, flat=True).get()
    return count


def _known(pass_of: Pass) -> int:
    """Return of how many instances a share is taken: those of the list, where there is one."""
    if pass_of.listed:
        return pass_of.listed
    instances = Instance.objects.filter(cluster_id=pass_of.cluster_id)
    return instances.exclude(status=Status.DELETED).count()
