"""How every cluster stands, in a constant number of statements whatever their number."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import Count, F, Min, Q, QuerySet
from django.db.models.functions import Coalesce, Greatest

from proj.inventory.audit import Round, audit_round
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
from proj.observation import Status

STUCK = timedelta(minutes=5)
HOUR = timedelta(hours=1)
OPEN = "open"
LABELS = dict(Priority.choices)

NEWEST = 10_000
"""Of what is over so much is counted: a long history costs no more than a short one."""


@dataclass(slots=True)
class Standing:
    """One cluster: its row, and what its instances, questions and jobs add up to."""

    cluster: Cluster
    at: datetime
    statuses: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    """Open jobs that work on instances, by operation; none while the queue cannot be read."""
    requests: Counter[str] = field(default_factory=Counter)
    """Requests that are open, and those of the last hour by outcome."""
    questions: Counter[str] = field(default_factory=Counter)
    """Questions that wait for evidence, by priority."""
    oldest_question: datetime | None = None
    """Since when the one that has waited longest was wanted."""
    open_jobs: int = 0
    """Query jobs of ours that Ganeti has not ended."""
    stuck: int = 0
    """Those of them that have been open for longer than ``STUCK``."""
    held: list[Hold] = field(default_factory=list)
    """What waits for an operator's approval."""
    overdue: int = 0
    """Instances confirmed longer ago than the cluster's ``confirm_max_age``."""
    oldest: datetime | None = None
    """The oldest confirmation; one never confirmed counts from when it was last recorded."""
    flapping: int = 0

    @property
    def is_queue_read(self) -> bool:
        """Whether the operations are known, and lists may settle anything."""
        return is_queue_read(self.cluster, at=self.at)

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


def is_queue_read(cluster: Cluster, *, at: datetime) -> bool:
    """Whether the queue was read within PROOF_WITHIN: without it no bound holds for changes."""
    read = cluster.read_not_after
    patience = max(settings.PROOF_WITHIN, 4 * settings.FOLLOW_PERIOD)
    return read is not None and at - read <= patience


def standings(clusters: QuerySet[Cluster], *, at: datetime) -> list[Standing]:
    """Return how each of ``clusters`` stands at ``at``, by a constant number of statements."""
    found = {cluster.pk: Standing(cluster, at) for cluster in clusters}
    for row in _instances(clusters, at):
        standing = found.get(row["cluster"])
        if standing is not None:
            _add_instances(standing, row)
    _add_questions(found)
    _add_jobs(found, at)
    _add_requests(found, at)
    for hold in held(clusters):
        if hold.cluster_id in found:
            found[hold.cluster_id].held.append(hold)
    return list(found.values())


def held(clusters: QuerySet[Cluster]) -> QuerySet[Hold]:
    """Return the holds that the last look of their cluster found, and nobody has approved."""
    waiting = Hold.objects.filter(cluster__in=clusters.order_by(), current=True, approved_at=None)
    return waiting.select_related("cluster").order_by("pk")


def _add_questions(found: Mapping[int, Standing]) -> None:
    asked = Question.objects.filter(cluster__in=list(found)).order_by()
    for row in asked.values("cluster", "priority").annotate(
        number=Count("pk"), oldest=Min("wanted_since")
    ):
        standing = found[row["cluster"]]
        standing.questions[LABELS.get(row["priority"], "?")] += row["number"]
        standing.oldest_question = min(
            filter(None, (standing.oldest_question, row["oldest"])), default=None
        )


def _add_jobs(found: Mapping[int, Standing], at: datetime) -> None:
    mirrored = Job.objects.filter(
        cluster__in=list(found), state__in=("queued", "waiting", "running")
    )
    for job in mirrored:
        standing = found[job.cluster_id]
        if job.is_ours:
            standing.open_jobs += 1
            standing.stuck += at - job.seen_first > STUCK
        elif not job.is_query and standing.is_queue_read:
            work = job.work if isinstance(job.work, list) else []
            standing.operations.update(
                {str(it[1]) for it in work if isinstance(it, list) and len(it) == 3}
            )


def _add_requests(found: Mapping[int, Standing], at: datetime) -> None:
    mine = Request.objects.filter(cluster__in=list(found)).order_by()
    is_open = mine.filter(state=Request.State.OPEN)
    for row in is_open.values("cluster").annotate(number=Count("pk")):
        found[row["cluster"]].requests[OPEN] = row["number"]
    newest = Request.objects.order_by("-pk").values("pk")[:NEWEST]
    recent = mine.filter(pk__in=newest, state=Request.State.CLOSED, closed_at__gt=at - HOUR)
    for row in recent.values("cluster", "outcome").annotate(number=Count("pk")):
        found[row["cluster"]].requests[row["outcome"]] = row["number"]


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
        .annotate(since=Coalesce("confirmed_at", Greatest("observed_not_before", "created_at")))
        .values("cluster", "status")
        .annotate(
            number=Count("pk"),
            oldest=Min("since", filter=alive),
            flapping=Count("pk", filter=alive & Q(flapping_since__isnull=False)),
            overdue=Count("pk", filter=alive & Q(since__lt=at - F("cluster__confirm_max_age"))),
        )
    )


def _add_instances(standing: Standing, row: Mapping[str, Any]) -> None:
    standing.statuses[row["status"]] += row["number"]
    standing.overdue += row["overdue"]
    standing.flapping += row["flapping"]
    standing.oldest = min(filter(None, (standing.oldest, row["oldest"])), default=None)
