"""Each fault of the simulator, as the backend meets it; none of them says "gone"."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

import proj.ganeti.backend
from proj.backend import BackendError, Misconfigured, SaysNothing, TryAgain, Verdict, Work
from proj.ganeti.backend import GanetiBackend
from proj.ganeti.client import Connection
from proj.observation import Interval, JobEnd
from proj.simulator.server import Cluster, Simulator
from tests.environment import until


def clock() -> datetime:
    return datetime.now(UTC)


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
        clock,
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
    assert len(backend.look().listed) == 4
    assert backend.exists(missing)
    cluster.faults.empty_list = True
    assert backend.look().listed == ()


def verdict(backend: GanetiBackend, job_id: int) -> Verdict:
    (report,) = backend.poll({job_id: clock()})
    return report.verdict


def test_jobs_may_be_stuck_canceled_lost_and_archived(
    cluster: Cluster, backend: GanetiBackend
) -> None:
    name = next(iter(cluster.truth.instances))
    cluster.queue.stuck = True
    stuck, canceled, lost = (backend.submit_query(name, limit=3) for _ in range(3))
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
    before = backend.submit_query(name, limit=3)
    cluster.queue.move_master()
    assert verdict(backend, before) is Verdict.RETRY
    assert backend.submit_query(name, limit=3) > before + 900


def test_a_clock_off_by_an_hour_changes_no_observation(
    cluster: Cluster, backend: GanetiBackend
) -> None:
    before = [replace(seen, interval=READ) for seen in backend.look().listed]
    cluster.queue.skew = 3600
    assert [replace(seen, interval=READ) for seen in backend.look().listed] == before


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
    (job,) = backend.feed(None, []).jobs
    assert (job.work, job.has_started, job.end) == ((Work(name, "SHUTDOWN"),), True, None)
    until(lambda: backend.feed(0, [job.job_id]).jobs[0].end is JobEnd.SUCCESS, "the job ends")
    listed = {seen.instance: seen.backend_status for seen in backend.look().listed}
    assert listed[name] == "ADMIN_down"
