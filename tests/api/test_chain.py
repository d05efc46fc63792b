"""The API as its callers meet it: a real web process, real workers, a simulated cluster."""

import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from proj.inventory.models import Instance, Request
from proj.simulator.server import Cluster, Simulator
from tests.commands import add_cluster, command
from tests.environment import free_port, until
from tests.fixtures.workers import Processes
from tests.recorded import record_cluster

pytestmark = pytest.mark.django_db(transaction=True)


class Web:
    """The web process of the Procfile, and a caller who has the token."""

    def __init__(self, processes: Processes, **environment: str) -> None:
        self.port = free_port()
        processes.start("web", WEB_PORT=str(self.port), **environment)
        until(self._is_alive, "the web process answers")

    def call(self, path: str, body: Any = None) -> tuple[int, str, dict[str, str]]:
        """GET, or POST ``body`` as JSON; return status, text and headers of the answer."""
        url = path if path.startswith("http") else f"http://127.0.0.1:{self.port}{path}"
        data = None if body is None else json.dumps(body).encode()
        headers = {
            "Authorization": f"Bearer {settings.API_TOKEN}",
            "Content-Type": "application/json",
        }
        request = urllib.request.Request(url, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode(), dict(answer.headers)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode(), dict(error.headers)

    def json(self, path: str, body: Any = None) -> Any:
        """Call, and return the answer read as JSON."""
        return json.loads(self.call(path, body)[1])

    def follow(self, accepted: Any) -> Any:
        """Follow the url of a pass that was accepted until it is closed."""
        url = accepted["url"]
        until(lambda: self.json(url)["state"] == "closed", f"{url} is closed")
        return self.json(url)

    def _is_alive(self) -> bool:
        try:
            return self.call("/healthz")[0] == 200
        except OSError:
            return False


@pytest.fixture
def web(workers: Processes, processes: Processes) -> Web:
    """The web process and the workers, ready."""
    return Web(processes)


@pytest.fixture
def cluster(tmp_path: Path, web: Web) -> Iterator[Cluster]:
    """A simulated cluster of ten instances, recorded in full through the API."""
    with Simulator(tmp_path, instances=10, job_seconds=0.02) as simulator:
        assert add_cluster(simulator.access("sim1")).code == 0
        done = web.follow(web.json("/api/v1/clusters/sim1/reconcile", {"all": True}))
        assert (done["outcome"], done["queried"]) == ("reconciled", 10)
        yield simulator["sim1"]


@pytest.mark.parametrize("path", ["dashboard/style.css", "dashboard/refresh.js"])
def test_the_page_is_served_with_what_it_loads(processes: Processes, path: str) -> None:
    web = Web(processes)
    assert f"/static/{path}" in web.call("/")[1]
    assert web.call(f"/static/{path}")[0] == 200


def test_an_instance_is_reconciled_and_the_answer_says_where_to_look(
    web: Web, cluster: Cluster
) -> None:
    name = list(cluster.truth.instances)[3]
    url = f"/api/v1/clusters/sim1/instances/{name}"
    assert web.json(url)["status"] == "ACTIVE"
    cluster.truth.crash(name)
    status, text, headers = web.call(f"{url}/reconcile", {})
    accepted = json.loads(text)
    assert (status, headers["Location"]) == (202, accepted["url"])
    done = web.follow(accepted)
    assert (done["outcome"], done["kind"]) == ("reconciled", "instance")
    assert ("status", "ACTIVE", "STOPPED", "job-convicts") in {
        (it["field"], it["from"], it["to"], it["rule"]) for it in done["changes"]
    }
    row = Instance.objects.get(name=name)
    assert (row.status, row.backend_status) == ("STOPPED", "ERROR_down")
    assert web.json(url)["status"] == "STOPPED"
    assert web.json(f"{url}/transitions")["transitions"][0]["rule"] == "job-convicts"
    servers = web.json(f"/compute/v2.1/servers/detail?name={name}")["servers"]
    assert [server["status"] for server in servers] == ["STOPPED"]


def test_an_instance_that_only_ganeti_knows_is_found(web: Web, cluster: Cluster) -> None:
    name = list(cluster.truth.instances)[3]
    Instance.objects.filter(name=name).delete()
    done = web.follow(web.json(f"/api/v1/clusters/sim1/instances/{name}/reconcile", {}))
    assert done["outcome"] == "reconciled"
    assert Instance.objects.get(name=name).status == "ACTIVE"


def test_a_plan_writes_nothing(web: Web, cluster: Cluster) -> None:
    name = list(cluster.truth.instances)[3]
    cluster.truth.crash(name)
    done = web.follow(web.json("/api/v1/clusters/sim1/reconcile", {"plan": True}))
    assert {change["instance"] for change in done["changes"]} == {name}
    assert Instance.objects.get(name=name).status == "ACTIVE"


def insist(web: Web, url: str) -> tuple[int, str, dict[str, str]]:
    """POST, and again while the connection is reset: ten may wait for the development server."""
    while True:
        with contextlib.suppress(ConnectionError, urllib.error.URLError):
            return web.call(url, {})


def test_a_hundred_requests_at_once_make_two_jobs_at_most(web: Web, cluster: Cluster) -> None:
    name = list(cluster.truth.instances)[3]
    cluster.truth.crash(name)
    before = len(cluster.queue.jobs)
    # No job ends before every request was made, however slow this machine is.
    cluster.queue.stuck = True
    url = f"/api/v1/clusters/sim1/instances/{name}/reconcile"
    with ThreadPoolExecutor(100) as callers:
        answers = list(callers.map(lambda _: insist(web, url), range(100)))
    assert {status for status, _, _ in answers} == {202}
    cluster.queue.stuck = False
    numbers = {json.loads(text)["pass"] for _, text, _ in answers}
    for number in numbers:
        assert web.follow({"url": f"/api/v1/passes/{number}"})["outcome"] in (
            "reconciled", "in_sync",
        )  # fmt: skip
    assert 1 <= len(cluster.queue.jobs) - before <= 2
    assert len(numbers) == len(cluster.queue.jobs) - before
    assert Instance.objects.get(name=name).status == "STOPPED"


def test_without_redis_nothing_is_promised_and_everything_recorded_is_still_shown(
    processes: Processes,
) -> None:
    record_cluster()
    web = Web(processes, REDIS_URL=f"redis://:s3cret@127.0.0.1:{free_port()}/0")
    for path in ("/instances/vm1/reconcile", "/reconcile", "/instances/vm1/operations"):
        status, text, _ = web.call(f"/api/v1/clusters/alpha{path}", {"action": "REBOOT"})
        assert status == 503
        assert json.loads(text) == {
            "detail": "no answer from Redis (REDIS_URL); ask again when it is back"
        }
    assert not Request.objects.exists()
    assert web.call("/readyz")[:2] == (503, "no answer from Redis (REDIS_URL)\n")
    for path in ("/", "/metrics", "/api/v1/clusters", "/compute/v2.1/servers"):
        assert web.call(path)[0] == 200
    assert "no answer from Redis" in web.call("/")[1]
    log = processes.log("web")
    assert "Traceback" not in log
    assert "s3cret" not in log
    assert settings.API_TOKEN not in log


def test_a_paused_cluster_is_sent_nothing(web: Web, cluster: Cluster) -> None:
    assert command("cluster", "pause", "sim1").code == 0
    before = len(cluster.queue.jobs)
    name = list(cluster.truth.instances)[3]
    for path in (f"/instances/{name}/reconcile", "/reconcile"):
        status, text, _ = web.call(f"/api/v1/clusters/sim1{path}", {})
        assert (status, "manage.py cluster resume sim1" in text) == (409, True)
    assert len(cluster.queue.jobs) == before
