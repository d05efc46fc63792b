"""The only writer of an instance's state."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import F

from proj.inventory import statements
from proj.inventory.models import Cluster, Instance, Transition
from proj.observation import Evidence, Interval, Observation
from proj.reconcile.decide import (
    SETTLED,
    Action,
    Decision,
    Policy,
    Recorded,
    Seen,
    decide,
    trail,
)
from proj.reconcile.rows import (
    looked_of,
    memory_of,
    recorded_of,
    to_json,
    values_of_changes,
    values_of_memory,
)


class KeepsChanging(Exception):
    """Other writers were faster, again and again; the caller should try later."""


@dataclass(frozen=True, slots=True)
class Flapping:
    """More than ``changes`` of an instance's status within ``window`` is flapping."""

    changes: int
    window: timedelta


@dataclass(frozen=True, slots=True)
class Context:
    """What every write of one pass has in common."""

    policy: Policy
    flapping: Flapping
    at: datetime
    pass_id: int | None = None
    source: str = ""
    may_record: Callable[[Recorded | None, Decision], bool] | None = None
    """The brake: False leaves the instance as it is."""


@dataclass(frozen=True, slots=True)
class Applied:
    """The decision, and whether the brake held it back."""

    decision: Decision
    held: bool = False


def weigh(cluster: Cluster, name: str, seen: Seen, policy: Policy) -> Decision:
    """Decide on the row as it is now, and write nothing."""
    row = statements.find(Instance, cluster=cluster.pk, name=name)
    recorded = recorded_of(row, looked_of(cluster)) if row else None
    return decide(recorded, seen, policy)


def apply(cluster: Cluster, name: str, seen: Seen, context: Context) -> Applied:
    """Decide on the row as it is now, and write what follows if nobody else wrote meanwhile.

    Raises:
        KeepsChanging: five attempts were overtaken by other writers.
    """
    for _ in range(5):
        row = statements.find(Instance, cluster=cluster.pk, name=name)
        recorded = recorded_of(row, looked_of(cluster)) if row else None
        decision = decide(recorded, seen, context.policy)
        brake = context.may_record if decision.action is Action.RECORD else None
        if brake is not None and not brake(recorded, decision):
            return Applied(decision, held=True)
        if _write(cluster, name, row, seen, decision, context):
            return Applied(decision)
    raise KeepsChanging(f"{cluster.name}/{name}")


def confirm(rows: Sequence[Instance], interval: Interval) -> None:
    """Note that a job found all these instances as they are recorded, by one statement.

    The rows are locked, and were decided on as they are now.
    """
    Instance.objects.filter(pk__in=[row.pk for row in rows]).update(
        **values_of_memory(SETTLED), **_confirmed(interval), version=F("version") + 1
    )


def _write(
    cluster: Cluster,
    name: str,
    row: Instance | None,
    seen: Seen,
    decision: Decision,
    context: Context,
) -> bool:
    values: dict[str, Any] = {}
    if decision.memory is not None:
        values |= values_of_memory(decision.memory)
    if decision.action is Action.RECORD:
        values |= values_of_changes(decision.changes) | _observed(seen.interval)
    if _confirms(seen, decision):
        values |= _confirmed(seen.interval)
    if not values or (row is None and decision.action is not Action.RECORD):
        return True
    if row is None:
        return _create(cluster, name, values, seen, decision, context)
    values |= _counted(row, decision, context)
    is_news = decision.changes or (decision.memory or memory_of(row)) != memory_of(row)
    with transaction.atomic(savepoint=False):
        values |= {"version": row.version + 1, "revision": row.revision + bool(is_news)}
        if not statements.update(Instance, values, pk=row.pk, version=row.version):
            return False
        _keep_trail(row, seen, decision, context, fold=values["flapping_since"] is not None)
    return True


def _create(
    cluster: Cluster,
    name: str,
    values: Mapping[str, Any],
    seen: Seen,
    decision: Decision,
    context: Context,
) -> bool:
    try:
        with transaction.atomic():
            row = Instance.objects.create(cluster=cluster, name=name, **values)
            _keep_trail(row, seen, decision, context, fold=False)
    except IntegrityError:
        return False
    return True


def _observed(interval: Interval) -> dict[str, Any]:
    return {
        "observed_not_before": interval.not_before,
        "observed_not_after": interval.not_after,
    }


def _confirmed(interval: Interval) -> dict[str, Any]:
    asked = {"confirmed_at": interval.not_before, "ask_failures": 0, "ask_after": None}
    return _observed(interval) | asked


def _confirms(seen: Seen, decision: Decision) -> bool:
    return (
        isinstance(seen, Observation)
        and seen.evidence is not Evidence.LIST
        and seen.status is not None
        and decision.action is Action.RECORD
    )


def _counted(row: Instance, decision: Decision, context: Context) -> dict[str, Any]:
    """Count the changes of status within a window; too many of them are flapping."""
    changes = sum(change.field == "status" for change in decision.changes)
    since, count = row.changes_since, row.changes_in_window
    if since is None or context.at - since > context.flapping.window:
        since, count = context.at, 0
    count += changes
    is_flapping = count > context.flapping.changes
    return {
        "changes_since": since,
        "changes_in_window": count,
        "flapping_since": (row.flapping_since or context.at) if is_flapping else None,
    }


def _keep_trail(
    row: Instance, seen: Seen, decision: Decision, context: Context, *, fold: bool
) -> None:
    if decision.action is not Action.RECORD:
        return
    new = []
    for change in trail(decision):
        values: dict[str, Any] = {
            "after": to_json(change.after),
            "backend_status": getattr(seen, "backend_status", None) or "",
            "rule": decision.rule,
            "source": context.source,
            "job_id": getattr(seen, "job_id", None),
            "at": context.at,
            "pass_of_id": context.pass_id,
        }
        if fold and _fold(row, change.field, values):
            continue
        before = to_json(change.before)
        new.append(Transition(instance=row, field=change.field, before=before, **values))
    statements.insert(new)


def _fold(row: Instance, field: str, values: dict[str, Any]) -> bool:
    last = Transition.objects.filter(instance=row, field=field).order_by("-id").first()
    if last is None:
        return False
    Transition.objects.filter(pk=last.pk).update(**values, folded=last.folded + 1)
    return True
