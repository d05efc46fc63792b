"""What one look costs beside the bare request, and whether that grows with the cluster."""

from pathlib import Path

from django.db import connection
from django.test.utils import CaptureQueriesContext

from bench.figures import Figure, interleaved, plot
from bench.fleet import fleet
from proj.ganeti.client import connect
from proj.ganeti.replies import LIST_FIELDS
from proj.inventory.models import Cluster
from proj.reconcile import look
from proj.wiring import connection_of, context

SIZES = (100, 500, 2_000, 5_000, 10_000, 20_000)
MEASURED = 2_000


def stable_looks(folder: Path) -> list[Figure]:
    """Measure a stable look of 2,000 instances, one that compares in full, and other sizes."""
    counts, ours, bare, full = {}, {}, {}, {}
    for size in SIZES:
        with fleet(folder, clusters=1, instances=size) as (cluster,):
            for _ in range(2):
                make_due()
                take_look(cluster)
            counts[size] = statements(cluster)
            rounds = 25 if size == MEASURED else 7
            ours[size], bare[size] = interleaved(
                lambda it=cluster: take_look(it), lambda it=cluster: bare_list(it), rounds,
                prepare=make_due,
            )  # fmt: skip
            full[size], beside = interleaved(
                lambda it=cluster: take_look(it), lambda it=cluster: bare_list(it), rounds,
                prepare=make_due_in_full,
            )  # fmt: skip
            if size == MEASURED:
                in_full = full[size] / beside
    assert len(set(counts.values())) == 1, counts
    print(f"stable {ours}, full {full}, bare {bare}, statements {counts}")
    plot(
        "look.png", "instances of the cluster", "seconds",
        {
            "a stable look": ours, "one that compares in full": full,
            "the bare Query and its parsing": bare,
        },
    )  # fmt: skip
    return [
        Figure(
            "stable look, 2,000 instances", ours[MEASURED] / bare[MEASURED],
            "the bare Query of the same fields, with its parsing", "x", 0.8, 0.6,
        ),
        Figure(
            "SQL statements of a stable look", counts[MEASURED],
            "equal at 100 to 20,000 instances", "", 6, 4,
        ),
        Figure(
            "a look that compares in full, 2,000 instances", in_full,
            "the bare Query of the same fields, with its parsing", "x", 2.0, 1.5,
        ),
    ]  # fmt: skip


def make_due() -> None:
    """Make a look due that is not the tenth."""
    Cluster.objects.update(next_look_at=None, looks=1)


def make_due_in_full() -> None:
    """Make a look due that compares in full."""
    Cluster.objects.update(next_look_at=None, looks=0)


def take_look(cluster: Cluster) -> None:
    """Take one look, as the task does."""
    look.look(cluster.name, context())


def statements(cluster: Cluster) -> int:
    """Count the statements of a look."""
    make_due()
    with CaptureQueriesContext(connection) as captured:
        take_look(cluster)
    return len(captured)


def bare_list(cluster: Cluster) -> None:
    """Ask for the same list by the official client, and do nothing with it."""
    connect(connection_of(cluster)).Query("instance", list(LIST_FIELDS))
