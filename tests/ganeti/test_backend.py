"""Whatever version and rights: the same readings of the queue and of the list."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ganeti.rapi.client import GanetiApiError

import proj.ganeti.backend
from proj.backend import (
    Found,
    JobState,
    Misconfigured,
    QueuedJob,
    SaysNothing,
    Verdict,
    Work,
    timed,
)
from proj.ganeti.backend import GanetiBackend
from proj.ganeti.client import Connection
from proj.ganeti.jobs import LABEL
from proj.observation import Observation, Status

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
UUID = "310ecf39-cc27-492b-afa4-d5f96e72cc75"
RECORD = {
    "name": "vm1.example",
    "uuid": UUID,
    "status": "running",
    "pnode": "n1",
    "snodes": [],
    "disk.sizes": [100],
    "nic.ips": [],
    "nic.macs": [],
    "nic.modes": [],
    "nic.links": [],
    "os": "noop",
    "tags": ["b", "a"],
}
ARCHIVED = "archived"


class Ganeti:
    """A client of a Ganeti that has these jobs, and answers what its version and rights allow."""

    def __init__(self, refuses: int = 0) -> None:
        self.refuses = refuses
        """The HTTP status of any query; 0 where queries are answered."""
        self.jobs: dict[int, dict[str, Any]] = {}
        self.instances: list[Any] = []
        self.asked: list[str] = []

    def add(self, job_id: int, status: Any, *ops: Any, **more: Any) -> None:
        self.jobs[job_id] = {"id": job_id, "status": status, "ops": list(ops)} | more

    def Query(self, what: str, fields: list[str], qfilter: Any = None) -> Any:
        self.asked.append(f"query {what}")
        if self.refuses:
            raise GanetiApiError("no", code=self.refuses)
        if what == "instance":
            return {"data": [[self._cell(it, name) for name in fields] for it in self.instances]}
        ids = {value for _, field, value in qfilter[1:] if field == "id"}
        by_id_only = all(operator == "=" and field == "id" for operator, field, _ in qfilter[1:])
        rows = [job for job in self.jobs.values() if self._matches(job, qfilter)]
        if by_id_only:
            rows += [{"id": job_id} for job_id in ids - set(self.jobs)]
        else:
            rows = [job for job in rows if ARCHIVED not in job]
        return {"data": [[self._cell(job, name) for name in fields] for job in rows]}

    def _matches(self, job: dict[str, Any], qfilter: Any) -> bool:
        assert qfilter[0] == "|"
        return any(
            job[field] > value if operator == ">" else job[field] == value
            for operator, field, value in qfilter[1:]
        )

    def _cell(self, record: dict[str, Any], field: str) -> list[Any]:
        return [0, record[field]] if field in record else [1, None]

    def GetJobs(self, bulk: bool = False) -> Any:
        self.asked.append("jobs in bulk" if bulk else "ids of jobs")
        found = [job for job in self.jobs.values() if ARCHIVED not in job]
        return found if bulk else [job["id"] for job in found]

    def GetJobStatus(self, job_id: int) -> Any:
        self.asked.append(f"job {job_id}")
        if job_id not in self.jobs:
            raise GanetiApiError("no", code=404)
        return self.jobs[job_id]

    def GetInstances(self, bulk: bool) -> Any:
        self.asked.append("instances in bulk")
        return self.instances

    def GetInstance(self, name: str) -> Any:
        found = [it for it in self.instances if f"{it['name']}.".startswith(f"{name}.")]
        if not found:
            raise GanetiApiError("no", code=404)
        return found[0]


def opcode(kind: str, **options: Any) -> dict[str, Any]:
    return {"OP_ID": f"OP_INSTANCE_{kind}"} | options


@pytest.fixture
def ganeti(monkeypatch: pytest.MonkeyPatch) -> Ganeti:
    """A Ganeti that answers everything."""
    fake = Ganeti()
    monkeypatch.setattr(proj.ganeti.backend, "connect", lambda *_, **__: fake)
    return fake


@pytest.fixture
def backend(ganeti: Ganeti, tmp_path: Path) -> GanetiBackend:
    """A backend of it."""
    connection = Connection("c", "h", 5080, "u", "p", None, insecure=True, certificates=tmp_path)
    return GanetiBackend(connection, lambda: timed(lambda: NOON))


@pytest.fixture(params=[0, 403, 404, 501])
def any_ganeti(request: pytest.FixtureRequest, ganeti: Ganeti) -> Ganeti:
    """A Ganeti that answers queries, and those that do not."""
    ganeti.refuses = request.param
    return ganeti


def states(jobs: tuple[QueuedJob, ...]) -> dict[int, JobState]:
    return {job.job_id: job.state for job in jobs}


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("queued", JobState.QUEUED),
        ("waiting", JobState.WAITING),
        ("canceling", JobState.WAITING),
        ("running", JobState.RUNNING),
        ("success", JobState.ENDED),
        ("error", JobState.ENDED),
        ("canceled", JobState.ENDED),
    ],
)
def test_each_word_of_the_queue_has_its_state(
    any_ganeti: Ganeti, backend: GanetiBackend, word: str, state: JobState
) -> None:
    any_ganeti.add(7, word)
    assert states(backend.read_queue(6, [], whole=False).jobs) == {7: state}


def test_a_reading_has_what_is_new_and_what_is_known(
    any_ganeti: Ganeti, backend: GanetiBackend
) -> None:
    any_ganeti.add(1, "success")
    any_ganeti.add(2, "running")
    any_ganeti.add(3, "success")
    any_ganeti.add(9, "queued")
    reading = backend.read_queue(3, [3, 1], whole=False)
    assert [job.job_id for job in reading.jobs] == [1, 3, 9]
    assert (reading.highest, reading.is_whole) == (None, False)


def test_a_whole_reading_has_every_open_job_and_the_highest_id(
    any_ganeti: Ganeti, backend: GanetiBackend
) -> None:
    any_ganeti.add(2, "running")
    any_ganeti.add(3, "canceling")
    any_ganeti.add(4, "success")
    any_ganeti.add(5, "error")
    reading = backend.read_queue(None, [4], whole=True)
    assert [job.job_id for job in reading.jobs] == [2, 3, 4]
    assert (reading.highest, reading.is_whole) == (5, True)


def test_the_highest_id_of_an_empty_queue_is_zero(backend: GanetiBackend) -> None:
    reading = backend.read_queue(None, [], whole=True)
    assert (reading.highest, reading.jobs) == (0, ())


def test_a_known_job_that_is_archived_is_asked_for_by_its_id(
    any_ganeti: Ganeti, backend: GanetiBackend
) -> None:
    any_ganeti.add(1, "success", opcode("STARTUP", instance_name="vm1"), archived=True)
    any_ganeti.add(2, "running")
    (first, second) = backend.read_queue(1, [1], whole=False).jobs
    assert (first.state, first.work) == (JobState.ENDED, (Work("vm1", "STARTUP"),))
    assert second.state is JobState.RUNNING


def test_a_known_job_that_the_queue_has_lost_is_unknown(
    any_ganeti: Ganeti, backend: GanetiBackend
) -> None:
    reading = backend.read_queue(0, [99], whole=False)
    assert states(reading.jobs) == {99: JobState.UNKNOWN}
    assert reading.unreadable == 0


@pytest.mark.parametrize(
    "bad",
    [
        {"status": "dancing"},
        {"ops": "none"},
        {"ops": [7]},
        {"ops": [{"instance_name": "vm1"}]},
        {"ops": [opcode("STARTUP", instance_name=7)]},
        {"ops": [opcode("MULTI_ALLOC", instances=[{}])]},
        {"ops": [opcode("STARTUP", instance_name="vm1", reason=[["x"]])]},
        {"id": None},
    ],
)
def test_a_row_that_cannot_be_read_is_counted_and_spoils_no_other(
    ganeti: Ganeti, backend: GanetiBackend, bad: dict[str, Any]
) -> None:
    ganeti.refuses = 404
    ganeti.add(1, "running")
    ganeti.jobs[2] = {"id": 2, "status": "running", "ops": []} | bad
    ganeti.add(3, "running")
    reading = backend.read_queue(0, [], whole=False)
    assert [job.job_id for job in reading.jobs] == [1, 3]
    assert reading.unreadable == 1


def test_a_known_job_that_cannot_be_read_is_unknown_and_asked_for_once(
    ganeti: Ganeti, backend: GanetiBackend
) -> None:
    ganeti.add(2, "dancing")
    reading = backend.read_queue(1, [2], whole=False)
    assert (states(reading.jobs), reading.unreadable) == ({2: JobState.UNKNOWN}, 1)
    assert ganeti.asked == ["query job"]


def test_a_job_of_several_opcodes_is_all_their_work(ganeti: Ganeti, backend: GanetiBackend) -> None:
    stop, start = (opcode(kind, instance_name="vm1") for kind in ("SHUTDOWN", "STARTUP"))
    ganeti.add(1, "running", stop, start, start)
    (job,) = backend.read_queue(0, [], whole=False).jobs
    assert job.work == (Work("vm1", "SHUTDOWN"), Work("vm1", "STARTUP"))


def test_a_query_is_a_job_of_one_query_and_nothing_else(
    ganeti: Ganeti, backend: GanetiBackend
) -> None:
    query = opcode("QUERY_DATA", instances=["vm1", "vm2"])
    ganeti.add(1, "running", query)
    ganeti.add(2, "running", query, query)
    ganeti.add(3, "running", query, opcode("STARTUP", instance_name="vm1"))
    ganeti.add(4, "running")
    jobs = backend.read_queue(0, [], whole=False).jobs
    assert [job.is_query for job in jobs] == [True, False, False, False]
    assert [len(job.work) for job in jobs] == [0, 0, 1, 0]


@pytest.mark.parametrize(
    ("text", "is_ours"),
    [
        (f"rate-limit:3:{LABEL}", True),
        (f"rate-limit:12:{LABEL}", True),
        (f"rate-limit:3:{LABEL}2", False),
        (f"rate-limit::{LABEL}", False),
        ("rate-limit:3:others", False),
        ("", False),
        (None, False),
    ],
)
def test_a_job_is_ours_if_it_bears_our_label(
    ganeti: Ganeti, backend: GanetiBackend, text: Any, is_ours: bool
) -> None:
    reason = [["gnt:user", text, 1], ["gnt:library:rlib2:instances_name_info", "", 2]]
    ganeti.add(1, "running", opcode("QUERY_DATA", instances=["vm1"], reason=reason))
    (job,) = backend.read_queue(0, [], whole=False).jobs
    assert job.is_ours is is_ours


def test_a_ganeti_that_lists_nothing_but_ids_says_nothing_of_its_queue(
    ganeti: Ganeti, backend: GanetiBackend
) -> None:
    ganeti.refuses = 404
    ganeti.jobs[1] = {"id": "1", "uri": "/2/jobs/1"}
    with pytest.raises(SaysNothing, match="too old"):
        backend.read_queue(0, [], whole=False)


def test_query_jobs_are_polled_whatever_the_version(
    any_ganeti: Ganeti, backend: GanetiBackend
) -> None:
    lost, failed = 8, opcode("QUERY_DATA", instances=["vm1"])
    any_ganeti.add(7, "error", failed, opresult=[["OpExecError", ["Error checking node n1: no"]]])
    reports = backend.poll({7: NOON, lost: NOON})
    assert {report.job_id: report.verdict for report in reports} == {
        7: Verdict.FAILED,
        lost: Verdict.LOST,
    }


@pytest.mark.parametrize("memory", [{"memory": 128}, {"maxmem": 128, "minmem": 64, "memory": 128}])
def test_a_list_in_bulk_says_what_a_query_says(
    ganeti: Ganeti, backend: GanetiBackend, memory: dict[str, int]
) -> None:
    ganeti.instances = [
        RECORD | {"be/maxmem": 128, "be/vcpus": 2, "beparams": memory | {"vcpus": 2}}
    ]
    queried = backend.look().records
    ganeti.refuses = 404
    del ganeti.instances[0]["be/maxmem"], ganeti.instances[0]["be/vcpus"]
    assert backend.look().records == queried
    (seen,) = queried
    assert isinstance(seen, Observation)
    assert (seen.configuration.memory, seen.configuration.vcpus) == (128, 2)


def test_a_bad_record_of_a_list_in_bulk_spoils_itself(
    ganeti: Ganeti, backend: GanetiBackend
) -> None:
    ganeti.refuses = 404
    ganeti.instances = [None, {}, RECORD | {"beparams": 7}]
    kinds = [type(item).__name__ for item in backend.look().records]
    assert kinds == ["Unreadable", "Unreadable", "Observation"]


def test_a_user_who_may_not_read_the_list_is_told_so(
    ganeti: Ganeti, backend: GanetiBackend
) -> None:
    ganeti.refuses = 403
    with pytest.raises(Misconfigured, match="option read"):
        backend.look()


def test_the_prints_of_a_list_give_name_and_uuid(ganeti: Ganeti, backend: GanetiBackend) -> None:
    bad = {"name": 7, "uuid": 8}
    ganeti.instances = [RECORD, RECORD | bad, {"name": "vm2"}, RECORD | {"tags": []}]
    prints = backend.look().prints()
    assert [(name, uuid) for name, uuid, _ in prints] == [
        ("vm1.example", UUID),
        ("", None),
        ("vm2", None),
        ("vm1.example", UUID),
    ]
    assert prints[0][2] != prints[3][2]


def test_who_answers_to_a_name_is_told_by_name_and_uuid(
    ganeti: Ganeti, backend: GanetiBackend
) -> None:
    ganeti.instances = [RECORD]
    assert backend.find("vm1.example") == Found("vm1.example", UUID)
    assert backend.find("vm1") == Found("vm1.example", UUID)
    assert backend.find("vm") is None


def test_an_answer_to_a_name_that_cannot_be_read_is_no_absence(
    ganeti: Ganeti, backend: GanetiBackend
) -> None:
    ganeti.instances = [RECORD | {"uuid": "none"}]
    with pytest.raises(SaysNothing):
        backend.find("vm1")


@pytest.mark.parametrize("name", ["../info", "", ".", "vm 1", "vm1?static=1", "vm1/info", "v\n"])
def test_a_name_that_no_instance_can_have_is_not_sent(
    ganeti: Ganeti, backend: GanetiBackend, name: str
) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: backend.find(name),
        lambda: backend.submit_query(name, limit=3),
    ]
    for call in calls:
        with pytest.raises(SaysNothing, match="is no name of an instance: nothing was asked"):
            call()


def test_a_reading_begins_before_it_asks_and_ends_after(ganeti: Ganeti, tmp_path: Path) -> None:
    ticks = iter(range(10))
    connection = Connection("c", "h", 5080, "u", "p", None, insecure=True, certificates=tmp_path)
    backend = GanetiBackend(
        connection, lambda: timed(lambda: NOON + timedelta(seconds=next(ticks)))
    )
    interval = backend.read_queue(0, [], whole=True).interval
    assert (interval.not_before, interval.not_after) == (NOON, NOON + timedelta(seconds=3))


def test_an_instance_that_is_only_reserved_is_being_built(
    ganeti: Ganeti, backend: GanetiBackend
) -> None:
    ganeti.instances = [RECORD | {"status": "ADMIN_down", "forthcoming": True}]
    (seen,) = backend.look().records
    assert isinstance(seen, Observation)
    assert (seen.status, seen.backend_status) == (Status.BUILD, "forthcoming")
