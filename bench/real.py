"""What the service costs beside the bare client, on a real Ganeti."""

import json
import os
import random
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.figures import Figure, seconds
from bench.fleet import add, record
from proj.clock import now
from proj.ganeti.client import connect
from proj.ganeti.jobs import JOB_FIELDS
from proj.ganeti.replies import LIST_FIELDS
from proj.inventory.models import Cluster, Instance, Pass, Query
from proj.reconcile import passes
from proj.wiring import connection_of
from tasks.query import query_cluster
from tasks.requery import requery
from tests.environment import until
from tests.fixtures.lab import LAB, Lab
from tests.fixtures.workers import WORKERS, Processes

LOOK_PERIOD = 5
SAMPLES = 12
ONE_BY_ONE = 6
"""Instances asked one after another by the official client, at 5 s each; the rest is inferred."""


def on_a_real_cluster(folder: Path) -> list[Figure]:
    """Start the lab of ``make lab``, measure on it as it grows, and remove it."""
    processes = Processes()
    with lab(folder / "lab") as running:
        try:
            latencies = notice_changes(running, processes)
            processes.end()
            processes.start(*WORKERS, LOOK_PERIOD="86400", LOOK_PERIOD_MIN="86400")
            all_of_60 = query_all(grown(running, 60))
            on_demand = ask_under_load(grown(running, 160))
            one_of_2000 = find_one(running, grown(running, 2_000))
        finally:
            processes.end()
            Cluster.objects.all().delete()
    return [*all_of_60, one_of_2000, *latencies, on_demand]


@contextmanager
def lab(folder: Path) -> Iterator[Lab]:
    """Run a lab of 20 instances, or the one that TEST_LAB keeps."""
    kept = os.environ.get("TEST_LAB")
    directory = Path(kept) if kept else folder
    options = ["--dir", str(directory)]
    try:
        subprocess.run([str(LAB), "up", *options], check=True, stdout=subprocess.DEVNULL)
        yield Lab(directory, json.loads((directory / "clusters.json").read_text())[0])
    finally:
        if not kept:
            subprocess.run([str(LAB), "down", *options], check=True)


def grown(running: Lab, instances: int) -> Cluster:
    """Clone instances in the configuration until there are so many, and record all as listed."""
    options = ["--dir", str(running.directory), "--instances", str(instances)]
    subprocess.run([str(LAB), "grow", *options], check=True, stdout=subprocess.DEVNULL)

    def answers() -> bool:
        listed = running.gnt("gnt-instance", "list", "--no-headers", "-o", "status").split()
        return listed.count("running") >= instances

    until(answers, f"{instances} instances run", 120)
    return known(running)


def known(running: Lab) -> Cluster:
    """Add the cluster anew with the default bounds, and record all of it as it is listed."""
    Cluster.objects.all().delete()
    cluster = add(running.access, max_in_flight=3)
    record(cluster)
    return cluster


def look(cluster: Cluster, kind: Pass.Kind) -> None:
    """Have a pass carried out by the workers."""
    asked = passes.request(cluster, kind=kind, at=now())
    query_cluster.delay(cluster=cluster.name)
    closed = Pass.objects.filter(pk=asked.pk, state=Pass.State.CLOSED)
    until(closed.exists, f"the pass {kind} is closed", 900)
    outcome = Pass.objects.get(pk=asked.pk)
    assert outcome.outcome in ("in_sync", "reconciled"), outcome.error


def query_all(cluster: Cluster) -> list[Figure]:
    """Query all of 60 instances, beside a bare loop and beside the client's own way."""
    names = sorted(Instance.objects.values_list("name", flat=True))
    ours, bare = [], []
    for _ in range(2):
        ours.append(seconds(lambda: look(cluster, Pass.Kind.ALL)))
        bare.append(seconds(lambda: submit_and_poll(cluster, names)))
    each = seconds(lambda: one_by_one(cluster, names[:ONE_BY_ONE])) / ONE_BY_ONE
    ours_median = statistics.median(ours)
    print(f"all of 60: ours {ours}, bare {bare}, one by one {each} each")
    return [
        Figure(
            "reconcile --all of 60 instances, real Ganeti", ours_median / statistics.median(bare),
            "submit all, one batched poll", "x", 1.15, 1.03,
        ),
        Figure(
            "the same, times faster", each * len(names) / ours_median,
            f"WaitForJobCompletion one after another ({ONE_BY_ONE} of 60)", "x", 10, 15,
            more_is_better=True,
        ),
    ]  # fmt: skip


def submit_and_poll(cluster: Cluster, names: list[str]) -> None:
    """Submit a job for each, and ask for all of them until they have ended."""
    client = connect(connection_of(cluster))
    open_jobs = {int(client.GetInstanceInfo(name)) for name in names}
    while open_jobs:
        query = ["|", *(["=", "id", job_id] for job_id in sorted(open_jobs))]
        for row in client.Query("job", list(JOB_FIELDS), query)["data"]:
            if row[1][1] in ("success", "error", "canceled"):
                open_jobs.discard(int(row[0][1]))
        time.sleep(0.1 if open_jobs else 0)


def one_by_one(cluster: Cluster, names: list[str]) -> None:
    """Ask as the official client suggests: a job, and wait for it."""
    client = connect(connection_of(cluster))
    for name in names:
        assert client.WaitForJobCompletion(int(client.GetInstanceInfo(name)))


def find_one(running: Lab, cluster: Cluster) -> Figure:
    """Find the one of 2,000 instances that drifted, from the look to the database."""
    ours, bare = [], []
    for number in (3, 5, 7, 9, 11):
        name = running.name(number)
        running.crash(number)
        ours.append(seconds(lambda it=name: mend_one(cluster, it)))
        bare.append(seconds(lambda it=name: list_and_ask(cluster, it)))
    print(f"one of 2,000: ours {ours}, bare {bare}")
    return Figure(
        "one drifted of 2,000, from look to database, real Ganeti",
        statistics.median(ours) / statistics.median(bare),
        "the bare list and one bare job", "x", 1.5, 1.2,
    )  # fmt: skip


def mend_one(cluster: Cluster, name: str) -> None:
    passes.request(cluster, kind=Pass.Kind.SWEEP, at=now())
    query_cluster.delay(cluster=cluster.name)
    recorded = Instance.objects.filter(name=name, status="STOPPED")
    until(recorded.exists, f"{name} is mended", 60)


def list_and_ask(cluster: Cluster, name: str) -> None:
    client = connect(connection_of(cluster))
    client.Query("instance", list(LIST_FIELDS))
    submit_and_poll(cluster, [name])


def ask_under_load(cluster: Cluster) -> Figure:
    """Ask for one instance while all others are queried, beside a bare job at the same time."""
    names = sorted(Instance.objects.values_list("name", flat=True))[:SAMPLES]
    audit = passes.request(cluster, kind=Pass.Kind.ALL, at=now())
    query_cluster.delay(cluster=cluster.name)
    waiting = Query.objects.filter(pass_of=audit, state=Query.State.PENDING)
    until(lambda: waiting.count() > 100, "the audit is under way")
    ours, bare = [], []
    for name in names:
        if waiting.count() < 10:
            break
        ours.append(seconds(lambda it=name: ask_one(cluster, it)))
        bare.append(seconds(lambda it=name: submit_and_poll(cluster, [it])))
    closed = Pass.objects.filter(pk=audit.pk, state=Pass.State.CLOSED)
    until(closed.exists, "the audit ends", 900)
    print(f"on demand under load: ours {ours}, bare {bare}")
    return Figure(
        "one instance on demand, to the database, amid an audit of 100",
        statistics.median(ours) / statistics.median(bare),
        "a bare job at the same time", "x", 1.5, 1.2,
    )  # fmt: skip


def ask_one(cluster: Cluster, name: str) -> None:
    asked = now()
    requery.delay(cluster=cluster.name, instance=name)
    confirmed = Instance.objects.filter(name=name, confirmed_at__gt=asked)
    until(confirmed.exists, f"{name} is confirmed", 60)


def notice_changes(running: Lab, processes: Processes) -> list[Figure]:
    """Change instances behind Ganeti's back at random times, and see when it is recorded."""
    period = str(LOOK_PERIOD)
    processes.start(*WORKERS, LOOK_PERIOD=period, LOOK_PERIOD_MIN=period)
    known(running)
    processes.start("beat")
    taken = []
    for sample in range(SAMPLES):
        number = 1 + sample % 10
        time.sleep(random.random() * LOOK_PERIOD)
        taken.append(seconds(lambda it=number: change(running, it)))
    print(f"changes seen after {taken}")
    in_periods = sorted(second / LOOK_PERIOD for second in taken)
    p95 = in_periods[round(0.95 * (len(in_periods) - 1))]
    against = f"the look period of {LOOK_PERIOD} s"
    return [
        Figure(
            "change behind Ganeti's back to database, median",
            statistics.median(in_periods), against, "x", 1.0, 0.7,
        ),
        Figure("the same, 95th percentile", p95, against, "x", 1.6, 1.2),
    ]  # fmt: skip


def change(running: Lab, number: int) -> None:
    """Crash an instance, or bring it back, and wait until the database says so."""
    name = running.name(number)
    is_up = Instance.objects.get(name=name).status == "ACTIVE"
    (running.crash if is_up else running.appear)(number)
    status: Any = "STOPPED" if is_up else "ACTIVE"
    until(Instance.objects.filter(name=name, status=status).exists, f"{name} is {status}", 60)
