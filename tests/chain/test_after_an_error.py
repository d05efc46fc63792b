"""After an error: a host system that failed on an instance has it right at once, without a look.

The host system is a process of its own that can import nothing of ours.
"""

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from urllib.request import urlopen

import pytest
from django.conf import settings
from django.db import transaction

import proj.celery
from proj.clock import now, server
from proj.inventory.models import Instance, Question, Request
from proj.reconcile.shown import task_states
from proj.simulator.server import Cluster, Simulator
from tests.commands import ROOT
from tests.environment import HOME, end, free_port, start, until
from tests.fixtures.workers import Processes, Shared
from tests.recorded import is_followed, record_all, record_cluster

pytestmark = pytest.mark.django_db(transaction=True)

EXAMPLES = ROOT / "docs" / "examples"
PAGE = ROOT / "docs" / "after-an-error.md"
FOR_EVER = {"LOOK_PERIOD": "86400", "LOOK_PERIOD_MIN": "20"}


@pytest.fixture(scope="module")
def workers_environment() -> dict[str, str]:
    """Whatever is found is not found by a look."""
    return FOR_EVER


@pytest.fixture(scope="module")
def host_system() -> ModuleType:
    """The host system's code."""
    found = importlib.import_module("host_system")
    # Its application is another process's; here ours stays the current one.
    proj.celery.app.set_current()
    return found


@pytest.fixture(scope="module")
def host_worker(redis: None) -> Iterator[Callable[[str], Path]]:
    """Start host systems: workers on their own code, their own queue, at some broker."""
    running = []

    def begin(broker: str) -> Path:
        log = HOME / f"host-system-{len(running)}.log"
        known = {name: value for name, value in os.environ.items() if "DJANGO" not in name}
        running.append(
            start(
                str(Path(sys.executable).parent / "celery"), "-A", "host_system", "worker",
                "-n", f"host{len(running)}@%h", "-c", "2", "--without-mingle", "-l", "INFO",
                log=log, cwd=EXAMPLES, env=known | {"HOST_BROKER_URL": broker},
            )
        )  # fmt: skip
        until(lambda: b" ready" in log.read_bytes(), "the host system's worker is ready", 60)
        return log

    yield begin
    for process in running:
        end(process)


@pytest.fixture(scope="module")
def host(host_worker: Callable[[str], Path]) -> Path:
    """The log of a host system's worker that shares our Redis."""
    return host_worker(os.environ["REDIS_URL"])


@pytest.fixture
def cluster(tmp_path: Path, workers: Processes) -> Iterator[Cluster]:
    """A simulated cluster of ten instances, recorded in full."""
    with Simulator(tmp_path, instances=10, job_seconds=0.02) as simulator:
        record_all(simulator.access("sim1"))
        until(is_followed, "it is looked at and followed")
        yield simulator["sim1"]


@pytest.fixture
def crashed(cluster: Cluster) -> str:
    """An instance that runs according to the database, and does not."""
    name = list(cluster.truth.instances)[3]
    cluster.truth.crash(name)
    return name


def lists(cluster: Cluster) -> int:
    """Return how many times all instances were listed."""
    return sum(path == "/2/query/instance" for _, path in cluster.rapi.requests)


def is_right(name: str) -> bool:
    return Instance.objects.get(name=name).status == "STOPPED"


def on_commit(ask: Callable[[str, str], None]) -> Callable[[str, str], None]:
    def asked(cluster: str, instance: str) -> None:
        with transaction.atomic():
            ask(cluster, instance)

    return asked


def test_within_a_transaction_nothing_is_asked_before_the_commit_or_after_a_rollback(
    shared: Shared, transactional_db: None, host_system: ModuleType
) -> None:
    shared.end()
    queue = server()
    with transaction.atomic():
        host_system.reconcile_on_commit("sim1", "vm1")
        assert queue.llen("on-demand") == 0
    assert queue.llen("on-demand") == 1

    def roll_back() -> None:
        with transaction.atomic():
            host_system.reconcile_on_commit("sim1", "vm1")
            raise LookupError

    with pytest.raises(LookupError):
        roll_back()
    assert queue.llen("on-demand") == 1
    queue.delete("on-demand")


@pytest.mark.parametrize(
    "way",
    ["reboot_or_reconcile", "reboot_with_errback", "reboot_on_commit", "reconcile_on_commit"],
)
def test_an_instance_on_which_a_task_failed_is_right_at_once(
    cluster: Cluster, crashed: str, host_system: ModuleType, host: Path, way: str
) -> None:
    looked, asked = lists(cluster), len(cluster.queue.jobs)
    fail = getattr(host_system, way)
    (on_commit(fail) if way.endswith("_on_commit") else fail)("sim1", crashed)
    until(lambda: is_right(crashed), "the instance is right")
    assert lists(cluster) == looked
    assert len(cluster.queue.jobs) - asked == 1
    assert f"{crashed} was rebooted" in host.read_text() or way == "reconcile_on_commit"


@pytest.mark.parametrize("way", ["reboot_or_reconcile", "reboot_with_errback"])
def test_a_hundred_tasks_that_fail_at_once_make_two_jobs_at_most(
    cluster: Cluster,
    crashed: str,
    host_system: ModuleType,
    host: Path,
    workers: Processes,
    way: str,
) -> None:
    looked, asked = lists(cluster), len(cluster.queue.jobs)
    before = requeried(workers)
    # No job ends before every task has failed, however slow this machine is.
    cluster.queue.stuck = True
    for _ in range(100):
        getattr(host_system, way)("sim1", crashed)
    until(lambda: requeried(workers) - before == 100, "a hundred failures arrived", 60)
    cluster.queue.stuck = False
    until(lambda: is_right(crashed), "the instance is right")
    until(lambda: not Request.objects.exclude(state="closed").exists(), "everything is closed")
    assert 1 <= len(cluster.queue.jobs) - asked <= 2
    assert lists(cluster) == looked


def requeried(workers: Processes) -> int:
    """Return how many requests for an instance the workers have carried out."""
    done = re.findall(r"tasks\.requery\.requery\[[^]]+\] succeeded", workers.log("on_demand"))
    return len(done)


def test_the_errback_reaches_us_from_a_host_system_with_a_broker_of_its_own(
    cluster: Cluster,
    crashed: str,
    host_system: ModuleType,
    host_worker: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broker = os.environ["REDIS_URL"].removesuffix("/0") + "/1"
    host_worker(broker)
    monkeypatch.setitem(host_system.app.conf, "broker_write_url", broker)
    monkeypatch.setattr(host_system.app, "_pool", None)
    host_system.reboot_with_errback("sim1", crashed)
    until(lambda: is_right(crashed), "the instance is right")


def test_an_instance_on_which_a_client_without_celery_failed_is_right_at_once(
    cluster: Cluster, crashed: str, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    processes.start("web", WEB_PORT=str(port))
    monkeypatch.setenv("API_TOKEN", settings.API_TOKEN)
    monkeypatch.setenv("RECONCILER_URL", f"http://127.0.0.1:{port}")
    http = importlib.import_module("host_http")
    until(lambda: is_alive(http.RECONCILER), "the web process answers")
    looked, asked = lists(cluster), len(cluster.queue.jobs)
    with (
        pytest.raises(TimeoutError, match="Ganeti"),
        http.reconciled_after_an_error("sim1", crashed),
    ):
        raise TimeoutError("Ganeti did not answer")
    until(lambda: is_right(crashed), "the instance is right")
    assert (lists(cluster), len(cluster.queue.jobs) - asked) == (looked, 1)


def is_alive(url: str) -> bool:
    try:
        with urlopen(f"{url}/healthz") as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_the_page_shows_the_code_that_is_tested() -> None:
    code = "\n".join(path.read_text() for path in sorted(EXAMPLES.glob("*.py")))
    shown = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(shown) > 4
    assert [block for block in shown if block not in code] == []
    assert [path.name for path in EXAMPLES.glob("*.py") if path.name not in PAGE.read_text()] == []


@pytest.mark.parametrize(("cluster_name", "name"), [("nobody", "vm1"), ("alpha", "no\0name")])
def test_a_request_for_what_cannot_be_is_let_go(
    transactional_db: None, cluster_name: str, name: str
) -> None:
    from tasks.requery import requery

    record_cluster()
    requery(cluster=cluster_name, instance=name)
    assert not Question.objects.exists()


@pytest.mark.parametrize("end_of_job", ["error", "canceled", "success"])
def test_a_job_of_ganetis_that_ended_on_an_instance_sets_it_off_by_itself(
    cluster: Cluster, end_of_job: str
) -> None:
    name = list(cluster.truth.instances)[3]
    looked = lists(cluster)
    number = cluster.queue.submit(
        {"OP_ID": "OP_INSTANCE_REBOOT", "instance_name": name}, seconds=3600
    )
    until(lambda: Instance.objects.get(name=name).status == "REBOOT", "the reboot is shown")
    cluster.truth.crash(name)
    if end_of_job == "error":
        cluster.queue.fails["OP_INSTANCE_REBOOT"] = ("OpExecError", ["no answer"])
        cluster.queue.jobs[number].seconds = 0
    else:
        cluster.queue.end(number, end_of_job)
    if end_of_job == "success":
        # The reboot had it run again.
        cluster.truth.crash(name)
    until(lambda: is_right(name), "the instance is right")
    assert cluster.queue.jobs[number].status == end_of_job
    assert lists(cluster) == looked
    row = Instance.objects.select_related("cluster").get(name=name)
    assert row.backend_status == "ERROR_down"
    assert not any(task_states([row], at=now()).values())
