"""A hundred clusters of a thousand instances: one look at all, and the mending of 1 % drift."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from django.db import connection

from bench.figures import Figure, interleaved, plot
from bench.fleet import fleet, names, stop
from bench.looks import bare_list
from bench.real import submit_and_poll
from bench.tasks import do_nothing
from proj.clock import server
from proj.inventory.models import Cluster, Instance, Job, Question
from tasks.query import query_cluster, query_clusters
from tests.environment import until
from tests.fixtures.workers import Processes, memory_of

THREADS = 16
"""As many as the worker ``ganeti`` of the Procfile has."""

CLUSTERS = (10, 30, 100)
ROUNDS = 3
DRIFTED = 101
"""One instance in so many is recorded wrong: of a thousand ten, and not all of one node."""


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
                peak = peak_of(processes)
                in_full, all_bare = interleaved(
                    lambda it=known: look_at_all(it, looks=0), lambda it=known: ask_all(it), ROUNDS
                )
                full_peak = peak_of(processes)
    smallest, largest = CLUSTERS[0], CLUSTERS[-1]
    print(f"looks {looks}, bare {bare}, mended {mended}, its bare parts {parts}")
    print(f"in full {in_full}, bare {all_bare}, peaks {peak}, {full_peak} MB")
    plot(
        "fleet.png", "clusters of 1,000 instances", "seconds",
        {"one look at all, by the workers": looks, "the bare requests": bare},
    )  # fmt: skip
    return [
        Figure(
            "stable fleet, 100 clusters of 1,000, one look at all",
            looks[largest] / bare[largest],
            "the bare requests and their parsing, same threads", "x", 1.5, 1.2,
        ),
        Figure(
            "the same fleet with 1 % drifted, until all is recorded", mended / parts,
            "the bare lists, jobs and polls, and an empty task for each", "x", 1.8, 1.3,
        ),
        Figure(
            "time per instance, fleet of 100,000",
            looks[largest] / looks[smallest] * smallest / largest,
            "fleet of 10,000", "x", 1.1, 1.0,
        ),
        Figure(
            "peak memory of a worker on the fleet of 100,000", peak, "none", "MB", 180, 150
        ),
        Figure(
            "the same, all looks comparing in full at once", full_peak, "none", "MB", 250, 200
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


def look_at_all(clusters: Sequence[Cluster], *, looks: int = 1) -> None:
    """Have the workers take one look at every cluster, and wait until the last is done.

    With ``looks`` of 0 each of them is the tenth, and compares in full.
    """
    Cluster.objects.update(next_look_at=None, looks=looks)
    for name in names(clusters):
        query_cluster.delay(cluster=name)
    until(lambda: not unlooked(), "every cluster was looked at", 300)


def unlooked() -> bool:
    """Whether a cluster still waits for its look, or one is under way."""
    return Cluster.objects.exclude(next_look_at__isnull=False, look_until=None).exists()


def peak_of(processes: Processes) -> float:
    """Return the most memory that any worker has held so far, in MB."""
    return max(memory_of(process.pid) for process in processes.running.values())


def drift(clusters: Sequence[Cluster]) -> None:
    """Record one instance in a hundred wrong, as if it had changed behind our back."""
    # Beat does not run here, so that no reading of the queue forgets the jobs that have ended.
    Job.objects.all().delete()
    for cluster in clusters:
        keys = list(Instance.objects.filter(cluster=cluster).values_list("pk", flat=True))
        stop(keys[::DRIFTED])


def bare_mend(clusters: Sequence[Cluster]) -> None:
    """Do what mending cannot do without: lists, jobs and their results, and a task for each."""

    def ask(cluster: Cluster) -> None:
        names = list(Instance.objects.filter(cluster=cluster).values_list("name", flat=True))
        submit_and_poll(cluster, names[::DRIFTED])
        connection.close()

    ask_all(clusters)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(ask, clusters))
    do_nothing(len(clusters) * len(range(0, 1_000, DRIFTED)))


def mend(clusters: Sequence[Cluster]) -> None:
    """Look at every cluster, and wait until all that drifted is recorded."""
    look_at_all(clusters)
    until(nothing_is_left, "nothing is left to do", 300)
    assert not Instance.objects.filter(status="STOPPED").exists()


def nothing_is_left() -> bool:
    """Whether every question was answered; otherwise does what beat does, once a second."""
    if not Question.objects.exists():
        return True
    if server().set("bench:beat", 1, ex=1, nx=True):
        query_clusters.delay()
    return False


def ask_all(clusters: Sequence[Cluster]) -> None:
    """Send the same requests by the official client, from as many threads, and drop the answers."""
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(bare_list, clusters))
