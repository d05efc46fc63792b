"""Take what somebody else's query read: most of it agrees, the rest goes the one path."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from django.db import transaction

from proj.inventory.models import Cluster, Instance
from proj.observation import Observation
from proj.reconcile.apply import confirm
from proj.reconcile.decide import Action, Decision, Policy, Rule, decide
from proj.reconcile.rows import looked_of, recorded_of

BATCH = 500
"""Instances whose rows are held at a time."""


def harvest(
    cluster: Cluster, observations: Iterable[Observation], policy: Policy
) -> list[Observation]:
    """Confirm the instances that are recorded as they were observed; return the others.

    What is stale, in flight or says nothing is dropped. The rows are locked meanwhile.
    """
    others: list[Observation] = []
    for batch in _batches(observations, BATCH):
        with transaction.atomic():
            names = [seen.instance for seen in batch]
            mine = Instance.objects.select_for_update().filter(cluster=cluster, name__in=names)
            rows = {row.name: row for row in mine}
            looked = looked_of(cluster)
            agreeing = []
            for seen in batch:
                row = rows.get(seen.instance)
                decision = decide(recorded_of(row, looked) if row else None, seen, policy)
                if row is not None and _confirms(decision):
                    agreeing.append(row)
                elif decision.action in (Action.RECORD, Action.ASK):
                    others.append(seen)
            confirm(agreeing, batch[0].interval)
    return others


def _confirms(decision: Decision) -> bool:
    return (decision.action, decision.rule, decision.changes) == (Action.RECORD, Rule.AGREES, ())


def _batches(items: Iterable[Observation], size: int) -> Iterator[Sequence[Observation]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
