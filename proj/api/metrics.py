"""Metrics for Prometheus, read from the database when they are asked for.

No label names an instance, and nothing here grows with their number.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta

from django.http import HttpRequest, HttpResponse
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from proj.clock import now_or_here
from proj.inventory.fleet import Standing, standings, transitions_since
from proj.inventory.models import Cluster, Pass, Query
from proj.observation import Status

PREFIX = "reconciler_"
HOUR = timedelta(hours=1)

Counts = Callable[[Standing], Counter[str]]
Number = Callable[[Standing], float | None]

COUNTS: tuple[tuple[str, str, str, Sequence[str], Counts], ...] = (
    ("instances", "Instances recorded.", "status", tuple(Status), lambda it: it.statuses),
    ("operations", "Instances with an operation under way.", "operation", (),
     lambda it: it.operations),
    ("passes", "Passes that are not closed.", "state", (Pass.State.REQUESTED, Pass.State.OPEN),
     lambda it: it.passes),
    ("queries", "Queries that are not finished.", "state", Query.UNFINISHED,
     lambda it: it.queries),
)  # fmt: skip
"""Name, help, second label, the values that are always shown, and what to count."""

NUMBERS: tuple[tuple[str, str, Number], ...] = (
    ("instances_flapping", "Instances marked as flapping.", lambda it: it.flapping),
    ("instances_overdue", "Instances confirmed longer ago than the maximum age.",
     lambda it: it.overdue),
    ("oldest_confirmation_age_seconds", "Age of the oldest confirmation of an instance.",
     lambda it: _age(it, it.oldest)),
    ("confirm_max_age_seconds", "The maximum age that a confirmation is to have.",
     lambda it: it.cluster.confirm_max_age.total_seconds()),
    ("audit_round_seconds", "What the budget of jobs needs to confirm every instance once.",
     lambda it: it.audit.hours * 3600),
    ("passes_held", "Passes that wait for an operator's approval.",
     lambda it: int(it.held is not None)),
    ("cluster_paused", "Whether an operator has paused the cluster.",
     lambda it: int(it.cluster.paused)),
    ("cluster_failures", "Failed requests in a row.", lambda it: it.cluster.failures),
    ("last_look_age_seconds", "Since the last list of the cluster was read.",
     lambda it: _age(it, it.cluster.looked_not_after)),
)  # fmt: skip


class Fleet(Collector):
    """How every cluster stands when it is asked for."""

    def collect(self) -> Iterator[Metric]:
        """Yield every metric, by six statements whatever the number of clusters."""
        at = now_or_here()
        found = standings(Cluster.objects.all(), at=at)
        for name, text, label, always, counts_of in COUNTS:
            gauge = GaugeMetricFamily(PREFIX + name, text, labels=["cluster", label])
            for standing in found:
                counts = counts_of(standing)
                for value in always or counts:
                    gauge.add_metric([standing.cluster.name, value], counts[value])
            yield gauge
        for name, text, number_of in NUMBERS:
            gauge = GaugeMetricFamily(PREFIX + name, text, labels=["cluster"])
            for standing in found:
                number = number_of(standing)
                if number is not None:
                    gauge.add_metric([standing.cluster.name], number)
            yield gauge
        gauge = GaugeMetricFamily(
            PREFIX + "transitions_last_hour", "Changes recorded in the last hour.",
            labels=["cluster", "rule"],
        )  # fmt: skip
        for labels, count in transitions_since(at - HOUR).items():
            gauge.add_metric(labels, count)
        yield gauge


def metrics(request: HttpRequest) -> HttpResponse:
    """Answer in the format that the scraper prefers."""
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return HttpResponse(encode(_registry), content_type=content_type)


def _age(standing: Standing, then: datetime | None) -> float | None:
    return None if then is None else (standing.at - then).total_seconds()


_registry = CollectorRegistry()
_registry.register(Fleet())
