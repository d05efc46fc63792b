"""What the service costs beside the bare client, on a real Ganeti."""

import json
import os
import random
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.figures import Figure, seconds
from bench.fleet import add, record
from proj.clock import now
from proj.ganeti.client import connect
from proj.ganeti.jobs import JOB_FIELDS
from proj.inventory.models import Cluster, Instance, Request
from proj.reconcile import requests
from proj.wiring import connection_of, tuning
from tasks.query import reconcile_now
from tasks.requery import requery
from tests.environment import until
from tests.fixtures.lab import LAB, Lab
from tests.fixtures.workers import ALL, Processes

LOOK_PERIOD = 5
SAMPLES = 12
PROOF_WITHIN = 20
LOCKED = 600
"""Seconds for which a node is locked; the lock is purged as soon as the crash is recorded."""


def on_a_real_cluster(folder: Path) -> list[Figure]:
    """Start the lab of ``make lab``, measure on it as it grows, and remove it."""
    processes = Processes()
    with lab(folder / "lab") as running:
        try:
            latencies = notice_changes(running, processes)
            processes.end()
            period = str(LOOK_PERIOD)
            processes.start(
                *ALL, LOOK_PERIOD=period, LOOK_PERIOD_MIN=period,
                PROOF_WITHIN=str(PROOF_WITHIN),
            )  # fmt: skip
            locked = crash_on_a_locked_node(running)
            processes.end()
            processes.start(*ALL, LOOK_PERIOD="3600", LOOK_PERIOD_MIN="3600", PROOF_WITHIN="60")
            all_of_60 = query_all(grown(running, 60))
            on_demand = ask_under_load(grown(running, 160))
        finally:
            processes.end()
            Cluster.objects.all().delete()
    return [all_of_60, *latencies, on_demand, locked]


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
    looked = Cluster.objects.filter(pk=cluster.pk, looks__gt=0, feeds__gt=0)
    until(looked.exists, "beat has begun with it", 60)
    return cluster


def query_all(cluster: Cluster) -> Figure:
    """Query all of 60 instances, beside a bare loop."""
    names = sorted(Instance.objects.values_list("name", flat=True))
    ours, bare = [], []
    for _ in range(2):
        ours.append(seconds(lambda: reconcile_all(cluster)))
        bare.append(seconds(lambda: submit_and_poll(cluster, names)))
    print(f"all of 60: ours {ours}, bare {bare}")
    return Figure(
        "reconcile --all of 60 instances, real Ganeti",
        statistics.median(ours) / statistics.median(bare),
        "submit all, one batched poll", "x", 1.1, 1.03,
    )  # fmt: skip


def reconcile_all(cluster: Cluster) -> None:
    """Wish all of a cluster to be confirmed by jobs, and wait, as the command does."""
    asked = request_all(cluster)
    closed = Request.objects.filter(pk=asked.pk, state=Request.State.CLOSED)
    until(closed.exists, "the request is closed", 900)
    outcome = Request.objects.get(pk=asked.pk)
    assert outcome.outcome in ("in_sync", "reconciled"), outcome.error
    assert not Instance.objects.filter(confirmed_at__lt=asked.requested_at).exists()


def request_all(cluster: Cluster) -> Request:
    """Make a request as ``reconcile --all`` does."""
    kind = Request.Kind.ALL
    asked = requests.request_cluster(cluster, kind=kind, tuning=tuning(), at=now())
    reconcile_now(cluster, whole=True, plan=False)
    return asked


def submit_and_poll(cluster: Cluster, names: Sequence[str]) -> None:
    """Submit a job for each, and ask for all of them until they have ended."""
    client = connect(connection_of(cluster))
    open_jobs = {int(client.GetInstanceInfo(name)) for name in names}
    while open_jobs:
        query = ["|", *(["=", "id", job_id] for job_id in sorted(open_jobs))]
        for row in client.Query("job", list(JOB_FIELDS), query)["data"]:
            if row[1][1] in ("success", "error", "canceled"):
                open_jobs.discard(int(row[0][1]))
        time.sleep(0.1 if open_jobs else 0)


def ask_under_load(cluster: Cluster) -> Figure:
    """Ask for one instance while all others are queried, beside a bare job at the same time."""
    names = sorted(Instance.objects.values_list("name", flat=True))[:SAMPLES]
    audit = request_all(cluster)
    open_audit = Request.objects.filter(pk=audit.pk, state=Request.State.OPEN)
    waiting = Instance.objects.filter(confirmed_at__lt=audit.requested_at)
    until(lambda: waiting.count() < 155, "the audit is under way", 60)
    ours, bare = [], []
    for name in names:
        if waiting.count() < 10:
            break
        ours.append(seconds(lambda it=name: ask_one(cluster, it)))
        bare.append(seconds(lambda it=name: submit_and_poll(cluster, [it])))
    until(lambda: not open_audit.exists(), "the audit ends", 900)
    print(f"on demand under load: ours {ours}, bare {bare}")
    return Figure(
        "one instance on demand, to the database, amid an audit of 100",
        statistics.median(ours) / statistics.median(bare),
        "a bare job at the same time", "x", 1.3, 1.1,
    )  # fmt: skip


def ask_one(cluster: Cluster, name: str) -> None:
    """Have one instance asked as after an error, and wait until it is confirmed."""
    asked = now()
    requery.delay(cluster=cluster.name, instance=name)
    confirmed = Instance.objects.filter(name=name, confirmed_at__gt=asked)
    until(confirmed.exists, f"{name} is confirmed", 60)


def notice_changes(running: Lab, processes: Processes) -> list[Figure]:
    """Change instances behind Ganeti's back at random times, and see when it is recorded."""
    period = str(LOOK_PERIOD)
    processes.start(*ALL, LOOK_PERIOD=period, LOOK_PERIOD_MIN=period)
    known(running)
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
            statistics.median(in_periods), against, "x", 0.8, 0.6,
        ),
        Figure("the same, 95th percentile", p95, against, "x", 1.2, 1.0),
    ]  # fmt: skip


def change(running: Lab, number: int) -> None:
    """Crash an instance, or bring it back, and wait until the database says so."""
    name = running.name(number)
    is_up = Instance.objects.get(name=name).status == "ACTIVE"
    (running.crash if is_up else running.appear)(number)
    status: Any = "STOPPED" if is_up else "ACTIVE"
    until(Instance.objects.filter(name=name, status=status).exists, f"{name} is {status}", 60)


def crash_on_a_locked_node(running: Lab) -> Figure:
    """Crash an instance while a job holds its node, so that no query job can tell."""
    number = 12
    running.appear(number)
    known(running)
    lock = running.lock(running.node_of(number), LOCKED)
    try:
        running.crash(number)
        stopped = Instance.objects.filter(name=running.name(number), status="STOPPED")
        taken = seconds(lambda: until(stopped.exists, "the crash is recorded", 300))
    finally:
        running.purge(lock)
    bound = PROOF_WITHIN + 2 * LOOK_PERIOD
    print(f"a crash on a locked node: {taken} s of {bound}")
    return Figure(
        "crash on a node that is locked for 10 minutes, until recorded, real Ganeti",
        taken / bound, f"PROOF_WITHIN of {PROOF_WITHIN} s and 2 looks", "x", 1.0, 1.0,
    )  # fmt: skip
