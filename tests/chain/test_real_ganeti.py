"""The chain end to end: real Ganeti, real Redis, real workers, nothing simulated."""

import ast
import json
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ganeti.rapi.client import GanetiRapiClient, GenericCurlConfig

from proj.inventory.models import Cluster, Installation, Instance, Question, Request, Transition
from tests.commands import add_cluster, command, manage
from tests.environment import free_port, until
from tests.fixtures.lab import INSTANCES, Lab
from tests.fixtures.workers import ALL, QUICK, WORKERS, Processes
from tests.recorded import record_all

pytestmark = [pytest.mark.ganeti, pytest.mark.django_db(transaction=True)]

BOUND = 3
PATIENT = QUICK | {"PROOF_WITHIN": "60"}
"""However slow this machine is, no list settles what a job can prove, and no request gives up."""


@pytest.fixture(scope="module")
def workers_environment() -> dict[str, str]:
    """Looks follow one another quickly."""
    return PATIENT | {"LOOK_PERIOD": "3"}


@pytest.fixture
def cluster(lab: Lab, transactional_db: None) -> str:
    """The lab's cluster, added, nothing of it recorded; no audit asks by itself."""
    Installation.objects.get_or_create(pk=1)
    assert add_cluster(lab.access).code == 0
    Cluster.objects.update(jobs_per_hour=0, audit_tokens=0)
    return str(lab.access["name"])


@pytest.fixture
def known(lab: Lab, workers: Processes) -> str:
    """The lab's cluster, every instance of it recorded."""
    return record_all(lab.access).name


def client(lab: Lab) -> GanetiRapiClient:
    """Return the official client, as anybody may use it."""
    password = Path(lab.access["password_file"]).read_text()
    return GanetiRapiClient(
        lab.access["host"],
        username=lab.access["user"],
        password=password,
        curl_config_fn=GenericCurlConfig(connect_timeout=5, timeout=30, proxy=""),
    )


class WatchedQueue:
    """Ganeti's own job list, read again and again while something runs."""

    def __init__(self, lab: Lab) -> None:
        self._client = client(lab)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.most = 0
        self.first = self._newest()

    def __enter__(self) -> "WatchedQueue":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.jobs = len(self._query_jobs(["&", [">", "id", self.first]]))

    def _watch(self) -> None:
        words = ("queued", "waiting", "running")
        while not self._stop.is_set():
            found = self._query_jobs(["|", *(["=", "status", word] for word in words)])
            self.most = max(self.most, len(found))

    def _query_jobs(self, qfilter: list[object]) -> list[object]:
        rows = self._client.Query("job", ["id", "summary"], qfilter)["data"]
        return [row for row in rows if row[1][1] == ["INSTANCE_QUERY_DATA"]]

    def _newest(self) -> int:
        rows = self._client.Query("job", ["id"], None)["data"]
        return max(int(row[0][1]) for row in rows)


def test_all_twenty_instances_are_asked_by_a_job_each_and_never_more_than_three_at_once(
    lab: Lab, cluster: str, processes: Processes
) -> None:
    # No look of beat's before the request: what it has asked about would be asked once more.
    with WatchedQueue(lab) as queue, ThreadPoolExecutor(1) as pool:
        whole = pool.submit(manage, "reconcile", "--all", "--json")
        until(Request.objects.exists, "it is requested")
        processes.start(*ALL, **PATIENT)
        done = whole.result()
    assert done.code == 0, done.out + done.error
    (report,) = done.json["passes"]
    assert (report["outcome"], report["queried"], report["jobs_failed"]) == (
        "reconciled",
        INSTANCES,
        0,
    )
    # Where a list came between, an answer may have to be asked for once more.
    assert INSTANCES <= queue.jobs <= INSTANCES + 2
    assert 1 <= queue.most <= BOUND
    assert set(Instance.objects.values_list("status", flat=True)) == {"ACTIVE"}


def test_a_second_pass_over_what_is_in_sync_changes_nothing(lab: Lab, known: str) -> None:
    done = command("reconcile", "--json")
    assert done.code == 0, done.out + done.error
    (report,) = done.json["passes"]
    assert (report["outcome"], report["changes"], report["queried"]) == ("in_sync", [], 0)
    assert report["listed"] == INSTANCES


@pytest.fixture
def eight_states(lab: Lab) -> Iterator[dict[str, tuple[str, str]]]:
    """Eight instances, each in another state of Ganeti's, all put right again afterwards."""
    lab.gnt("gnt-instance", "stop", lab.name(3))
    lab.gnt("gnt-instance", "stop", lab.name(5))
    lab.gnt("gnt-instance", "modify", "--offline", lab.name(5))
    lab.crash(7)
    lab.gnt("gnt-instance", "stop", lab.name(9))
    lab.appear(9)
    lab.crash(11)
    lab.appear(11, on=2)
    yield {
        lab.name(1): ("ACTIVE", "running"),
        lab.name(3): ("STOPPED", "ADMIN_down"),
        lab.name(5): ("STOPPED", "ADMIN_offline"),
        lab.name(7): ("STOPPED", "ERROR_down"),
        lab.name(9): ("ACTIVE", "ERROR_up"),
        lab.name(11): ("ERROR", "ERROR_wrongnode"),
        lab.name(2): ("ACTIVE", "running"),
    }
    lab.on(2, "rm", f"/run/ganeti/fake-hypervisor/{lab.name(11)}")
    lab.gnt("gnt-instance", "modify", "--online", lab.name(5))
    for number in (3, 5, 7, 9, 11):
        lab.gnt("gnt-instance", "start", lab.name(number))


def recorded(names: list[str]) -> dict[str, tuple[str, str]]:
    """Return what the database says of these instances."""
    rows = Instance.objects.filter(name__in=names)
    return {row.name: (row.status, row.backend_status) for row in rows}


def test_every_state_of_ganeti_ends_as_the_right_status_with_ganetis_own_word(
    lab: Lab, known: str, eight_states: dict[str, tuple[str, str]]
) -> None:
    done = command("reconcile", "--json")
    assert done.code == 0, done.out + done.error
    assert recorded(list(eight_states)) == eight_states


def test_a_query_of_all_by_job_does_not_acquit_an_instance_on_the_wrong_node(
    lab: Lab, known: str, eight_states: dict[str, tuple[str, str]]
) -> None:
    command("reconcile", "--json")
    done = command("reconcile", "--all", "--json")
    assert done.code == 0, done.out + done.error
    assert recorded(list(eight_states)) == eight_states


def test_a_node_that_is_down_and_one_that_is_offline_make_their_instances_unknown(
    lab: Lab, known: str
) -> None:
    on_node_2 = [lab.name(number) for number in range(2, INSTANCES + 1, 2)]
    node2 = f"node2.{lab.access['name']}.example"
    lab.on(2, "sh", "-c", "kill -KILL $(cat /run/ganeti/ganeti-noded.pid)")
    try:
        done = command("reconcile", "--json")
        assert done.code == 0, done.out + done.error
        assert set(recorded(on_node_2).values()) == {("UNKNOWN", "ERROR_nodedown")}
        lab.gnt("gnt-node", "modify", "--offline=yes", node2)
        done = command("reconcile", "--json")
        assert done.code == 0, done.out + done.error
        assert set(recorded(on_node_2).values()) == {("UNKNOWN", "ERROR_nodeoffline")}
    finally:
        lab.on(2, "/usr/lib/ganeti/daemon-util", "start", "ganeti-noded")
        online = ("gnt-node", "modify", "--offline=no", "--force", node2)
        until(lambda: lab.ends_well(1, *online), "the node is back", 60)
    done = command("reconcile", "--json")
    assert done.code == 0, done.out + done.error
    assert set(recorded(on_node_2).values()) == {("ACTIVE", "running")}


def test_a_change_behind_ganetis_back_is_recorded_after_the_next_beat_and_names_its_job(
    lab: Lab, known: str
) -> None:
    lab.crash(13)
    try:
        until(
            lambda: recorded([lab.name(13)])[lab.name(13)] == ("STOPPED", "ERROR_down"),
            "the crash is recorded",
            90,
        )
        change = Transition.objects.get(
            instance__name=lab.name(13), field="status", after="STOPPED"
        )
        assert change.rule == "job-convicts"
        assert change.job_id is not None
    finally:
        lab.gnt("gnt-instance", "start", lab.name(13))


def test_a_pass_whose_workers_are_killed_is_carried_on_by_the_next(
    lab: Lab, cluster: str, processes: Processes
) -> None:
    processes.start(*ALL, **PATIENT, LOOK_PERIOD="2")

    def jobs_are_in_flight_and_nothing_else() -> bool:
        # Death in another turn, or between a claim and its job, costs a longer lease; it is
        # tested without processes.
        claimed = list(Question.objects.exclude(token="").filter(answer__isnull=True))
        has_one_turn = Cluster.objects.filter(look_token="", follow_token="").exists()
        return has_one_turn and bool(claimed) and all(it.job_id for it in claimed)

    with ThreadPoolExecutor(1) as pool:
        whole = pool.submit(manage, "reconcile", "--all", "--json", timeout=240)
        until(jobs_are_in_flight_and_nothing_else, "jobs are in flight", 60)
        processes.kill(*WORKERS)
        assert Question.objects.filter(answer__isnull=True).exclude(job_id=None).exists()
        processes.start(*WORKERS)
        done = whole.result()
    assert done.code == 0, done.out + done.error
    assert Instance.objects.exclude(confirmed_at=None).count() == INSTANCES
    until(lambda: not Question.objects.exists(), "no question is left")


def test_an_instance_that_does_not_exist_is_a_pass_that_says_so(
    lab: Lab, cluster: str, workers: Processes
) -> None:
    done = command("reconcile", "--instance", f"{cluster}/nobody.example", "--json")
    assert "Traceback" not in done.error
    assert done.code == 1
    (report,) = done.json["passes"]
    assert report["changes"] == []
    assert "neither Ganeti nor the database knows" in report["error"]
    assert Instance.objects.filter(name="nobody.example").count() == 0


def test_the_tasks_are_readable_and_findable_in_flower_and_hold_no_secret(
    lab: Lab, cluster: str, processes: Processes
) -> None:
    port = free_port()
    flower = f"http://127.0.0.1:{port}/api/tasks"
    processes.start("flower", FLOWER_PORT=str(port), FLOWER_UNAUTHENTICATED_API="true")
    until(lambda: answers(flower) is not None, "Flower answers", 60)
    processes.start(*ALL, **PATIENT)
    done = command("reconcile", "--all", "--json")
    assert done.code == 0, done.out + done.error

    names = {lab.name(number) for number in range(1, INSTANCES + 1)}

    def reconciled() -> list[dict[str, Any]]:
        found = answers(f"{flower}?taskname=tasks.reconcile.reconcile_instance&state=SUCCESS")
        arguments = [ast.literal_eval(task["kwargs"]) for task in (found or {}).values()]
        return arguments if {kwargs["instance"] for kwargs in arguments} == names else []

    arguments = until(reconciled, "Flower shows each instance's task", 30)
    assert {tuple(kwargs) for kwargs in arguments} == {("cluster", "instance", "question")}
    everything = json.dumps(answers(flower))
    assert "tasks.query.query_cluster" in everything
    assert Path(lab.access["password_file"]).read_text() not in everything


def answers(url: str) -> dict[str, Any] | None:
    """Return what a page of JSON says, or None while nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=10) as page:
            found: dict[str, Any] = json.load(page)
            return found
    except OSError:
        return None
