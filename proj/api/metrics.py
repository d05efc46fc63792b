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
from proj.inventory.fleet import OPEN, Standing, standings, transitions_since
from proj.inventory.models import Cluster, Priority, Request
from proj.observation import Status

PREFIX = "reconciler_"
HOUR = timedelta(hours=1)

Counts = Callable[[Standing], Counter[str]]
Number = Callable[[Standing], float | None]

COUNTS: tuple[tuple[str, str, str, Sequence[str], Counts], ...] = (
    ("instances", "Instances recorded.", "status", tuple(Status), lambda it: it.statuses),
    ("operations", "Open jobs that work on instances.", "operation", (),
     lambda it: it.operations),
    ("questions", "Instances that wait for evidence.", "priority", tuple(Priority.labels),
     lambda it: it.questions),
    ("requests", "Requests that are open, and those of the last hour by outcome.", "outcome",
     (OPEN, *Request.Outcome), lambda it: it.requests),
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
    ("oldest_question_age_seconds", "Since the oldest question was wanted.",
     lambda it: _age(it, it.oldest_question)),
    ("jobs_in_flight", "Query jobs of ours that Ganeti has not ended.", lambda it: it.open_jobs),
    ("jobs_stuck", "Query jobs of ours that have been open for long.", lambda it: it.stuck),
    ("holds", "Mass changes that wait for an operator's approval.", lambda it: len(it.held)),
    ("set_aside", "Items that could not be read or written, and were forgotten.",
     lambda it: it.cluster.set_aside),
    ("epoch", "Raised when the clock jumps or the database is another.",
     lambda it: it.cluster.epoch),
    ("last_reading_age_seconds", "Since the job queue of the cluster was read.",
     lambda it: _age(it, it.cluster.read_not_after)),
    ("last_ask_age_seconds", "Since jobs were last issued or polled.",
     lambda it: _age(it, it.cluster.asked_at)),
    ("last_settle_age_seconds", "Since an answer was last settled.",
     lambda it: _age(it, it.cluster.settled_at)),
    ("cluster_paused", "Whether an operator has paused the cluster.",
     lambda it: int(it.cluster.paused)),
    ("cluster_failures", "Looks that failed in a row.", lambda it: it.cluster.failures),
    ("reading_failures", "Readings of the job queue that failed in a row.",
     lambda it: it.cluster.follow_failures),
    ("ask_failures", "Steps that issue and poll jobs that failed in a row.",
     lambda it: it.cluster.ask_failures),
    ("last_look_age_seconds", "Since the last list of the cluster was read.",
     lambda it: _age(it, it.cluster.looked_not_after)),
)  # fmt: skip


class Fleet(Collector):
    """How every cluster stands when it is asked for."""

    def collect(self) -> Iterator[Metric]:
        """Yield every metric, by a constant number of statements."""
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
