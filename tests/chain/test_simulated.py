"""The commands and the workers on simulated clusters: plans, holds, fairness, the demo."""

import os
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from proj.backend import Look
from proj.clock import now, server
from proj.ganeti.backend import GanetiBackend
from proj.inventory.models import Cluster as Row
from proj.inventory.models import Installation, Instance, Job, Question, Request
from proj.reconcile import feed, look, requests
from proj.reconcile.turns import begin_epoch
from proj.simulator.server import Cluster, Simulator
from proj.wiring import context, tuning
from tasks.query import reconcile_now
from tests.commands import ROOT, add_cluster, command, manage
from tests.environment import HOME, end, free_port, listens, start, until
from tests.fixtures.workers import ALL, QUICK, Processes
from tests.recorded import record_cluster, record_instance

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
    assert done.code == 3, done.error
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


def ask(name: str) -> Request:
    """Wish an instance to be confirmed, as the host system does."""
    row = Row.objects.get()
    wished = requests.request_instance(row, name, tuning=tuning(), at=now())
    reconcile_now(row, whole=False, plan=False)
    return wished


def is_open(wished: Request) -> bool:
    return Request.objects.filter(pk=wished.pk, state="open").exists()


def open_jobs(cluster: Cluster) -> list[int]:
    """Return the jobs in the cluster's queue that have not ended."""
    jobs = list(cluster.queue.jobs.values())
    return [job.number for job in jobs if job.status in ("queued", "waiting", "running")]


def test_jobs_that_a_restored_database_has_never_heard_of_keep_their_seats(
    cluster: Cluster,
) -> None:
    cluster.queue.stuck = True
    for number in range(3):
        ask(nth(cluster, number))
    until(lambda: len(open_jobs(cluster)) == 3, "all seats are taken")
    Question.objects.all().delete()
    Job.objects.all().delete()
    before = Row.objects.get().epoch
    assert command("restored").code == 0
    until(lambda: Row.objects.get().epoch > before, "an epoch has begun")
    ask(nth(cluster, 4))
    asked_in = Job.objects.filter(is_ours=True, state__in=("queued", "waiting", "running"))
    until(lambda: asked_in.count() == 3, "the queue has told who holds the seats")
    tried = Row.objects.get().asked_at
    until(lambda: Row.objects.get().asked_at not in (None, tried), "it was tried again", 15)
    assert len(open_jobs(cluster)) == 3
    cluster.queue.stuck = False
    until(lambda: not Request.objects.filter(state="open"), "every request has ended")
    assert set(Request.objects.values_list("outcome", flat=True)) <= {"in_sync", "reconciled"}


def test_an_answer_whose_settler_was_killed_is_settled_by_the_next(
    simulator: Simulator, processes: Processes, transactional_db: None
) -> None:
    processes.start(*ALL, **QUICK, LOOK_PERIOD="60")
    assert add_cluster(simulator.access("sim1")).code == 0
    assert command("reconcile", "--all").code == 0
    cluster = simulator["sim1"]
    name = nth(cluster, 3)
    processes.kill("reconcile")
    cluster.truth.crash(name)
    wished = ask(name)
    answered = Question.objects.filter(name=name, answer__isnull=False)
    until(answered.exists, "the answer is kept and nobody settles it")
    # What was sent about it is lost with the worker: the row alone is left.
    server().delete("reconcile")
    assert Instance.objects.get(name=name).status == "ACTIVE"
    assert is_open(wished)
    processes.start("reconcile")
    until(lambda: Instance.objects.get(name=name).status == "STOPPED", "it is made good", 60)
    until(lambda: not is_open(wished), "the request has ended")
    wished.refresh_from_db()
    assert wished.outcome == "reconciled"
    until(lambda: not Question.objects.exists(), "no question is left")


def test_one_instance_on_demand_does_not_wait_for_all_of_its_cluster(cluster: Cluster) -> None:
    name = nth(cluster, 9)
    cluster.queue.seconds = 1.0
    row = Row.objects.get()
    whole = requests.request_cluster(row, kind=Request.Kind.ALL, tuning=tuning(), at=now())
    reconcile_now(row, whole=True, plan=False)
    until(lambda: len(open_jobs(cluster)) == 3, "all seats are taken")
    cluster.truth.crash(name)
    wished = ask(name)
    until(lambda: not is_open(wished), "the one is answered")
    wished.refresh_from_db()
    assert wished.outcome == "reconciled"
    assert Instance.objects.get(name=name).status == "STOPPED"
    assert is_open(whole)
    cluster.queue.seconds = 0.02
    until(lambda: not is_open(whole), "all are answered")
    whole.refresh_from_db()
    assert (whole.outcome, whole.unconfirmed) == ("reconciled", [])


def test_a_look_whose_turn_an_epoch_ended_confirms_nothing(
    simulator: Simulator, transactional_db: None
) -> None:
    assert add_cluster(simulator.access("sim1")).code == 0
    row = Row.objects.get()
    wished = requests.request_cluster(row, kind=Request.Kind.ALL, tuning=tuning(), at=now())
    ours = context()

    class Overtaken(GanetiBackend):
        """Another kind of turn finds out that an epoch begins, before the list is read."""

        def look(self) -> Look:
            assert command("restored").code == 0
            generation = Installation.objects.get().generation
            begin_epoch(Row.objects.get(), generation, at=now(), keeping="follow")
            return super().look()

    def connect(cluster: Row) -> GanetiBackend:
        backend = ours.connect(cluster)
        backend.__class__ = Overtaken
        return backend

    look.look("sim1", replace(ours, connect=connect))
    feed.follow("sim1", ours)
    wished.refresh_from_db()
    assert Instance.objects.count() == 0
    assert (wished.state, wished.outcome) == ("open", "")


def test_a_query_that_keeps_failing_leaves_its_instance_to_be_asked_again(
    cluster: Cluster,
) -> None:
    name = nth(cluster, 3)
    cluster.queue.fails["OP_INSTANCE_QUERY_DATA"] = ("OpExecError", ["no luck"])
    failed = command("reconcile", "--instance", f"sim1/{name}", "--json")
    assert failed.code == 1
    (report,) = failed.json["passes"]
    assert report["outcome"] == "failed"
    assert "no luck" in report["error"]
    explained = command("explain", f"sim1/{name}", "--json").json
    assert explained["question"]["attempts"] > 1
    assert explained["question"]["retry_at"] is not None
    assert "no luck" in explained["question"]["error"]
    cluster.queue.fails.clear()
    assert command("reconcile", "--instance", f"sim1/{name}").code == 0
    until(lambda: not Question.objects.exists(), "no question is left")


def test_all_of_a_cluster_that_lists_have_made_known_meanwhile_is_asked_all_the_same(
    simulator: Simulator, workers: Processes
) -> None:
    cluster = simulator["sim1"]
    cluster.queue.stuck = True
    assert add_cluster(simulator.access("sim1")).code == 0
    row = Row.objects.get()
    whole = requests.request_cluster(row, kind=Request.Kind.ALL, tuning=tuning(), at=now())
    reconcile_now(row, whole=True, plan=False)
    until(lambda: Instance.objects.count() == 10, "two lists have made all known")
    assert is_open(whole)
    cluster.queue.stuck = False
    until(lambda: not is_open(whole), "all are answered")
    whole.refresh_from_db()
    assert (whole.outcome, whole.queried, whole.unconfirmed) == ("reconciled", 10, [])


def test_all_of_a_cluster_is_not_done_while_one_was_asked_about_before_it_only(
    transactional_db: None,
) -> None:
    at, ours = now(), context()
    row = record_cluster()
    whole = requests.request_cluster(row, kind=Request.Kind.ALL, tuning=tuning(), at=at)
    scoped = at + timedelta(seconds=1)
    Request.objects.update(scoped_at=scoped)
    # A job from before the request made it known, and a list has told its tags since.
    told = scoped + timedelta(seconds=1)
    before = at - timedelta(seconds=1)
    record_instance(
        row, "vm1", created_at=told, confirmed_at=before,
        observed_not_before=told, observed_not_after=told,
    )  # fmt: skip
    requests.settle(row, ours.policy_of(row), tuning(), now=lambda: told + timedelta(seconds=1))
    assert is_open(whole)


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
