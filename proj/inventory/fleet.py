"""How every cluster stands, in a constant number of statements whatever their number."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db.models import Case, Count, F, Min, OuterRef, Q, QuerySet, Subquery, Value, When
from django.db.models.functions import Coalesce

from proj.inventory.audit import Round, audit_round
from proj.inventory.models import Cluster, Instance, Pass, Query, Transition
from proj.observation import Status

NEWEST = 10_000
"""Only so many transitions are counted, so that a long history costs no more than a short one."""


@dataclass(slots=True)
class Standing:
    """One cluster: its row, and what its instances, passes and queries add up to."""

    cluster: Cluster
    at: datetime
    statuses: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    """Instances by the operation under way on them."""
    passes: Counter[str] = field(default_factory=Counter)
    """Passes that are not closed, by state."""
    queries: Counter[str] = field(default_factory=Counter)
    """Queries that are not finished, by state."""
    held: Pass | None = None
    """The pass that waits for an operator's approval."""
    overdue: int = 0
    """Instances confirmed longer ago than the cluster's ``confirm_max_age``."""
    oldest: datetime | None = None
    """The oldest confirmation; one never confirmed counts from when it was last recorded."""
    flapping: int = 0

    @property
    def instances(self) -> int:
        """How many there are, without those that are gone."""
        return self.statuses.total() - self.statuses[Status.DELETED]

    @property
    def audit(self) -> Round:
        """Whether the cluster's budget keeps the maximum age."""
        return audit_round(
            self.instances,
            jobs_per_hour=self.cluster.jobs_per_hour,
            confirm_max_age=self.cluster.confirm_max_age,
        )


def standings(clusters: QuerySet[Cluster], *, at: datetime) -> list[Standing]:
    """Return how each of ``clusters`` stands at ``at``, by five statements."""
    found = {cluster.pk: Standing(cluster, at) for cluster in clusters}
    for row in _instances(clusters, at):
        standing = found.get(row["cluster"])
        if standing is not None:
            _add_instances(standing, row)
    unclosed = Pass.objects.exclude(state=Pass.State.CLOSED)
    for key, state, number in _by_state(unclosed, clusters):
        if key in found:
            found[key].passes[state] = number
    unfinished = Query.objects.filter(state__in=Query.UNFINISHED)
    for key, state, number in _by_state(unfinished, clusters):
        if key in found:
            found[key].queries[state] = number
    for held in held_passes(clusters):
        if held.cluster_id in found:
            found[held.cluster_id].held = held
    return list(found.values())


def held_passes(clusters: QuerySet[Cluster]) -> QuerySet[Pass]:
    """Return the passes that wait for approval: held, and no later look found the world in order.

    A pass that failed says nothing about the world, and one over a single instance never holds.
    """
    telling = (Pass.Outcome.HELD, Pass.Outcome.IN_SYNC, Pass.Outcome.RECONCILED)
    looks = Pass.objects.exclude(kind=Pass.Kind.REQUERY).filter(outcome__in=telling)
    last = looks.filter(cluster=OuterRef("pk")).order_by("-pk").values("pk")[:1]
    newest = clusters.order_by().annotate(newest=Subquery(last)).values("newest")
    held = Pass.objects.filter(pk__in=newest, outcome=Pass.Outcome.HELD)
    return held.select_related("cluster")


def transitions_since(since: datetime) -> Mapping[tuple[str, str], int]:
    """Count the transitions since then by cluster and rule, among the newest ``NEWEST``."""
    newest = Transition.objects.order_by("-pk").values("pk")[:NEWEST]
    counted = (
        Transition.objects.filter(pk__in=newest, at__gte=since)
        .order_by()
        .values_list("instance__cluster__name", "rule")
        .annotate(number=Count("pk"))
    )
    return {(cluster, rule): number for cluster, rule, number in counted}


def _instances(clusters: QuerySet[Cluster], at: datetime) -> Iterable[Mapping[str, Any]]:
    alive = ~Q(status=Status.DELETED)
    return (
        Instance.objects.filter(cluster__in=clusters.order_by())
        .order_by()
        .annotate(
            since=Coalesce("confirmed_at", "observed_not_before"),
            working=Case(When(operation_end="", then="operation"), default=Value("")),
        )
        .values("cluster", "status", "working")
        .annotate(
            number=Count("pk"),
            oldest=Min("since", filter=alive),
            flapping=Count("pk", filter=alive & Q(flapping_since__isnull=False)),
            overdue=Count("pk", filter=alive & Q(since__lt=at - F("cluster__confirm_max_age"))),
        )
    )


def _add_instances(standing: Standing, row: Mapping[str, Any]) -> None:
    standing.statuses[row["status"]] += row["number"]
    if row["working"]:
        standing.operations[row["working"]] += row["number"]
    standing.overdue += row["overdue"]
    standing.flapping += row["flapping"]
    standing.oldest = min(filter(None, (standing.oldest, row["oldest"])), default=None)


def _by_state(
    rows: "QuerySet[Pass] | QuerySet[Query]", clusters: QuerySet[Cluster]
) -> Iterator[tuple[int, str, int]]:
    counted = rows.filter(cluster__in=clusters.order_by()).order_by()
    yield from counted.values_list("cluster", "state").annotate(number=Count("pk"))
