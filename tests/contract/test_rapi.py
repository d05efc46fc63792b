"""What we use of RAPI: the same requests and the same meaning, simulated and real.

A difference is a bug of the simulator.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from ganeti.rapi.client import GanetiApiError, GanetiRapiClient

from proj.backend import Found, JobReport, JobState, Look, Misconfigured, SaysNothing, Verdict
from proj.ganeti.backend import GanetiBackend
from proj.ganeti.client import Connection, connect
from proj.ganeti.replies import LIST_FIELDS
from proj.ganeti.states import STATUS_OF_WORD
from proj.names import is_uuid
from proj.observation import Interval, Observation, Status
from proj.simulator.server import Simulator
from tests.environment import until
from tests.fixtures.gates import clock, ungated
from tests.fixtures.lab import Lab


@dataclass(frozen=True)
class Rapi:
    """A cluster behind RAPI, and how to change it behind its back."""

    access: dict[str, Any]
    names: list[str]
    crash: Callable[[int], None]
    mend: Callable[[int], None]
    stop: Callable[[int], None]
    folder: Path

    def connection(self, **changes: Any) -> Connection:
        """Return how to reach it."""
        values = {
            "name": self.access["name"],
            "host": self.access["host"],
            "port": self.access["port"],
            "user": self.access["user"],
            "password": Path(self.access["password_file"]).read_text(),
            "certificate": Path(self.access["ca_file"]).read_text(),
            "certificates": self.folder,
        }
        return Connection(**(values | changes))

    @property
    def backend(self) -> GanetiBackend:
        """The backend that the engine uses."""
        return GanetiBackend(self.connection(), ungated)

    @property
    def client(self) -> Any:
        """The official client."""
        return connect(self.connection())

    def states(self, job_ids: list[int]) -> dict[int, JobState]:
        """Return how far the queue says that these jobs have come."""
        jobs = self.backend.read_queue(None, job_ids, whole=False).jobs
        return {job.job_id: job.state for job in jobs}

    def listed(self) -> dict[str, Observation]:
        """Return the list, every record of which can be read, by the instances' names."""
        records = self.backend.look().records
        seen = [record for record in records if isinstance(record, Observation)]
        assert len(seen) == len(records)
        return {it.instance: it for it in seen}

    def answer(self, name: str) -> JobReport:
        """Ask for one instance by a job, and await the report."""
        job_id = self.backend.submit_query(name, limit=3).job_id
        return self.report(job_id)

    def report(self, job_id: int) -> JobReport:
        """Await the report on a job."""

        def final() -> JobReport | None:
            (found,) = self.backend.poll({job_id: clock()})
            return None if found.verdict is Verdict.PENDING else found

        found: JobReport = until(final, f"job {job_id} ends", 60)
        return found


def simulated(folder: Path) -> Iterator[Rapi]:
    """A simulated cluster."""
    with Simulator(folder, instances=4, job_seconds=0.05) as simulator:
        cluster = simulator["sim1"]
        names = list(cluster.truth.instances)
        yield Rapi(
            simulator.access("sim1"),
            names,
            lambda index: cluster.truth.crash(names[index]),
            lambda index: cluster.truth.start(names[index]),
            lambda index: cluster.truth.stop(names[index]),
            folder,
        )


def real(lab: Lab, folder: Path) -> Iterator[Rapi]:
    """The lab's cluster."""
    yield Rapi(
        lab.access,
        [lab.name(number) for number in range(1, 21)],
        lambda index: lab.crash(index + 1),
        lambda index: lab.gnt("gnt-instance", "start", lab.name(index + 1)) and None,
        lambda index: lab.gnt("gnt-instance", "stop", lab.name(index + 1)) and None,
        folder,
    )


@pytest.fixture(params=["simulator", pytest.param("ganeti", marks=pytest.mark.ganeti)])
def rapi(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rapi]:
    """A cluster of either kind."""
    if request.param == "simulator":
        yield from simulated(tmp_path)
    else:
        yield from real(request.getfixturevalue("lab"), tmp_path)


def test_the_version_is_two(rapi: Rapi) -> None:
    assert rapi.backend.version() == "2"
    assert rapi.client.GetVersion() == 2


def test_the_list_holds_every_instance_with_every_field(rapi: Rapi) -> None:
    listed = rapi.listed()
    assert set(listed) == set(rapi.names)
    for seen in listed.values():
        assert (seen.status, seen.backend_status) == (Status.ACTIVE, "running")
        made_of = seen.configuration
        assert made_of.memory
        assert made_of.vcpus
        assert made_of.nodes
        assert made_of.os == "noop"
        assert made_of.disks is not None
        assert made_of.nics is not None
        assert made_of.tags is not None
        assert seen.uuid
        assert is_uuid(seen.uuid)
    assert len({seen.uuid for seen in listed.values()}) == len(listed)


def test_the_prints_of_a_list_are_the_names_and_uuids_of_its_records(rapi: Rapi) -> None:
    look = rapi.backend.look()
    prints = {(name, uuid) for name, uuid, _ in look.prints()}
    assert prints == {(name, seen.uuid) for name, seen in rapi.listed().items()}
    assert len(prints) == look.size


def test_a_list_that_is_as_it_was_is_told_by_its_time_alone(rapi: Rapi) -> None:
    look = rapi.backend.look()
    again = rapi.backend.look_unless(look.digest)
    assert isinstance(again, Interval)
    assert again.begins_after(look.interval)


def test_a_list_that_is_not_the_known_one_is_read(rapi: Rapi) -> None:
    known = rapi.backend.look().digest
    rapi.crash(0)
    try:
        seen = rapi.backend.look_unless(known)
    finally:
        rapi.mend(0)
    assert isinstance(seen, Look)
    assert (seen.size, seen.digest == known) == (len(rapi.names), False)


def test_a_list_is_read_anew_where_a_word_has_another_meaning(rapi: Rapi) -> None:
    known = rapi.backend.look().digest
    other = GanetiBackend(rapi.connection(), ungated, STATUS_OF_WORD | {"ERROR_down": Status.ERROR})
    assert isinstance(other.look_unless(known), Look)


def test_a_query_answers_fields_and_rows_of_pairs(rapi: Rapi) -> None:
    answer = rapi.client.Query("instance", [*LIST_FIELDS, "no.such.field"])
    assert set(answer) == {"fields", "data"}
    assert [field["name"] for field in answer["fields"]] == [*LIST_FIELDS, "no.such.field"]
    for row in answer["data"]:
        assert [status for status, _ in row] == [0] * len(LIST_FIELDS) + [1]


def test_a_job_says_of_a_running_instance_what_the_list_says(rapi: Rapi) -> None:
    report = rapi.answer(rapi.names[0])
    assert report.verdict is Verdict.ANSWERED
    (seen,) = report.observations
    listed = rapi.listed()[rapi.names[0]]
    assert (seen.status, seen.backend_status) == (listed.status, listed.backend_status)
    assert seen.uuid == listed.uuid
    assert seen.configuration == replace(listed.configuration, tags=None)


def test_a_crash_is_seen_by_the_list_and_by_a_job(rapi: Rapi) -> None:
    rapi.crash(1)
    try:
        name = rapi.names[1]
        assert rapi.listed()[name].backend_status == "ERROR_down"
        (seen,) = rapi.answer(name).observations
        assert (seen.status, seen.backend_status) == (Status.STOPPED, "ERROR_down")
    finally:
        rapi.mend(1)


def test_a_stop_is_seen_by_the_list_and_by_a_job(rapi: Rapi) -> None:
    rapi.stop(2)
    try:
        name = rapi.names[2]
        assert rapi.listed()[name].backend_status == "ADMIN_down"
        (seen,) = rapi.answer(name).observations
        assert (seen.status, seen.backend_status) == (Status.STOPPED, "ADMIN_down")
    finally:
        rapi.mend(2)


def test_a_static_query_says_nothing_about_the_state(rapi: Rapi) -> None:
    job_id = int(rapi.client.GetInstanceInfo(rapi.names[0], static=True))
    (seen,) = rapi.report(job_id).observations
    assert (seen.status, seen.backend_status) == (None, None)
    assert seen.configuration.memory


def test_a_name_nobody_knows_is_absent_by_job_and_by_name(rapi: Rapi) -> None:
    assert rapi.answer("nobody.example").verdict is Verdict.ABSENT
    assert rapi.backend.find("nobody.example") is None
    with pytest.raises(GanetiApiError) as caught:
        rapi.client.GetInstance("nobody.example")
    assert caught.value.code == 404


def test_a_name_is_completed_up_to_a_dot_by_job_and_by_name(rapi: Rapi) -> None:
    whole, uuid = rapi.names[0], rapi.listed()[rapi.names[0]].uuid
    short, _, rest = whole.partition(".")
    assert rest
    for name in (whole, short):
        assert rapi.backend.find(name) == Found(whole, uuid)
    for name in (whole, short, short.upper()):
        (seen,) = rapi.answer(name).observations
        assert (seen.instance, seen.uuid) == (whole, uuid)
    assert rapi.backend.find(short[:-1]) is None


def test_a_path_that_leads_elsewhere_is_never_sent_and_would_not_be_folded(rapi: Rapi) -> None:
    with pytest.raises(SaysNothing, match="is no name"):
        rapi.backend.find("../nodes")
    with pytest.raises(GanetiApiError) as caught:
        rapi.client.GetInstance("../nodes")
    assert caught.value.code == 404


def test_a_job_nobody_knows_is_lost(rapi: Rapi) -> None:
    (report,) = rapi.backend.poll({99_999_999: clock()})
    assert report.verdict is Verdict.LOST
    assert rapi.states([99_999_999]) == {99_999_999: JobState.UNKNOWN}
    status = rapi.client.GetJobStatus(99_999_999)
    assert {name for name, value in status.items() if value is not None} <= {"id"}


def test_the_end_of_a_job_is_told_by_its_id(rapi: Rapi) -> None:
    good, bad = (
        rapi.backend.submit_query(name, limit=3).job_id for name in (rapi.names[0], "nobody")
    )
    for job_id in (good, bad):
        rapi.report(job_id)
    assert rapi.states([good, bad]) == dict.fromkeys((good, bad), JobState.ENDED)


def test_one_request_reports_on_many_jobs(rapi: Rapi) -> None:
    submitted = {
        rapi.backend.submit_query(name, limit=3).job_id: clock() for name in rapi.names[:3]
    }
    reports = rapi.backend.poll(submitted)
    assert {report.job_id for report in reports} == set(submitted)
    for job_id in submitted:
        rapi.report(job_id)


def test_jobs_newer_than_an_id_can_be_asked_for(rapi: Rapi) -> None:
    first = rapi.backend.submit_query(rapi.names[0], limit=3).job_id
    second = rapi.backend.submit_query(rapi.names[0], limit=3).job_id
    rows = rapi.client.Query("job", ["id", "summary"], ["&", [">", "id", first]])["data"]
    assert [int(row[0][1]) for row in rows] == [second]
    assert rows[0][1] == [0, ["INSTANCE_QUERY_DATA"]]
    rapi.report(second)


def test_a_reading_of_the_queue_has_what_is_new_and_what_is_known(rapi: Rapi) -> None:
    first = rapi.backend.read_queue(None, [], whole=True)
    job_id = rapi.backend.submit_query(rapi.names[0], limit=3).job_id
    assert first.highest is not None
    assert first.highest < job_id
    (job,) = rapi.backend.read_queue(first.highest, [], whole=False).jobs
    assert (job.job_id, job.is_query, job.is_ours, job.work) == (job_id, True, True, ())
    rapi.report(job_id)
    second = rapi.backend.read_queue(job_id, [job_id], whole=True)
    assert (second.highest, second.unreadable) == (job_id, 0)
    assert [(it.job_id, it.state) for it in second.jobs] == [(job_id, JobState.ENDED)]
    assert rapi.backend.read_queue(job_id, [], whole=False).jobs == ()


def test_the_queue_in_bulk_is_read_as_a_query_of_it_is(
    rapi: Rapi, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = rapi.backend.submit_query(rapi.names[0], limit=3).job_id
    report = rapi.report(job_id)

    def read() -> tuple[Any, ...]:
        reading = rapi.backend.read_queue(0, [99_999_999], whole=True)
        (polled,) = rapi.backend.poll({job_id: clock()})
        assert polled.verdict is report.verdict
        return reading.jobs, reading.highest, reading.unreadable

    queried = read()
    monkeypatch.setattr(GanetiRapiClient, "Query", refused)
    assert read() == queried


def test_the_list_in_bulk_is_read_as_a_query_of_it_is(
    rapi: Rapi, monkeypatch: pytest.MonkeyPatch
) -> None:
    queried = rapi.listed()
    monkeypatch.setattr(GanetiRapiClient, "Query", refused)
    listed = rapi.listed()
    assert listed == {
        name: replace(seen, interval=listed[name].interval) for name, seen in queried.items()
    }


def refused(*_: Any) -> Any:
    """Answer a query as a Ganeti that has none."""
    raise GanetiApiError("Not Found", code=404)


def test_an_operator_that_ganeti_does_not_know_is_refused(rapi: Rapi) -> None:
    with pytest.raises(GanetiApiError) as caught:
        rapi.client.Query("job", ["id"], ["and", [">", "id", 1]])
    assert caught.value.code == 502


def test_the_reason_of_a_query_reaches_the_job(rapi: Rapi) -> None:
    job_id = rapi.backend.submit_query(rapi.names[0], limit=3).job_id
    (operation,) = rapi.client.GetJobStatus(job_id)["ops"]
    assert operation["OP_ID"] == "OP_INSTANCE_QUERY_DATA"
    assert operation["instances"] == [rapi.names[0]]
    assert "rate-limit:3:reconciliation" in [text for _, text, _ in operation["reason"]]
    rapi.report(job_id)


def test_a_wrong_password_is_refused(rapi: Rapi) -> None:
    with pytest.raises(Misconfigured, match="refuses user or password"):
        GanetiBackend(rapi.connection(password="guess"), ungated).look()


def test_another_certificate_is_refused(rapi: Rapi, tmp_path: Path) -> None:
    with Simulator(tmp_path / "other") as other:
        pem = Path(other.access("sim1")["ca_file"]).read_text()
    with pytest.raises(Misconfigured, match="another certificate"):
        GanetiBackend(rapi.connection(certificate=pem), ungated).look()
