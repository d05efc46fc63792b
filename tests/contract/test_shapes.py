"""Shapes of jobs and of nodes in trouble: the same from the simulator and from a real Ganeti."""

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import pytest

from proj.backend import Verdict
from proj.ganeti.backend import GanetiBackend
from proj.ganeti.client import Connection, connect
from proj.observation import JobEnd, Status
from proj.simulator.server import Cluster, Simulator
from tests.environment import until
from tests.fixtures.lab import FILES, INSTANCES, Lab

JOB = ("id", "status", "summary", "ops", "opstatus", "opresult")


def clock() -> datetime:
    """Nobody compares these times."""
    return datetime.now(UTC)


class Behind(Protocol):
    """What can be done to a cluster behind RAPI's back."""

    names: list[str]
    """Those with an odd place run on the second node."""

    def ask(self, *names: str) -> None:
        """Query these instances by one job, or all where none is named."""

    def operate(self, kind: str, name: str) -> None:
        """Let an operation work on an instance, to its end."""

    def crash(self, name: str) -> None:
        """Let an instance vanish from its hypervisor."""

    def archive(self, job_id: int) -> None:
        """Archive a job."""

    def cancel(self, job_id: int) -> None:
        """Cancel a job."""

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Hold the lock of the second node."""

    def down(self) -> contextlib.AbstractContextManager[None]:
        """Let the second node answer nobody."""

    def offline(self) -> contextlib.AbstractContextManager[None]:
        """Let the second node be marked offline."""


class Simulated:
    """A simulated cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.names = list(cluster.truth.instances)
        for number, name in enumerate(self.names):
            node = f"node{number % 2 + 1}.sim1"
            cluster.truth.change(name, node=node, running_on=node)

    def ask(self, *names: str) -> None:
        operation = {"OP_ID": "OP_INSTANCE_QUERY_DATA", "instances": list(names), "static": False}
        self._cluster.queue.submit(operation)

    def operate(self, kind: str, name: str) -> None:
        queue = self._cluster.queue
        job = queue.submit({"OP_ID": f"OP_INSTANCE_{kind}", "instance_name": name})
        until(lambda: queue.advance() or queue.jobs[job].status == "success", f"{kind} ends")

    def crash(self, name: str) -> None:
        self._cluster.truth.crash(name)

    def archive(self, job_id: int) -> None:
        self._cluster.queue.archive()

    def cancel(self, job_id: int) -> None:
        assert self._cluster.queue.cancel(job_id)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        self._cluster.queue.stuck = True
        yield
        self._cluster.queue.stuck = False

    def down(self) -> contextlib.AbstractContextManager[None]:
        return self._node(is_down=True)

    def offline(self) -> contextlib.AbstractContextManager[None]:
        return self._node(is_offline=True)

    @contextlib.contextmanager
    def _node(self, **state: bool) -> Iterator[None]:
        self._cluster.truth.set_node("node2.sim1", **state)
        yield
        self._cluster.truth.set_node("node2.sim1")


class Real:
    """The lab's cluster, left as it was found."""

    COMMANDS = {"STARTUP": "start", "SHUTDOWN": "stop", "REBOOT": "reboot"}

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._node = f"node2.{lab.access['name']}.example"
        self.names = [lab.name(number) for number in range(1, INSTANCES + 1)]

    def ask(self, *names: str) -> None:
        self._lab.gnt("gnt-instance", "info", *(names or ("--all",)))

    def operate(self, kind: str, name: str) -> None:
        self._lab.gnt("gnt-instance", self.COMMANDS[kind], name)

    def crash(self, name: str) -> None:
        self._lab.on(2 - (self.names.index(name) + 1) % 2, "rm", f"{FILES}/{name}")

    def archive(self, job_id: int) -> None:
        self._lab.gnt("gnt-job", "archive", str(job_id))

    def cancel(self, job_id: int) -> None:
        self._lab.gnt("gnt-job", "cancel", str(job_id))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        self._lab.gnt("gnt-debug", "delay", "--submit", "--no-master", "-n", self._node, "15")
        (*_, job) = self._lab.gnt("gnt-job", "list", "--no-headers", "-o", "id").split()
        try:
            until(lambda: self._status(job) == "running", "the lock is held", 20)
            yield
        finally:
            until(lambda: self._status(job) == "success", "the lock is free again", 30)

    def _status(self, job: str) -> str:
        return self._lab.gnt("gnt-job", "list", "--no-headers", "-o", "status", job).strip()

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        self._lab.on(2, "sh", "-c", "kill -KILL $(cat /run/ganeti/ganeti-noded.pid)")
        try:
            yield
        finally:
            self._lab.on(2, "/usr/lib/ganeti/daemon-util", "start", "ganeti-noded")

    @contextlib.contextmanager
    def offline(self) -> Iterator[None]:
        self._lab.gnt("gnt-node", "modify", "--offline=yes", self._node)
        try:
            yield
        finally:
            online = ("gnt-node", "modify", "--offline=no", "--force", self._node)
            until(lambda: self._lab.ends_well(1, *online), "the node is back", 60)


class Rapi:
    """What is seen of the cluster through RAPI."""

    def __init__(self, access: dict[str, Any], folder: Path) -> None:
        self._connection = Connection(
            name=access["name"],
            host=access["host"],
            port=access["port"],
            user=access["user"],
            password=Path(access["password_file"]).read_text(),
            certificate=Path(access["ca_file"]).read_text(),
            certificates=folder,
        )
        self.backend = GanetiBackend(self._connection, clock)
        self._last = max((int(row[0][1]) for row in self._rows(["id"], None)), default=0)

    @property
    def client(self) -> Any:
        """The official client."""
        return connect(self._connection)

    def newest(self, kind: str) -> dict[str, Any]:
        """Await the end of the newest job of a kind, and return it."""

        def ended() -> dict[str, Any] | None:
            rows = self._rows(JOB, ["&", [">", "id", self._last]])
            jobs = [dict(zip(JOB, (value for _, value in row), strict=True)) for row in rows]
            mine = [job for job in jobs if job["summary"][0].startswith(f"INSTANCE_{kind}")]
            final = mine and mine[-1]["status"] in ("success", "error", "canceled")
            return mine[-1] if final else None

        found: dict[str, Any] = until(ended, f"{kind} ends", 60)
        return found

    def end_of(self, job_id: int) -> JobEnd | None:
        """Return how a job ended, as the feed of the queue tells it."""
        feed = self.backend.feed(job_id, [job_id])
        return next(job.end for job in feed.jobs if job.job_id == job_id)

    def words(self) -> dict[str, str]:
        """Return the list's word for each instance."""
        return {seen.instance: str(seen.backend_status) for seen in self.backend.look().listed}

    def _rows(self, fields: Any, qfilter: Any) -> list[Any]:
        rows: list[Any] = self.client.Query("job", list(fields), qfilter)["data"]
        return rows


@pytest.fixture(params=["simulator", pytest.param("ganeti", marks=pytest.mark.ganeti)])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Behind, Rapi]]:
    """A cluster of either kind, from behind and through RAPI."""
    if request.param == "ganeti":
        lab = request.getfixturevalue("lab")
        yield Real(lab), Rapi(lab.access, tmp_path)
        return
    with Simulator(tmp_path, instances=4, job_seconds=0.05) as simulator:
        yield Simulated(simulator["sim1"]), Rapi(simulator.access("sim1"), tmp_path)


Both = tuple[Behind, Rapi]


def test_a_job_about_several_instances_names_them_and_answers_for_each(both: Both) -> None:
    behind, rapi = both
    asked = behind.names[:3]
    behind.ask(*asked)
    job = rapi.newest("QUERY_DATA")
    assert (job["status"], job["opstatus"]) == ("success", ["success"])
    assert job["summary"] == ["INSTANCE_QUERY_DATA"]
    assert job["ops"][0]["instances"] == asked
    assert set(job["opresult"][0]) == set(asked)
    (report,) = rapi.backend.poll({int(job["id"]): clock()})
    assert {seen.instance: seen.status for seen in report.observations} == dict.fromkeys(
        asked, Status.ACTIVE
    )


def test_a_job_that_names_nobody_answers_for_all(both: Both) -> None:
    behind, rapi = both
    behind.ask()
    job = rapi.newest("QUERY_DATA")
    assert job["ops"][0]["instances"] == []
    (report,) = rapi.backend.poll({int(job["id"]): clock()})
    assert {seen.instance for seen in report.observations} == set(behind.names)


def test_an_unknown_name_is_an_error_with_its_code(both: Both) -> None:
    _, rapi = both
    rapi.backend.submit_query("nobody.example", limit=3)
    job = rapi.newest("QUERY_DATA")
    assert (job["status"], job["opstatus"]) == ("error", ["error"])
    ((kind, (message, code)),) = job["opresult"]
    assert (kind, code) == ("OpPrereqError", "unknown_entity")
    assert "nobody.example" in message


def test_an_archived_job_is_found_by_its_id_and_listed_no_more(both: Both) -> None:
    behind, rapi = both
    job_id = rapi.backend.submit_query(behind.names[0], limit=3)
    rapi.newest("QUERY_DATA")
    assert job_id in [int(found) for found in rapi.client.GetJobs()]
    behind.archive(job_id)
    assert job_id not in [int(found) for found in rapi.client.GetJobs()]
    assert rapi.client.GetJobStatus(job_id)["status"] == "success"
    (report,) = rapi.backend.poll({job_id: clock()})
    assert [seen.instance for seen in report.observations] == [behind.names[0]]
    assert rapi.end_of(job_id) is JobEnd.SUCCESS


def test_a_job_that_waits_for_a_lock_is_open_until_it_is_canceled(both: Both) -> None:
    behind, rapi = both
    with behind.locked():
        job_id = rapi.backend.submit_query(behind.names[1], limit=3)
        until(lambda: rapi.client.GetJobStatus(job_id)["status"] == "waiting", "it waits", 20)
        (report,) = rapi.backend.poll({job_id: clock()})
        assert report.verdict is Verdict.PENDING
        assert rapi.end_of(job_id) is None
        behind.cancel(job_id)
        job = rapi.newest("QUERY_DATA")
    assert (job["status"], job["opstatus"]) == ("canceled", ["canceled"])
    assert job["opresult"] == ["Job canceled by request"]
    (report,) = rapi.backend.poll({job_id: clock()})
    assert report.verdict is Verdict.RETRY
    assert rapi.end_of(job_id) is JobEnd.FAILED


def test_the_summary_of_an_operation_names_its_kind_and_its_instance(both: Both) -> None:
    behind, rapi = both
    name = behind.names[2]
    for kind in ("SHUTDOWN", "STARTUP", "REBOOT"):
        behind.operate(kind, name)
        job = rapi.newest(kind)
        assert (job["status"], job["summary"]) == ("success", [f"INSTANCE_{kind}({name})"])
        assert job["ops"][0]["instance_name"] == name
    assert rapi.words()[name] == "running"


def test_a_crash_changes_neither_mtime_nor_serial_number_and_a_stop_changes_both(
    both: Both,
) -> None:
    behind, rapi = both
    name = behind.names[2]

    def marks() -> tuple[Any, Any]:
        found = rapi.client.GetInstance(name)
        return found["mtime"], found["serial_no"]

    before = marks()
    behind.crash(name)
    try:
        assert rapi.words()[name] == "ERROR_down"
        assert marks() == before
        behind.operate("SHUTDOWN", name)
        mtime, serial = marks()
        assert (mtime > before[0], serial > before[1]) == (True, True)
    finally:
        behind.operate("STARTUP", name)


def test_a_node_that_is_down_is_a_word_of_the_list_and_an_error_of_the_job(both: Both) -> None:
    behind, rapi = both
    name, other = behind.names[1], behind.names[0]
    with behind.down():
        words = rapi.words()
        assert (words[name], words[other]) == ("ERROR_nodedown", "running")
        job_id = rapi.backend.submit_query(name, limit=3)
        job = rapi.newest("QUERY_DATA")
        assert job["status"] == "error"
        ((kind, (message,)),) = job["opresult"]
        assert (kind, message.startswith("Error checking node")) == ("OpExecError", True)
        (report,) = rapi.backend.poll({job_id: clock()})
        (seen,) = report.observations
        assert (seen.status, seen.backend_status) == (Status.UNKNOWN, "ERROR_nodedown")
        assert rapi.client.GetInstance(name)["oper_state"] is None
    until(lambda: rapi.words()[name] == "running", "the node is back", 30)


def test_a_node_that_is_offline_is_a_word_of_the_list_and_a_null_of_the_job(both: Both) -> None:
    behind, rapi = both
    name = behind.names[1]
    with behind.offline():
        assert rapi.words()[name] == "ERROR_nodeoffline"
        job_id = rapi.backend.submit_query(name, limit=3)
        job = rapi.newest("QUERY_DATA")
        assert (job["status"], job["opresult"][0][name]["run_state"]) == ("success", None)
        (report,) = rapi.backend.poll({job_id: clock()})
        (seen,) = report.observations
        assert (seen.status, seen.backend_status) == (Status.UNKNOWN, "ERROR_nodeoffline")
        assert rapi.client.GetInstance(name)["oper_state"] is None
    until(lambda: rapi.words()[name] == "running", "the node is back", 30)
