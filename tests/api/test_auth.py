"""Whoever shows the token may ask; nobody else, and nobody is shown it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings
from django.test import Client

from proj.inventory.models import Hold, Request
from tests.commands import ROOT
from tests.recorded import record_cluster, record_fleet, record_hold

pytestmark = pytest.mark.django_db(transaction=True)

INSTANCE = "/api/v1/clusters/alpha/instances/vm1"
GETS = [
    "/api/v1/clusters",
    "/api/v1/clusters/alpha",
    "/api/v1/clusters/alpha/instances",
    INSTANCE,
    f"{INSTANCE}/transitions",
    "/api/v1/clusters/alpha/holds",
    "/api/v1/passes/1",
    "/compute/v2.1/servers",
    "/compute/v2.1/servers/detail",
    "/compute/v2.1/servers/8a0c3f52-6f0b-5d0e-9b53-0f2a4c1d7e66",
]
POSTS = [
    f"{INSTANCE}/reconcile",
    f"{INSTANCE}/operations",
    "/api/v1/clusters/alpha/reconcile",
    "/api/v1/holds/{hold}/approve",
]
WRONG = ["", "Bearer", "Bearer ", "Bearer wrong", "Basic {token}", "{token}", "Bearer é"]


@pytest.mark.parametrize("header", WRONG)
@pytest.mark.parametrize("url", GETS + POSTS)
def test_without_the_token_nothing_is_told_or_done(url: str, header: str) -> None:
    url = url.format(hold=record_hold(record_cluster()).pk)
    client = Client(headers={"Authorization": header.format(token=settings.API_TOKEN)})
    answer = client.get(url) if url in GETS else client.post(url, "{}", "application/json")
    assert answer.status_code == 401
    assert answer["WWW-Authenticate"] == "Bearer"
    assert "API_TOKEN" in answer.json()["detail"]
    assert not Request.objects.exists()
    assert not Hold.objects.exclude(approved_at=None).exists()


@pytest.mark.parametrize("url", GETS)
def test_with_the_token_everything_is_told(url: str, caller: Client) -> None:
    record_cluster()
    assert caller.get(url).status_code in (200, 404)


def test_openstack_clients_may_send_it_as_they_are_used_to() -> None:
    client = Client(headers={"X-Auth-Token": settings.API_TOKEN})
    assert client.get("/compute/v2.1/servers").status_code == 200
    assert client.get("/api/v1/clusters").status_code == 401
    assert Client(headers={"X-Auth-Token": ""}).get("/compute/v2.1/servers").status_code == 401


def test_the_description_needs_no_token_and_says_that_the_rest_does() -> None:
    assert Client().get("/api/v1/docs").status_code == 200
    described = Client().get("/api/v1/openapi.json").json()
    assert set(described["paths"]) == {
        "/api/v1/clusters",
        "/api/v1/clusters/{cluster}",
        "/api/v1/clusters/{cluster}/instances",
        "/api/v1/clusters/{cluster}/instances/{name}",
        "/api/v1/clusters/{cluster}/instances/{name}/transitions",
        "/api/v1/clusters/{cluster}/instances/{name}/reconcile",
        "/api/v1/clusters/{cluster}/instances/{name}/operations",
        "/api/v1/clusters/{cluster}/reconcile",
        "/api/v1/clusters/{cluster}/holds",
        "/api/v1/holds/{number}/approve",
        "/api/v1/passes/{number}",
    }
    for path in described["paths"].values():
        assert all(operation["security"] for operation in path.values())


def test_no_page_and_no_log_shows_a_secret(
    caller: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAPI_PASSWORD", "open sesame")
    hold = record_hold(record_cluster())
    record_fleet(clusters=2, instances=2)
    open_pages = ["/", "/metrics", "/healthz", "/readyz", "/api/v1/docs", "/api/v1/openapi.json"]
    shown = caplog.text
    for url in [*GETS, *open_pages, "/api/v1/clusters/nobody", "/nowhere"]:
        answer = caller.get(url)
        shown += answer.content.decode() + str(answer.headers)
    for url in POSTS:
        answer = caller.post(url.format(hold=hold.pk), '{"action": "NONSENSE"}', "application/json")
        shown += answer.content.decode() + str(answer.headers)
    shown += caplog.text
    for secret in (settings.API_TOKEN, settings.SECRET_KEY, "open sesame", "RAPI_PASSWORD"):
        assert secret not in shown


def test_the_token_is_made_once_even_by_many_processes_and_only_its_owner_reads_it(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-c", "from proj import settings; print(settings.API_TOKEN)"]
    environment = os.environ | {"VAR_DIR": str(tmp_path / "var")}
    started = [
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    tokens = {process.communicate()[0].strip() for process in started}
    (token,) = tokens
    assert len(token) > 60
    kept = tmp_path / "var" / "api-token"
    assert kept.read_text() == token
    assert kept.stat().st_mode & 0o777 == 0o600
    assert {path.name for path in kept.parent.iterdir()} == {"api-token", "secret-key"}
    given = subprocess.run(
        command, cwd=ROOT, env=environment | {"API_TOKEN": "given"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert given.stdout.strip() == "given"
