"""What the simulator does beside answering: jobs, nodes, masters, and its switches from outside."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pycurl
import pytest
from ganeti.rapi.client import GanetiApiError

from proj.backend import TryAgain
from proj.ganeti.backend import GanetiBackend
from proj.ganeti.client import Connection, connect
from proj.ganeti.replies import LIST_FIELDS
from proj.simulator.queue import KEPT
from proj.simulator.server import Cluster, Simulator
from tests.commands import ROOT
from tests.environment import end, start, until
from tests.fixtures.gates import ungated


def connection(access: dict[str, Any], folder: Path) -> Connection:
    """Return how to reach a simulated cluster."""
    return Connection(
        name=access["name"],
        host=access["host"],
        port=access["port"],
        user=access["user"],
        password=Path(access["password_file"]).read_text(),
        certificate=Path(access["ca_file"]).read_text(),
        certificates=folder,
    )


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Simulator]:
    """One cluster of four instances on two nodes."""
    with Simulator(tmp_path, instances=4, job_seconds=60) as running:
        yield running


@pytest.fixture
def cluster(simulator: Simulator) -> Cluster:
    """The cluster itself."""
    return simulator["sim1"]


@pytest.fixture
def client(simulator: Simulator, tmp_path: Path) -> Any:
    """The official client."""
    return connect(connection(simulator.access("sim1"), tmp_path))


def query(*names: str, static: bool = False) -> dict[str, Any]:
    return {"OP_ID": "OP_INSTANCE_QUERY_DATA", "instances": list(names), "static": static}


def operation(kind: str, name: str) -> dict[str, Any]:
    return {"OP_ID": f"OP_INSTANCE_{kind}", "instance_name": name}


def nth(cluster: Cluster, number: int) -> str:
    return list(cluster.truth.instances)[number]


def status(client: Any, *jobs: int) -> list[str]:
    return [client.GetJobStatus(job)["status"] for job in jobs]


def words(client: Any) -> dict[str, str]:
    """Return the list's word for each instance."""
    return {
        name: word for (_, name), (_, word) in client.Query("instance", ["name", "status"])["data"]
    }


def test_two_queries_share_an_instance_and_a_change_waits_for_both(
    cluster: Cluster, client: Any
) -> None:
    name = nth(cluster, 0)
    jobs = [
        cluster.queue.submit(query(name)),
        cluster.queue.submit(query()),
        cluster.queue.submit(operation("SHUTDOWN", name)),
    ]
    assert status(client, *jobs) == ["running", "running", "waiting"]


def test_a_query_of_all_waits_for_a_change_of_one_and_a_static_one_does_not(
    cluster: Cluster, client: Any
) -> None:
    jobs = [
        cluster.queue.submit(operation("SHUTDOWN", nth(cluster, 0))),
        cluster.queue.submit(query()),
        cluster.queue.submit(query(nth(cluster, 0), static=True)),
    ]
    assert status(client, *jobs) == ["running", "waiting", "running"]


def test_a_query_that_names_nobody_is_answered_for_everybody(cluster: Cluster, client: Any) -> None:
    cluster.queue.seconds = 0
    job = client.GetJobStatus(cluster.queue.submit(query()))
    assert set(job["opresult"][0]) == set(cluster.truth.instances)


def test_jobs_may_end_in_another_order_than_they_began(cluster: Cluster, client: Any) -> None:
    cluster.queue.seconds, cluster.queue.reordered = 0.2, True
    first, second = (cluster.queue.submit(query(nth(cluster, n))) for n in range(2))
    until(lambda: status(client, second) == ["success"], "the second job ends")
    assert status(client, first) == ["running"]


def test_a_paused_queue_starts_nothing_and_a_stuck_one_waits_for_locks(
    cluster: Cluster, client: Any
) -> None:
    cluster.queue.paused = True
    job = cluster.queue.submit(query(nth(cluster, 0)))
    assert status(client, job) == ["queued"]
    cluster.queue.paused, cluster.queue.stuck = False, True
    assert status(client, job) == ["waiting"]
    cluster.queue.stuck = False
    assert status(client, job) == ["running"]


def test_an_archived_job_is_found_and_not_listed_and_a_purged_one_is_all_null(
    cluster: Cluster, client: Any
) -> None:
    cluster.queue.seconds = 0
    job = cluster.queue.submit(query(nth(cluster, 0)))
    cluster.queue.archive()
    assert client.GetJobs() == []
    assert status(client, job) == ["success"]
    cluster.queue.purge()
    found = client.GetJobStatus(job)
    assert {name for name, value in found.items() if value is not None} == {"id"}


def test_old_jobs_are_archived_by_themselves(cluster: Cluster, client: Any) -> None:
    cluster.queue.seconds = 0
    jobs = [cluster.queue.submit(query(nth(cluster, 0))) for _ in range(KEPT + 1)]
    assert client.GetJobs() == []
    assert status(client, jobs[0]) == ["success"]


def test_a_list_sees_a_job_half_done_and_its_end_done(cluster: Cluster, client: Any) -> None:
    running, stopped = nth(cluster, 0), nth(cluster, 1)
    cluster.truth.stop(stopped)
    jobs = [
        cluster.queue.submit(operation("SHUTDOWN", running)),
        cluster.queue.submit(operation("STARTUP", stopped)),
        cluster.queue.submit(operation("CREATE", "new")),
    ]
    seen = words(client)
    assert (seen[running], seen[stopped], seen["new"]) == ("ERROR_up", "ERROR_down", "ADMIN_down")
    for job in jobs:
        cluster.queue.jobs[job].seconds = 0
    seen = words(client)
    assert (seen[running], seen[stopped], seen["new"]) == ("ADMIN_down", "running", "running")


def test_a_job_on_what_is_not_there_and_a_second_creation_fail(
    cluster: Cluster, client: Any
) -> None:
    for kind, name in (("SHUTDOWN", "nobody"), ("REMOVE", "nobody"), ("CREATE", nth(cluster, 0))):
        job = cluster.queue.submit(operation(kind, name))
        cluster.queue.jobs[job].seconds = 0
        assert status(client, job) == ["error"]


def test_a_node_that_is_down_fails_the_query_and_one_that_is_offline_answers_null(
    cluster: Cluster, client: Any
) -> None:
    cluster.queue.seconds = 0
    name = nth(cluster, 0)
    node = cluster.truth.instances[name].node
    cluster.truth.set_node(node, is_down=True)
    job = client.GetJobStatus(cluster.queue.submit(query(name)))
    (kind, (message,)) = job["opresult"][0]
    assert (kind, message.startswith(f"Error checking node {node}")) == ("OpExecError", True)
    assert words(client)[name] == "ERROR_nodedown"
    assert client.GetInstance(name)["oper_state"] is None
    cluster.truth.set_node(node, is_offline=True)
    job = client.GetJobStatus(cluster.queue.submit(query(name)))
    assert job["opresult"][0][name]["run_state"] is None
    assert words(client)[name] == "ERROR_nodeoffline"


def test_a_secondary_that_is_down_fails_the_query_while_the_list_says_running(
    cluster: Cluster, client: Any
) -> None:
    cluster.queue.seconds = 0
    name = nth(cluster, 0)
    (other,) = set(cluster.truth.nodes) - {cluster.truth.instances[name].node}
    cluster.truth.change(name, secondaries=[other])
    cluster.truth.set_node(other, is_down=True)
    job = client.GetJobStatus(cluster.queue.submit(query(name)))
    (kind, (message,)) = job["opresult"][0]
    assert (kind, message.startswith("Can't compute disk status")) == ("OpExecError", True)
    assert words(client)[name] == "running"


def test_a_master_that_moves_refuses_for_a_while_and_kills_what_ran(
    simulator: Simulator, cluster: Cluster, client: Any, tmp_path: Path
) -> None:
    job = cluster.queue.submit(query(nth(cluster, 0)))
    before = client.GetInfo()["master"]
    with simulator.master_moves("sim1"):
        with pytest.raises(GanetiApiError) as caught:
            client.GetVersion()
        assert caught.value.code == pycurl.E_COULDNT_CONNECT
        backend = GanetiBackend(connection(simulator.access("sim1"), tmp_path), ungated)
        with pytest.raises(TryAgain, match="nothing listens"):
            backend.version()
    assert client.GetInfo()["master"] != before
    found = client.GetJobStatus(job)
    assert (found["status"], found["opresult"]) == ("error", [f"detected death of job {job}"])
    assert cluster.queue.submit(query()) > job + 900


def test_the_clock_of_a_cluster_may_be_off_by_an_hour(cluster: Cluster, client: Any) -> None:
    cluster.queue.skew = -3600
    job = cluster.queue.submit(query())
    seconds, _ = client.GetJobStatus(job)["received_ts"]
    assert time.time() - 3700 < seconds < time.time() - 3500


@pytest.mark.parametrize("code", [401, 403, 404, 500, 502, 504])
def test_each_status_of_http_can_be_switched_on_and_off(
    cluster: Cluster, client: Any, code: int
) -> None:
    cluster.faults.status = code
    with pytest.raises(GanetiApiError) as caught:
        client.GetVersion()
    assert caught.value.code == code
    cluster.faults.status = None
    assert client.GetVersion() == 2


def test_latency_delays_every_answer(cluster: Cluster, client: Any) -> None:
    cluster.faults.latency = 0.3
    begun = time.monotonic()
    client.GetVersion()
    assert time.monotonic() - begun >= 0.3


def test_a_list_follows_every_change_and_an_unchanged_one_is_the_same(
    cluster: Cluster, client: Any
) -> None:
    lists = [client.Query("instance", list(LIST_FIELDS))["data"]]
    changes = (
        lambda: cluster.truth.crash(nth(cluster, 0)),
        lambda: cluster.truth.change(nth(cluster, 1), memory=9),
        lambda: cluster.truth.set_node("node1.sim1", is_down=True),
        lambda: cluster.truth.add("new"),
        lambda: cluster.truth.remove("new"),
        lambda: cluster.faults.hidden.add(nth(cluster, 2)),
    )
    for change in changes:
        change()
        lists.append(client.Query("instance", list(LIST_FIELDS))["data"])
        assert lists[-1] != lists[-2]
        assert client.Query("instance", list(LIST_FIELDS))["data"] == lists[-1]


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A simulator that runs as a process of its own; gives the access to its cluster."""
    folder = tmp_path / "outside"
    process = start(
        sys.executable, "-m", "proj.simulator", "--clusters", "1", "--instances", "4",
        "--dir", str(folder), log=tmp_path / "log", cwd=ROOT,
    )  # fmt: skip
    try:
        listing = folder / "clusters.json"
        yield until(lambda: listing.exists() and json.loads(listing.read_text())[0], "it is up")
    finally:
        end(process)


def put(access: dict[str, Any], what: str, value: Any, password: str | None = None) -> str:
    """Turn a switch as README says, and return the HTTP status."""
    secret = password or Path(access["password_file"]).read_text()
    done = subprocess.run(
        ["curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", "-u", f"{access['user']}:{secret}",
         "-X", "PUT", "-d", json.dumps(value),
         f"https://{access['host']}:{access['port']}/simulator/{what}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def test_a_simulator_of_its_own_process_is_broken_and_mended_from_outside(
    outside: dict[str, Any], tmp_path: Path
) -> None:
    client = connect(connection(outside, tmp_path), timeout=1)
    first, second, *_ = words(client)
    assert put(outside, "truth", {"crash": first, "change": {"name": second, "memory": 7}}) == "200"
    assert words(client)[first] == "ERROR_down"
    assert client.GetInstance(second)["beparams"]["memory"] == 7
    assert put(outside, "faults", {"hidden": [first]}) == "200"
    assert first not in words(client)
    assert put(outside, "queue", {"stuck": True, "submit": operation("REBOOT", second)}) == "200"
    assert [job["status"] for job in client.GetJobs(bulk=True)] == ["waiting"]
    assert put(outside, "truth", {"rename": {"name": first, "new_name": "shop"}}) == "200"
    assert put(outside, "truth", {"reserve": "coming", "remove": [second]}) == "200"
    assert {"shop", "coming"} - set(words(client)) == set()
    assert second not in words(client)
    job = {"ops": [operation("REBOOT", "shop")] * 2, "seconds": 0, "held": True}
    assert put(outside, "queue", {"stuck": False, "submit": job}) == "200"
    assert put(outside, "queue", {"end": {"number": 1, "status": "dead"}, "held": []}) == "200"
    assert status(client, 1, 2) == ["error", "success"]
    assert put(outside, "queue", {"lock": {"name": "node1.sim1", "seconds": 60}}) == "200"
    assert status(client, 3) == ["running"]
    assert put(outside, "queue", {"begin_anew": True}) == "200"
    assert client.GetJobs() == []
    assert put(outside, "faults", {"hang": True}) == "200"
    with pytest.raises(GanetiApiError):
        client.GetVersion()
    assert put(outside, "faults", {"hang": False}) == "200"
    assert client.GetVersion() == 2
    assert put(outside, "master", 0.5) == "200"
    until(lambda: _refuses(client), "the master is away")
    until(lambda: not _refuses(client), "the master is back")


def _refuses(client: Any) -> bool:
    try:
        client.GetVersion()
    except GanetiApiError as error:
        return bool(error.code == pycurl.E_COULDNT_CONNECT)
    return False


@pytest.mark.parametrize(
    ("what", "value", "code"),
    [
        ("faults", {"no_such": 1}, "400"),
        ("faults", [], "400"),
        ("truth", {"crash": "nobody"}, "400"),
        ("truth", {"instances": {}}, "400"),
        ("truth", {"add": [{"name": "new", "colour": "red"}]}, "400"),
        ("queue", {"jobs": {}}, "400"),
        ("queue", {"end": 99}, "400"),
        ("weather", {}, "400"),
        ("master", "soon", "400"),
    ],
)
def test_what_cannot_be_done_is_refused(
    simulator: Simulator, what: str, value: Any, code: str
) -> None:
    assert put(simulator.access("sim1"), what, value) == code


def test_switches_need_the_password(simulator: Simulator, cluster: Cluster) -> None:
    assert put(simulator.access("sim1"), "faults", {"hang": True}, password="guess") == "401"
    assert not cluster.faults.hang


def test_a_hundred_clusters_of_a_thousand_start_within_seconds(tmp_path: Path) -> None:
    begun = time.monotonic()
    with Simulator(tmp_path, clusters=100, instances=1000) as simulator:
        assert time.monotonic() - begun < 5
        client = connect(connection(simulator.access("sim100"), tmp_path))
        assert len(words(client)) == 1000
