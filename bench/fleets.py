"""A hundred clusters of a thousand instances: one look at all, and the mending of 1 % drift."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from django.db import connection
from django.db.models import F

from bench.figures import Figure, interleaved, plot
from bench.fleet import fleet, names
from bench.real import submit_and_poll
from bench.tasks import do_nothing
from proj.clock import now
from proj.ganeti.client import connect
from proj.ganeti.jobs import FEED_FIELDS
from proj.ganeti.replies import LIST_FIELDS
from proj.inventory.models import Cluster, Instance, Query
from proj.wiring import connection_of
from tasks.query import query_cluster
from tests.environment import until
from tests.fixtures.workers import Processes, memory_of

THREADS = 16
"""As many as the worker ``ganeti`` of the Procfile has."""

CLUSTERS = (10, 30, 100)
ROUNDS = 3
DRIFTED = 100
"""One instance in so many is recorded wrong."""


def fleets(folder: Path) -> list[Figure]:
    """Measure fleets of 10,000 to 100,000 instances; the largest drifts too."""
    looks, bare = {}, {}
    for clusters in CLUSTERS:
        with running(folder / str(clusters), clusters=clusters) as (known, processes):
            looks[clusters], bare[clusters] = interleaved(
                lambda it=known: look_at_all(it), lambda it=known: ask_all(it), ROUNDS
            )
            if clusters == CLUSTERS[-1]:
                mended, parts = interleaved(
                    lambda it=known: mend(it), lambda it=known: bare_mend(it), ROUNDS,
                    prepare=lambda it=known: drift(it),
                )  # fmt: skip
                peak = max(memory_of(process.pid) for process in processes.running.values())
    smallest, largest = CLUSTERS[0], CLUSTERS[-1]
    print(f"looks {looks}, bare {bare}, mended {mended}, its bare parts {parts}")
    plot(
        "fleet.png", "clusters of 1,000 instances", "seconds",
        {"one look at all, by the workers": looks, "the bare requests": bare},
    )  # fmt: skip
    return [
        Figure(
            "stable fleet, 100 clusters of 1,000, one look at all",
            looks[largest] / bare[largest],
            "the bare requests and their parsing, same threads", "x", 2.0, 1.3,
        ),
        Figure(
            "the same fleet with 1 % drifted, until all is recorded",
            mended / looks[largest], "the stable look", "x", 4.0, 2.5,
        ),
        Figure(
            "the same, beside what it cannot do without", mended / parts,
            "the bare lists, jobs and polls, and an empty task for each", "x", 2.0, 1.3,
        ),
        Figure(
            "time per instance, fleet of 100,000",
            looks[largest] / looks[smallest] * smallest / largest,
            "fleet of 10,000", "x", 1.2, 1.0,
        ),
        Figure(
            "peak memory of a worker on the fleet of 100,000", peak, "none", "MB", 250, 150
        ),
    ]  # fmt: skip


@contextmanager
def running(folder: Path, *, clusters: int) -> Iterator[tuple[list[Cluster], Processes]]:
    """Run a fleet and the workers of the Procfile; all that there is has been looked at."""
    processes = Processes()
    with fleet(folder, clusters=clusters, instances=1_000) as known:
        try:
            processes.start("ganeti", "on_demand", "reconcile")
            look_at_all(known)
            look_at_all(known)
            yield known, processes
        finally:
            processes.end()


def look_at_all(clusters: Sequence[Cluster]) -> None:
    """Have the workers take one look at every cluster, and wait until the last is done."""
    begun = now()
    Cluster.objects.update(next_look_at=None, followed_not_before=None)
    for name in names(clusters):
        query_cluster.delay(cluster=name)
    until(lambda: not unlooked(begun), "every cluster was looked at", 300)


def unlooked(since: datetime) -> bool:
    return Cluster.objects.exclude(looked_not_before__gt=since, look_until=None).exists()


def drift(clusters: Sequence[Cluster]) -> None:
    """Record one instance in a hundred wrong, as if it had changed behind our back."""
    for cluster in clusters:
        keys = list(Instance.objects.filter(cluster=cluster).values_list("pk", flat=True))
        Instance.objects.filter(pk__in=keys[::DRIFTED]).update(
            status="STOPPED", backend_status="ADMIN_down", revision=F("revision") + 1
        )


def bare_mend(clusters: Sequence[Cluster]) -> None:
    """Do what mending cannot do without: lists, jobs and their results, and a task for each."""

    def ask(cluster: Cluster) -> None:
        names = list(Instance.objects.filter(cluster=cluster).values_list("name", flat=True))
        submit_and_poll(cluster, names[::DRIFTED])
        connection.close()

    ask_all(clusters)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(ask, clusters))
    do_nothing(len(clusters) * 1_000 // DRIFTED)


def mend(clusters: Sequence[Cluster]) -> None:
    """Look at every cluster, and wait until all that drifted is recorded."""
    look_at_all(clusters)
    unfinished = Query.objects.filter(state__in=Query.UNFINISHED)
    until(lambda: not unfinished.exists(), "nothing is left to do", 300)
    assert not Instance.objects.filter(status="STOPPED").exists()


def ask_all(clusters: Sequence[Cluster]) -> None:
    """Send the same requests by the official client, from as many threads, and drop the answers."""

    def ask(cluster: Cluster) -> None:
        client = connect(connection_of(cluster))
        client.Query("job", list(FEED_FIELDS), ["|", [">", "id", 0]])
        client.Query("instance", list(LIST_FIELDS))

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(ask, clusters))
