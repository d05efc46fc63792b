"""Shapes of jobs and of nodes in trouble: the same from the simulator and from a real Ganeti."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from ganeti.rapi.client import GanetiApiError

from proj.backend import JobState, QueuedJob, Verdict, Work
from proj.ganeti.backend import GanetiBackend
from proj.ganeti.client import Connection, connect
from proj.observation import Observation, Status
from proj.simulator.server import Cluster, Simulator
from tests.environment import until
from tests.fixtures.gates import clock, ungated
from tests.fixtures.lab import FILES, INSTANCES, Lab

JOB = ("id", "status", "summary", "ops", "opstatus", "opresult")


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

    def tag(self, name: str, *tags: str) -> None:
        """Give an instance these tags."""

    def reserve(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Let an instance be forthcoming."""

    def rename(self, name: str, new_name: str) -> contextlib.AbstractContextManager[None]:
        """Let an instance have another name."""

    def recreate(self, name: str) -> None:
        """Remove an instance of the second node and make another one of the same name."""

    def submit(self, *operations: dict[str, Any]) -> None:
        """Have these operations carried out by one job, to its end."""

    def archive(self, job_id: int) -> None:
        """Archive a job."""

    def purge(self, job_id: int) -> None:
        """Forget a job that is archived."""

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

    def tag(self, name: str, *tags: str) -> None:
        self._cluster.truth.change(name, tags=list(tags))

    @contextlib.contextmanager
    def reserve(self, name: str) -> Iterator[None]:
        self._cluster.truth.reserve(name)
        yield
        self._cluster.truth.remove(name)

    @contextlib.contextmanager
    def rename(self, name: str, new_name: str) -> Iterator[None]:
        self._rename(name, new_name)
        yield
        self._rename(new_name, name)
        self._cluster.truth.start(name)

    def _rename(self, name: str, new_name: str) -> None:
        self._cluster.truth.stop(name)
        operation = {"OP_ID": "OP_INSTANCE_RENAME", "instance_name": name, "new_name": new_name}
        job = self._cluster.queue.submit(operation)
        queue = self._cluster.queue
        until(lambda: queue.advance() or queue.jobs[job].status == "success", "it is renamed")

    def recreate(self, name: str) -> None:
        self.operate("REMOVE", name)
        self.submit({"OP_ID": "OP_INSTANCE_CREATE", "instance_name": name, "pnode": "node2.sim1"})

    def submit(self, *operations: dict[str, Any]) -> None:
        queue = self._cluster.queue
        job = queue.submit(operations)
        until(lambda: queue.advance() or queue.jobs[job].ended, "the job ends")

    def archive(self, job_id: int) -> None:
        self._cluster.queue.archive()

    def purge(self, job_id: int) -> None:
        self._cluster.queue.purge()

    def cancel(self, job_id: int) -> None:
        assert self._cluster.queue.cancel(job_id)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        job = self._cluster.queue.lock("node2.sim1", 3600)
        yield
        self._cluster.queue.end(job)

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

    def tag(self, name: str, *tags: str) -> None:
        self._lab.gnt("gnt-instance", "add-tags", name, *tags)

    @contextlib.contextmanager
    def reserve(self, name: str) -> Iterator[None]:
        self._lab.gnt(
            "gnt-instance", "add", "--forthcoming", "--no-nics", "-t", "diskless", "-o", "noop",
            "-B", "memory=4,vcpus=1", *self._lab.unchecked, "--no-install", "--no-start",
            "-n", self._node, name,
        )  # fmt: skip
        try:
            yield
        finally:
            self._lab.gnt("gnt-instance", "remove", "--force", name)

    @contextlib.contextmanager
    def rename(self, name: str, new_name: str) -> Iterator[None]:
        self._lab.gnt("gnt-instance", "stop", name)
        self._lab.rename(name, new_name)
        try:
            yield
        finally:
            self._lab.rename(new_name, name)
            self._lab.gnt("gnt-instance", "start", name)

    def recreate(self, name: str) -> None:
        self._lab.gnt("gnt-instance", "remove", "--force", name)
        self._lab.gnt(
            "gnt-instance", "add", "--no-nics", "-t", "diskless", "-o", "noop",
            "-B", "memory=4,vcpus=1", *self._lab.unchecked, "--no-install", "--no-start",
            "-n", self._node, name,
        )  # fmt: skip
        self._lab.gnt("gnt-instance", "start", name)

    def submit(self, *operations: dict[str, Any]) -> None:
        write = f"cat > /tmp/job <<'END'\n{json.dumps(operations)}\nEND"
        self._lab.on(1, "sh", "-c", write)
        self._lab.ends_well(1, "gnt-debug", "submit-job", "/tmp/job")

    def archive(self, job_id: int) -> None:
        self._lab.gnt("gnt-job", "archive", str(job_id))

    def purge(self, job_id: int) -> None:
        self._lab.on(1, "sh", "-c", f"rm /var/lib/ganeti/queue/archive/*/job-{job_id}")

    def cancel(self, job_id: int) -> None:
        self._lab.gnt("gnt-job", "cancel", str(job_id))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        job = self._lab.lock(2, 60)
        try:
            yield
        finally:
            self._lab.purge(job)

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
        self.backend = GanetiBackend(self._connection, ungated)
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

    def queued(self, job_id: int) -> QueuedJob:
        """Return a job as a reading of the queue tells it."""
        (job,) = self.backend.read_queue(None, [job_id], whole=False).jobs
        return job

    def seen(self) -> dict[str, Observation]:
        """Return the list by the instances' names."""
        records = self.backend.look().records
        return {it.instance: it for it in records if isinstance(it, Observation)}

    def words(self) -> dict[str, str]:
        """Return the list's word for each instance."""
        return {name: str(it.backend_status) for name, it in self.seen().items()}

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
        simulator["sim1"].faults.rights = "read"
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
    job_id = rapi.backend.submit_query(behind.names[0], limit=3).job_id
    rapi.newest("QUERY_DATA")
    assert job_id in [int(found) for found in rapi.client.GetJobs()]
    behind.archive(job_id)
    assert job_id not in [int(found) for found in rapi.client.GetJobs()]
    assert rapi.client.GetJobStatus(job_id)["status"] == "success"
    (report,) = rapi.backend.poll({job_id: clock()})
    assert [seen.instance for seen in report.observations] == [behind.names[0]]
    assert rapi.queued(job_id).state is JobState.ENDED


def test_a_job_that_waits_for_a_lock_is_open_until_it_is_canceled(both: Both) -> None:
    behind, rapi = both
    with behind.locked():
        job_id = rapi.backend.submit_query(behind.names[1], limit=3).job_id
        until(lambda: rapi.client.GetJobStatus(job_id)["status"] == "waiting", "it waits", 20)
        (report,) = rapi.backend.poll({job_id: clock()})
        assert report.verdict is Verdict.PENDING
        assert rapi.queued(job_id).state is JobState.WAITING
        behind.cancel(job_id)
        job = rapi.newest("QUERY_DATA")
    assert (job["status"], job["opstatus"]) == ("canceled", ["canceled"])
    assert job["opresult"] == ["Job canceled by request"]
    (report,) = rapi.backend.poll({job_id: clock()})
    assert report.verdict is Verdict.RETRY
    assert rapi.queued(job_id).state is JobState.ENDED


def test_the_summary_of_an_operation_names_its_kind_and_its_instance(both: Both) -> None:
    behind, rapi = both
    name = behind.names[2]
    for kind in ("SHUTDOWN", "STARTUP", "REBOOT"):
        behind.operate(kind, name)
        job = rapi.newest(kind)
        assert (job["status"], job["summary"]) == ("success", [f"INSTANCE_{kind}({name})"])
        assert job["ops"][0]["instance_name"] == name
        (work,) = rapi.queued(int(job["id"])).work
        assert (work.instance, work.operation) == (name, kind)
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
        job_id = rapi.backend.submit_query(name, limit=3).job_id
        job = rapi.newest("QUERY_DATA")
        assert job["status"] == "error"
        ((kind, (message,)),) = job["opresult"]
        assert (kind, message.startswith("Error checking node")) == ("OpExecError", True)
        (report,) = rapi.backend.poll({job_id: clock()})
        assert (report.verdict, report.observations) == (Verdict.FAILED, ())
        assert "Error checking node" in report.error
        assert rapi.client.GetInstance(name)["oper_state"] is None
    until(lambda: rapi.words()[name] == "running", "the node is back", 30)


def test_a_node_that_is_offline_is_a_word_of_the_list_and_a_null_of_the_job(both: Both) -> None:
    behind, rapi = both
    name = behind.names[1]
    with behind.offline():
        assert rapi.words()[name] == "ERROR_nodeoffline"
        job_id = rapi.backend.submit_query(name, limit=3).job_id
        job = rapi.newest("QUERY_DATA")
        assert (job["status"], job["opresult"][0][name]["run_state"]) == ("success", None)
        (report,) = rapi.backend.poll({job_id: clock()})
        (seen,) = report.observations
        assert (seen.status, seen.backend_status) == (Status.UNKNOWN, "ERROR_nodeoffline")
        assert rapi.client.GetInstance(name)["oper_state"] is None
    until(lambda: rapi.words()[name] == "running", "the node is back", 30)


def test_a_list_tells_the_tags_in_order_and_a_job_tells_none(both: Both) -> None:
    behind, rapi = both
    name = behind.names[3]
    behind.tag(name, "zeta", "alpha")
    assert rapi.seen()[name].configuration.tags == ("alpha", "zeta")
    job_id = rapi.backend.submit_query(name, limit=3).job_id
    rapi.newest("QUERY_DATA")
    (report,) = rapi.backend.poll({job_id: clock()})
    (seen,) = report.observations
    assert seen.configuration.tags is None


def test_an_instance_that_is_only_reserved_is_stopped_to_a_job(both: Both) -> None:
    behind, rapi = both
    name = f"coming.{behind.names[0].partition('.')[2]}"
    with behind.reserve(name):
        listed = rapi.seen()[name]
        assert (listed.status, listed.backend_status) == (Status.BUILD, "forthcoming")
        job_id = rapi.backend.submit_query(name, limit=3).job_id
        rapi.newest("QUERY_DATA")
        (report,) = rapi.backend.poll({job_id: clock()})
        (seen,) = report.observations
        assert (seen.uuid, seen.backend_status) == (listed.uuid, "ADMIN_down")
        found = rapi.backend.find(name)
        assert found is not None
        assert found.uuid == listed.uuid
    assert rapi.backend.find(name) is None


def test_a_renamed_instance_keeps_its_uuid_and_its_job_names_it_twice(both: Both) -> None:
    behind, rapi = both
    name = behind.names[2]
    new_name = f"renamed.{name.partition('.')[2]}"
    uuid = rapi.seen()[name].uuid
    with behind.rename(name, new_name):
        job = rapi.newest("RENAME")
        assert rapi.queued(int(job["id"])).work == (
            Work(name, "RENAME"),
            Work(new_name, "RENAME"),
        )
        listed = rapi.seen()
        assert listed[new_name].uuid == uuid
        assert name not in listed


def test_an_instance_that_is_made_again_under_its_name_is_another_one(both: Both) -> None:
    behind, rapi = both
    name = behind.names[3]
    before = rapi.seen()[name].uuid
    behind.recreate(name)
    listed = rapi.seen()[name]
    assert (listed.backend_status, listed.uuid == before) == ("running", False)
    job_id = rapi.backend.submit_query(name, limit=3).job_id
    rapi.newest("QUERY_DATA")
    (report,) = rapi.backend.poll({job_id: clock()})
    assert [seen.uuid for seen in report.observations] == [listed.uuid]


def test_a_lock_of_a_node_holds_up_queries_of_its_instances_and_not_their_shutdown(
    both: Both,
) -> None:
    behind, rapi = both
    other, here, stopped = behind.names[0], behind.names[1], behind.names[3]
    with behind.locked():
        waits = rapi.backend.submit_query(here, limit=3).job_id
        answered = rapi.backend.submit_query(other, limit=3).job_id
        until(lambda: rapi.queued(answered).state is JobState.ENDED, "it is answered", 10)
        behind.operate("SHUTDOWN", stopped)
        assert rapi.words()[stopped] == "ADMIN_down"
        assert rapi.queued(waits).state is JobState.WAITING
        assert rapi.client.GetJobStatus(waits)["start_ts"] is not None
        assert rapi.backend.cancel(waits) is False
    until(lambda: rapi.queued(waits).state is JobState.ENDED, "it is answered as well", 30)
    behind.operate("STARTUP", stopped)


def test_a_job_of_several_operations_names_in_full_whom_it_was_told_in_short(both: Both) -> None:
    behind, rapi = both
    name = behind.names[2]
    short = name.partition(".")[0].upper()
    kinds = ("SHUTDOWN", "STARTUP")
    behind.submit(*({"OP_ID": f"OP_INSTANCE_{kind}", "instance_name": short} for kind in kinds))
    job = rapi.newest("SHUTDOWN")
    assert (job["status"], job["opstatus"]) == ("success", ["success", "success"])
    assert job["summary"] == [f"INSTANCE_{kind}({name})" for kind in kinds]
    for op in job["ops"]:
        assert (op["instance_name"], op["instance_uuid"]) == (name, rapi.seen()[name].uuid)
    assert rapi.words()[name] == "running"


def test_after_an_operation_that_failed_none_is_carried_out(both: Both) -> None:
    behind, rapi = both
    names = ("nobody", behind.names[2])
    behind.submit(*({"OP_ID": "OP_INSTANCE_SHUTDOWN", "instance_name": it} for it in names))
    job = rapi.newest("SHUTDOWN")
    assert (job["status"], job["opstatus"]) == ("error", ["error", "error"])
    first, second = job["opresult"]
    assert first == ["OpPrereqError", ["Instance 'nobody' not known", "unknown_entity"]]
    assert second == ["OpExecError", ["Preceding opcode failed"]]
    assert rapi.words()[behind.names[2]] == "running"


def test_a_query_job_shows_a_name_as_it_was_typed_and_answers_in_full(both: Both) -> None:
    behind, rapi = both
    short = behind.names[0].partition(".")[0].upper()
    rapi.backend.submit_query(short, limit=3)
    job = rapi.newest("QUERY_DATA")
    assert job["ops"][0]["instances"] == [short]
    assert list(job["opresult"][0]) == [behind.names[0]]


def test_a_purged_job_is_not_known_any_more(both: Both) -> None:
    behind, rapi = both
    job_id = rapi.backend.submit_query(behind.names[0], limit=3).job_id
    rapi.newest("QUERY_DATA")
    behind.archive(job_id)
    behind.purge(job_id)
    found = rapi.client.GetJobStatus(job_id)
    assert {name for name, value in found.items() if value is not None} == {"id"}
    assert rapi.queued(job_id).state is JobState.UNKNOWN


def test_a_list_by_names_completes_them_and_fails_for_one_that_nobody_has(both: Both) -> None:
    behind, rapi = both
    name, uuid = behind.names[0], rapi.seen()[behind.names[0]].uuid

    def found(*wanted: Any) -> list[Any]:
        rows = rapi.client.Query("instance", ["name"], ["|", *wanted])["data"]
        return [value for ((_, value),) in rows]

    assert found(["=", "name", name.partition(".")[0]]) == [name]
    assert found(["=", "uuid", uuid], ["=", "uuid", "nobody"]) == [name]
    with pytest.raises(GanetiApiError) as caught:
        found(["=", "name", name], ["=", "name", "nobody"])
    assert caught.value.code == 500
