"""What goes wrong outside gets one clear line, and nothing is lost."""

import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from proj.inventory.models import Cluster, Instance
from tests.broken import Answer, certificate, check, rapi, status, text
from tests.commands import add_cluster, adding, command, is_one_clear_line, manage
from tests.fixtures.workers import QUICK, Processes

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_closed_port_is_said_with_its_address(access: dict[str, Any]) -> None:
    result = check(access)
    assert is_one_clear_line(result, 2, f"127.0.0.1:{access['port']}", "nothing listens")


def test_an_unknown_host_is_said_with_its_name(access: dict[str, Any]) -> None:
    assert is_one_clear_line(check(access, host="nowhere.invalid"), 2, "nowhere.invalid", "DNS")


def test_a_wrong_password_is_said_and_not_shown(access: dict[str, Any]) -> None:
    with rapi(Path(access["ca_file"]), status(401)) as port:
        assert is_one_clear_line(check(access, port), 2, "refuses user or password")


def test_a_user_without_the_right_to_read_is_told_which_one(access: dict[str, Any]) -> None:
    with rapi(Path(access["ca_file"]), status(403)) as port:
        assert is_one_clear_line(check(access, port), 2, "option read")


def test_another_certificate_than_the_pinned_one_is_refused(
    access: dict[str, Any], tmp_path: Path
) -> None:
    asked: list[str] = []
    with rapi(certificate(tmp_path, "other"), lambda handler: asked.append(handler.path)) as port:
        assert is_one_clear_line(check(access, port), 2, "another certificate", "rapi.pem")
    assert asked == []


@pytest.mark.parametrize(
    "answer",
    [text(b"<html>busy</html>"), text(b'["cut', promised=500), text(b"")],
    ids=["garbage", "cut", "empty"],
)
def test_an_answer_that_cannot_be_read_is_said(access: dict[str, Any], answer: Answer) -> None:
    with rapi(Path(access["ca_file"]), answer) as port:
        assert is_one_clear_line(check(access, port), 2, "broken")


def test_a_host_that_accepts_and_says_nothing_is_given_up(access: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        result = check(access, silent.getsockname()[1])
    assert is_one_clear_line(result, 2, "does not answer in time")


def test_a_cluster_name_can_be_used_once(access: dict[str, Any]) -> None:
    assert add_cluster(access).code == 0
    assert is_one_clear_line(manage(*adding(access)), 2, "exists already")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"port": "0"}, ("0 is no port",)),
        ({"name": "a name"}, ("name:",)),
        ({"password_file": "/nowhere"}, ("/nowhere", "No such file")),
        ({"ca_file": "/dev/null"}, ("no PEM certificate",)),
    ],
)
def test_bad_input_to_cluster_add_is_refused(
    access: dict[str, Any], changes: dict[str, str], words: tuple[str, ...]
) -> None:
    assert is_one_clear_line(manage(*adding(access | changes)), 2, *words)


@pytest.mark.parametrize("number", ["0", "20"])
def test_more_requests_than_rapi_serves_are_refused(access: dict[str, Any], number: str) -> None:
    result = manage(*adding(access), "--max-requests", number)
    assert is_one_clear_line(result, 2, "1 to 19")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("reconcile",), ("no cluster to reconcile",)),
        (("reconcile", "--cluster", "nobody"), ("no cluster nobody",)),
        (("reconcile", "--instance", "vm1"), ("write CLUSTER/NAME",)),
        (("cluster", "pause", "nobody"), ("no cluster nobody",)),
    ],
)
def test_wrong_usage_says_what_to_do(arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert is_one_clear_line(manage(*arguments), 2, *words)


def test_a_pass_over_a_cluster_that_refuses_us_fails_and_keeps_every_instance(
    access: dict[str, Any], workers: Processes
) -> None:
    with rapi(Path(access["ca_file"]), status(401)) as port:
        assert add_cluster(access | {"port": port}).code == 0
        keep_one_instance()
        done = command("reconcile", "--json", "--timeout", "60")
    assert done.code == 1
    (report,) = done.json["passes"]
    assert report["outcome"] == "failed"
    assert "refuses user or password" in report["error"]
    assert Instance.objects.get().status == "ACTIVE"


def test_a_closed_port_is_tried_again_and_then_fails_the_pass(
    access: dict[str, Any], processes: Processes
) -> None:
    processes.start("ganeti", "reconcile", "beat", LOOK_PERIOD="2", **QUICK)
    assert add_cluster(access).code == 0
    keep_one_instance()
    done = command("reconcile", "--json", "--timeout", "60")
    assert done.code == 1
    assert "nothing listens" in done.json["passes"][0]["error"]
    assert Cluster.objects.get().failures >= 2
    assert Instance.objects.get().status == "ACTIVE"


def keep_one_instance() -> None:
    """Record an instance that no failure may touch."""
    long_ago = datetime(2026, 1, 1, tzinfo=UTC)
    Instance.objects.create(
        cluster=Cluster.objects.get(),
        name="vm1",
        status="ACTIVE",
        backend_status="running",
        created_at=long_ago,
        observed_not_before=long_ago,
        observed_not_after=long_ago,
    )
