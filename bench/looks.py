"""What one look costs beside the bare request, and whether that grows with the cluster."""

from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from django.db import connection
from django.test.utils import CaptureQueriesContext
from ganeti.rapi.client import GanetiRapiClient
from proj.reconcile.leases import lease

from bench.figures import Figure, interleaved, plot
from bench.fleet import fleet
from proj.clock import now
from proj.ganeti.client import connect
from proj.ganeti.replies import LIST_FIELDS
from proj.inventory.models import Cluster
from proj.reconcile import look
from proj.wiring import backend_of, connection_of, policy_of, tuning

SIZES = (100, 500, 2_000, 5_000, 10_000, 20_000)
MEASURED = 2_000


def stable_looks(folder: Path) -> list[Figure]:
    """Measure a stable look of 2,000 instances, and what it costs at other sizes."""
    counts, ours, bare = {}, {}, {}
    requests = 0
    for size in SIZES:
        with fleet(folder, clusters=1, instances=size) as (cluster,):
            take_look(cluster)
            counts[size] = statements(cluster)
            rounds = 25 if size == MEASURED else 7
            ours[size], bare[size] = interleaved(
                lambda it=cluster: take_look(it), lambda it=cluster: bare_list(it), rounds,
                prepare=make_due,
            )  # fmt: skip
            if size == MEASURED:
                make_due()
                requests = requests_of(lambda it=cluster: take_look(it))
    assert len(set(counts.values())) == 1, counts
    plot(
        "look.png", "instances of the cluster", "seconds",
        {"a stable look": ours, "the bare Query and its parsing": bare},
    )  # fmt: skip
    return [
        Figure(
            "stable look, 2,000 instances", ours[MEASURED] / bare[MEASURED],
            "the bare Query of the same fields, with its parsing", "x", 1.5, 1.2,
        ),
        Figure(
            "SQL statements of a stable look", counts[MEASURED],
            "equal at 100 to 20,000 instances", "", 12, 6,
        ),
        Figure(
            "requests of a stable look, its queue followed", requests, "and no job", "", 2, 1
        ),
    ]  # fmt: skip


def requests_of(work: Callable[[], object]) -> int:
    """Count the requests that ``work`` sends to RAPI."""
    send = GanetiRapiClient._SendRequest
    sent: list[str] = []

    def counting(client: GanetiRapiClient, method: str, path: str, *rest: object) -> object:
        sent.append(path)
        return send(client, method, path, *rest)

    with patch.object(GanetiRapiClient, "_SendRequest", counting):
        work()
    assert not any(path.endswith("/info") for path in sent), "a stable look issues no job"
    return len(sent)


def make_due() -> None:
    """Make a look due at a cluster whose queue was read a moment ago, as it is while followed."""
    Cluster.objects.update(next_look_at=None, followed_not_before=now())


def take_look(cluster: Cluster) -> None:
    """Take one look, as the task does."""
    with lease(cluster.name, "look", 100, at=now()) as held:
        assert held is not None
        look.look_at(
            held, backend_of(held.cluster), policy_of(held.cluster), tuning(), now, lambda _: None
        )


def statements(cluster: Cluster) -> int:
    """Count the statements of a look."""
    make_due()
    with CaptureQueriesContext(connection) as captured:
        take_look(cluster)
    return len(captured)


def bare_list(cluster: Cluster) -> None:
    """Ask for the same list by the official client, and do nothing with it."""
    connect(connection_of(cluster)).Query("instance", list(LIST_FIELDS))
