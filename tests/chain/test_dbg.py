"""The commands and the workers on simulated clusters: plans, holds, fairness, the demo."""

import os
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path

import pytest

from proj.clock import now
from proj.inventory.models import Cluster as Row
from proj.inventory.models import Instance
from proj.simulator.server import Cluster, Simulator
from tests.commands import ROOT, add_cluster, command, manage
from tests.environment import HOME, end, free_port, listens, start, until
from tests.fixtures.workers import ALL, Processes

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def workers_environment() -> dict[str, str]:
    """Two lists prove an instance gone sooner than by default; no look comes by itself."""
    return {"GONE_AFTER": "1", "LOOK_PERIOD": "60"}


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Simulator]:
    """Two clusters of ten instances."""
    with Simulator(tmp_path, clusters=2, instances=10, job_seconds=0.02) as running:
        yield running


@pytest.fixture
def cluster(simulator: Simulator, workers: Processes) -> Cluster:
    """The first one, recorded in full, and no look due for a minute."""
    assert add_cluster(simulator.access("sim1")).code == 0
    assert command("reconcile", "--all").code == 0

    def is_put_off() -> bool:
        mine = Row.objects.filter(look_token="")
        return bool(mine.update(next_look_at=now() + timedelta(minutes=1), pace=60))

    until(is_put_off, "no look is under way")
    return simulator["sim1"]


def nth(cluster: Cluster, number: int) -> str:
    return list(cluster.truth.instances)[number]


def test_a_plan_names_each_change_with_its_rule_ends_with_3_and_writes_nothing(
    cluster: Cluster,
) -> None:
    assert command("reconcile", "--plan").code == 0
    name = nth(cluster, 3)
    cluster.truth.crash(name)
    before = list(Instance.objects.order_by("pk").values())
    done = manage("reconcile", "--plan", "--json")
    print(done.out)
    assert done.code == 3
    (report,) = done.json["passes"]
    assert {(it["instance"], it["field"], it["to"], it["rule"]) for it in report["changes"]} == {
        (name, "status", "STOPPED", "list-suspects"),
        (name, "backend_status", "ERROR_down", "list-suspects"),
    }
    assert set(report["changes"][0]) == {
        "instance", "field", "from", "to", "backend_status", "rule", "source", "job_id",
    }  # fmt: skip
    assert list(Instance.objects.order_by("pk").values()) == before


def test_a_held_pass_ends_with_1_and_goes_through_when_it_is_approved(cluster: Cluster) -> None:
    gone = list(cluster.truth.instances)[:6]
    for name in gone:
        cluster.truth.remove(name)
    held = manage("reconcile", "--json")
    assert held.code == 1
    (report,) = held.json["passes"]
    assert report["outcome"] == "held"
    assert Instance.objects.filter(status="ACTIVE").count() == 10
    (hold,) = command("approve", "--json").json["holds"]
    assert {it["instance"] for it in hold["changes"]} == set(gone)
    assert {it["reason"] for it in report["unconfirmed"]} == {
        f"held: manage.py approve {hold['id']}"
    }
    assert command("approve", str(hold["id"] + 1)).code == 2
    approved = command("approve", str(hold["id"]))
    assert approved.code == 0, approved.out + approved.error
    until(lambda: Instance.objects.filter(status="DELETED").count() == 6, "six are gone")
    assert manage("reconcile").code == 0


def test_instances_and_explain_tell_what_is_known_and_why(cluster: Cluster) -> None:
    name = nth(cluster, 3)
    cluster.truth.crash(name)
    assert command("reconcile").code == 0
    rows = command("instances", "--status", "STOPPED", "--json").json["instances"]
    assert [(row["name"], row["backend_status"]) for row in rows] == [(name, "ERROR_down")]
    explained = command("explain", f"sim1/{name}", "--json").json
    assert explained["recorded"]["status"] == "STOPPED"
    assert explained["history"][0]["rule"] == "job-convicts"
    assert explained["history"][0]["job_id"] is not None
    assert command("explain", "sim1/nobody").code == 2


def test_one_instance_is_reconciled_on_demand(cluster: Cluster) -> None:
    name = nth(cluster, 3)
    cluster.truth.crash(name)
    done = command("reconcile", "--instance", f"sim1/{name}", "--json")
    assert done.code == 0, done.error
    assert len(done.json["passes"][0]["changes"]) == 2
    assert Instance.objects.get(name=name).status == "STOPPED"


def test_a_hanging_cluster_holds_up_nobody(simulator: Simulator, cluster: Cluster) -> None:
    simulator["sim2"].faults.hang = True
    assert add_cluster(simulator.access("sim2")).code == 0
    hanging = start(
        sys.executable, "manage.py", "reconcile", "--cluster", "sim2",
        log=HOME / "hanging.log", cwd=ROOT,
    )  # fmt: skip
    try:
        cluster.truth.crash(nth(cluster, 3))
        done = manage("reconcile", "--cluster", "sim1", timeout=20)
        assert done.code == 0
        assert hanging.poll() is None
    finally:
        hanging.kill()
        hanging.wait()
        simulator["sim2"].faults.hang = False


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_demo_mends_drift_and_leaves_nothing_running(
    tmp_path: Path, how: signal.Signals
) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    log = tmp_path / "demo.log"
    redis, web, flower = ports = [free_port() for _ in range(3)]
    environment = os.environ | {
        "VAR_DIR": str(folder),
        "DATABASE_URL": f"sqlite:///{folder}/db.sqlite3",
        "REDIS_URL": f"redis://127.0.0.1:{redis}/0",
        "WEB_PORT": str(web),
        "FLOWER_PORT": str(flower),
        "LOOK_PERIOD": "1",
        "BEAT_PERIOD": "0.5",
    }
    demo = start(
        sys.executable, "manage.py", "demo", "--instances", "5", "--drift", "0.5",
        log=log, cwd=ROOT, env=environment,
    )  # fmt: skip
    try:
        until(lambda: _has_mended(folder / "db.sqlite3"), "drift is mended", 90)
        until(lambda: all(map(listens, ports)), "Redis, web and Flower listen")
    finally:
        end(demo, how)
    if how is signal.SIGKILL:
        until(lambda: not _what_is_left(folder, ports), "all of the demo has ended")
    else:
        assert demo.returncode == 0, log.read_text()
        assert _what_is_left(folder, ports) == []
    assert "Traceback" not in log.read_text()


def _what_is_left(folder: Path, ports: list[int]) -> list[str]:
    """Return the processes with this folder in their environment, and who listens there."""
    mark = f"VAR_DIR={folder}\0".encode()
    found = [f"port {port}" for port in ports if listens(port)]
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark in environment.read_bytes():
                found.append(environment.parent.name)
    return found


def _has_mended(database: Path) -> bool:
    mended = "SELECT 1 FROM inventory_transition WHERE rule = 'job-convicts'"
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            return connection.execute(mended).fetchone() is not None
    except sqlite3.OperationalError:
        return False


def test_two_beats_do_no_harm(
    simulator: Simulator, processes: Processes, tmp_path: Path, transactional_db: None
) -> None:
    period = 2.0
    environment = {"LOOK_PERIOD": str(period), "LOOK_PERIOD_MIN": str(period)}
    processes.start(*ALL, **environment)
    assert add_cluster(simulator.access("sim1")).code == 0
    other = start(
        "sh", "-c", "exec .venv/bin/celery -A proj beat", log=HOME / "beat2.log", cwd=ROOT,
        env=os.environ | environment | {"VAR_DIR": str(tmp_path / "second")},
    )  # fmt: skip
    try:
        until(lambda: Instance.objects.count() == 10, "all is adopted", 60)
        jobs = len(simulator["sim1"].queue.jobs)
        before = lists(simulator["sim1"])
        begun = time.monotonic()
        until(lambda: lists(simulator["sim1"]) >= before + 4, "four more looks", 60)
        assert time.monotonic() - begun > 3 * period * 0.9, "each look waits for its turn"
        assert len(simulator["sim1"].queue.jobs) == jobs
    finally:
        end(other)


def lists(cluster: Cluster) -> int:
    """Return how many lists of all instances were asked for."""
    return sum(path == "/2/query/instance" for _, path in cluster.rapi.requests)
