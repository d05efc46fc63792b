"""Each fault of the simulator, as the backend meets it; none of them says "gone"."""

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pycurl
import pytest
from ganeti.rapi.client import GanetiApiError

import proj.ganeti.backend
from proj.backend import (
    BackendError,
    JobState,
    Misconfigured,
    SaysNothing,
    TryAgain,
    Unreadable,
    Verdict,
)
from proj.ganeti.backend import GanetiBackend
from proj.ganeti.client import Connection, connect
from proj.observation import Interval, Observation
from proj.simulator.server import Cluster, Simulator
from tests.environment import until
from tests.fixtures.gates import clock, ungated

READ = Interval(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC))


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Simulator]:
    """One cluster of five instances."""
    with Simulator(tmp_path, instances=5, job_seconds=0.02) as running:
        yield running


@pytest.fixture
def cluster(simulator: Simulator) -> Cluster:
    """The cluster itself, to break."""
    return simulator["sim1"]


@pytest.fixture
def backend(simulator: Simulator, tmp_path: Path) -> GanetiBackend:
    """The backend that meets the faults."""
    access = simulator.access("sim1")
    return GanetiBackend(
        Connection(
            name="sim1",
            host=access["host"],
            port=access["port"],
            user=access["user"],
            password=Path(access["password_file"]).read_text(),
            certificate=Path(access["ca_file"]).read_text(),
            certificates=tmp_path,
        ),
        ungated,
    )


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"garbage": True}, SaysNothing),
        ({"cut": True}, TryAgain),
        ({"status": 401}, Misconfigured),
        ({"status": 403}, Misconfigured),
        ({"status": 404}, TryAgain),
        ({"status": 500}, TryAgain),
        ({"status": 502}, TryAgain),
        ({"status": 504}, TryAgain),
    ],
    ids=str,
)
def test_a_broken_answer_is_an_error_and_never_a_list(
    cluster: Cluster, backend: GanetiBackend, fault: dict[str, object], error: type[BackendError]
) -> None:
    for name, value in fault.items():
        setattr(cluster.faults, name, value)
    with pytest.raises(error):
        backend.look()


def test_a_hanging_master_is_given_up(
    cluster: Cluster, backend: GanetiBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proj.ganeti.backend, "PROBE_TIMEOUT", 1)
    cluster.faults.hang = True
    with pytest.raises(TryAgain, match="does not answer in time"):
        backend.version()


def test_a_list_may_be_empty_or_lack_an_instance(cluster: Cluster, backend: GanetiBackend) -> None:
    missing = next(iter(cluster.truth.instances))
    cluster.faults.hidden.add(missing)
    assert backend.look().size == 4
    found = backend.find(missing)
    assert found is not None
    assert found.name == missing
    cluster.faults.empty_list = True
    assert backend.look().size == 0


def observations(backend: GanetiBackend) -> list[Observation]:
    return [record for record in backend.look().records if isinstance(record, Observation)]


def verdict(backend: GanetiBackend, job_id: int) -> Verdict:
    (report,) = backend.poll({job_id: clock()})
    return report.verdict


def test_jobs_may_be_stuck_canceled_lost_and_archived(
    cluster: Cluster, backend: GanetiBackend
) -> None:
    name = next(iter(cluster.truth.instances))
    cluster.queue.stuck = True
    stuck, canceled, lost = (backend.submit_query(name, limit=3).job_id for _ in range(3))
    assert verdict(backend, stuck) is Verdict.PENDING
    assert cluster.queue.cancel(canceled)
    assert verdict(backend, canceled) is Verdict.RETRY
    cluster.queue.lose(lost)
    assert verdict(backend, lost) is Verdict.LOST
    cluster.queue.stuck = False
    until(lambda: verdict(backend, stuck) is Verdict.ANSWERED, "the job ends")
    cluster.queue.archive()
    assert verdict(backend, stuck) is Verdict.ANSWERED


def test_a_master_that_moves_kills_what_ran_and_jumps_in_its_ids(
    cluster: Cluster, backend: GanetiBackend
) -> None:
    name = next(iter(cluster.truth.instances))
    cluster.queue.seconds = 60
    before = backend.submit_query(name, limit=3).job_id
    cluster.queue.move_master()
    assert verdict(backend, before) is Verdict.RETRY
    assert backend.submit_query(name, limit=3).job_id > before + 900


def test_a_clock_off_by_an_hour_changes_no_observation(
    cluster: Cluster, backend: GanetiBackend
) -> None:
    before = [replace(seen, interval=READ) for seen in observations(backend)]
    cluster.queue.skew = 3600
    assert [replace(seen, interval=READ) for seen in observations(backend)] == before


def test_the_rate_limit_of_the_reason_holds(cluster: Cluster, backend: GanetiBackend) -> None:
    cluster.queue.seconds = 60
    for name in cluster.truth.instances:
        backend.submit_query(name, limit=2)
    running = [job for job in cluster.queue.jobs.values() if job.status == "running"]
    assert len(running) == 2


def test_other_peoples_work_shows_in_the_queue_and_then_in_the_list(
    cluster: Cluster, backend: GanetiBackend
) -> None:
    name = next(iter(cluster.truth.instances))
    cluster.queue.seconds = 0.3
    cluster.queue.submit({"OP_ID": "OP_INSTANCE_SHUTDOWN", "instance_name": name})
    reading = backend.read_queue(0, [], whole=True)
    (job,) = reading.jobs
    assert (job.job_id, job.state) == (reading.highest, JobState.RUNNING)
    assert [(work.instance, work.operation) for work in job.work] == [(name, "SHUTDOWN")]

    def ended() -> bool:
        (known,) = backend.read_queue(None, [job.job_id], whole=False).jobs
        return known.state is JobState.ENDED

    until(ended, "the job ends")
    listed = {seen.instance: seen.backend_status for seen in observations(backend)}
    assert listed[name] == "ADMIN_down"


def test_one_record_that_cannot_be_read_spoils_itself_alone(
    cluster: Cluster, backend: GanetiBackend
) -> None:
    name = next(iter(cluster.truth.instances))
    cluster.faults.malformed.add(name)
    records = backend.look().records
    assert [it.instance for it in records if isinstance(it, Unreadable)] == [name]
    assert len(records) == 5


def test_a_list_may_be_cut_after_whole_records_or_name_somebody_twice(
    cluster: Cluster, backend: GanetiBackend
) -> None:
    names = list(cluster.truth.instances)
    cluster.faults.halved = True
    assert [seen.instance for seen in observations(backend)] == names[:2]
    cluster.faults.halved, cluster.faults.doubled = False, {names[0]}
    assert [seen.instance for seen in observations(backend)] == [*names, names[0]]


def test_a_list_may_be_in_any_order_and_lack_uuids(
    cluster: Cluster, backend: GanetiBackend
) -> None:
    names = list(cluster.truth.instances)
    cluster.faults.reversed = True
    assert [seen.instance for seen in observations(backend)] == names[::-1]
    cluster.faults.without_uuid.add("*")
    assert {seen.uuid for seen in observations(backend)} == {None}


def test_one_result_that_cannot_be_had_fails_a_request_that_asks_for_it(
    cluster: Cluster, backend: GanetiBackend
) -> None:
    good, bad = (
        backend.submit_query(name, limit=3).job_id for name in list(cluster.truth.instances)[:2]
    )
    until(lambda: verdict(backend, good) is Verdict.ANSWERED, "the job ends")
    cluster.faults.unfetchable.add(bad)
    with pytest.raises(TryAgain):
        backend.poll({good: clock(), bad: clock()})
    assert verdict(backend, good) is Verdict.ANSWERED
    assert len(backend.read_queue(0, [], whole=True).jobs) == 2
    cluster.faults.unfetchable.clear()
    cluster.faults.garbled.add(bad)
    (report,) = backend.poll({bad: clock()})
    assert report.observations == ()


def test_a_result_may_hang_the_request_that_asks_for_it(
    cluster: Cluster, backend: GanetiBackend
) -> None:
    name = next(iter(cluster.truth.instances))
    job = backend.submit_query(name, limit=3).job_id
    cluster.faults.hanging.add(name)
    cluster.queue.end(job)
    client = connect(backend._connection, timeout=1)
    with pytest.raises(GanetiApiError) as caught:
        client.GetJobStatus(job)
    assert caught.value.code == pycurl.E_OPERATION_TIMEDOUT
    assert backend.look().size == 5


def test_a_row_of_the_queue_that_cannot_be_read_spoils_itself_alone(
    cluster: Cluster, backend: GanetiBackend
) -> None:
    names = list(cluster.truth.instances)[:2]
    good, bad = (backend.submit_query(name, limit=3).job_id for name in names)
    cluster.faults.spoiled.add(bad)
    reading = backend.read_queue(0, [], whole=True)
    assert [job.job_id for job in reading.jobs] == [good]
    assert reading.unreadable == 1


def test_a_user_who_may_only_read_cancels_nothing(cluster: Cluster, backend: GanetiBackend) -> None:
    cluster.faults.rights, cluster.queue.stuck = "read", True
    job = backend.submit_query(next(iter(cluster.truth.instances)), limit=3).job_id
    assert backend.cancel(job) is False
    assert verdict(backend, job) is Verdict.PENDING
    cluster.faults.rights = "write"
    assert backend.cancel(job) is True


@pytest.mark.parametrize(("right", "code"), [("write", 403), (None, 404)])
def test_an_old_ganeti_refuses_queries_to_a_reader(
    cluster: Cluster, backend: GanetiBackend, right: str | None, code: int
) -> None:
    cluster.faults.rights, cluster.faults.query_right = "read", right
    with pytest.raises(GanetiApiError) as caught:
        connect(backend._connection).Query("instance", ["name"])
    assert caught.value.code == code
    assert len(connect(backend._connection).GetInstances(bulk=True)) == 5


def test_a_rapi_that_is_restarted_again_and_again_answers_in_between(
    cluster: Cluster, backend: GanetiBackend
) -> None:
    cluster.faults.restarts = 2

    def breaks() -> bool:
        try:
            return backend.version() != "2"
        except TryAgain:
            return True

    until(breaks, "it is away", 10)
    until(lambda: not breaks(), "it is back", 10)
    cluster.faults.latency = 2.5
    assert breaks()


def test_a_node_that_hangs_makes_the_list_slow_and_silent_about_its_instances(
    cluster: Cluster, backend: GanetiBackend
) -> None:
    name, instance = next(iter(cluster.truth.instances.items()))
    cluster.truth.set_node(instance.node, hangs=0.4)
    begun = time.monotonic()
    listed = {seen.instance: seen.backend_status for seen in observations(backend)}
    assert time.monotonic() - begun >= 0.4
    assert listed[name] == "ERROR_nodedown"
    assert "running" in listed.values()
    job = backend.submit_query(name, limit=3).job_id
    assert verdict(backend, job) is Verdict.PENDING
    until(lambda: verdict(backend, job) is Verdict.FAILED, "it is given up")


def test_an_instance_that_its_own_system_shut_down_did_not_crash(
    cluster: Cluster, backend: GanetiBackend
) -> None:
    name = next(iter(cluster.truth.instances))
    cluster.truth.stop_inside(name)
    listed = {seen.instance: seen.backend_status for seen in observations(backend)}
    assert listed[name] == "USER_down"
    job = backend.submit_query(name, limit=3).job_id
    until(lambda: verdict(backend, job) is Verdict.ANSWERED, "the job ends")
    (report,) = backend.poll({job: clock()})
    assert [seen.backend_status for seen in report.observations] == ["USER_down"]
