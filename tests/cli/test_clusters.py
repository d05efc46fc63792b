"""Clusters are added and changed by a command that refuses what cannot work."""

from datetime import timedelta
from pathlib import Path

import pytest

from proj.cli.management.commands.cluster import FROM_MODEL
from proj.clock import now
from proj.inventory.models import Cluster, Instance
from tests.commands import command, is_one_clear_line
from tests.recorded import record_cluster, record_instance

pytestmark = pytest.mark.django_db

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMII=\n-----END CERTIFICATE-----\n"


@pytest.fixture
def beta() -> Cluster:
    """A cluster of which an instance is recorded, and that refused us for a while."""
    cluster = record_cluster("beta", host="h", user="u", max_in_flight=3)
    record_instance(cluster, "vm1")
    Cluster.objects.update(failures=3, next_look_at=now(), next_ask_at=now())
    return cluster


def test_what_is_given_is_changed_and_all_else_and_the_history_stay(
    beta: Cluster, tmp_path: Path
) -> None:
    pem = tmp_path / "rapi.pem"
    pem.write_text(f"-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n{CERTIFICATE}")
    assert (
        command("cluster", "set", "beta", "--ca-file", str(pem), "--max-in-flight", "5").code == 0
    )
    changed = Cluster.objects.get()
    assert (changed.certificate, changed.insecure) == (CERTIFICATE, False)
    assert (changed.max_in_flight, changed.max_requests, changed.host) == (5, 4, "h")
    assert Instance.objects.get().cluster_id == beta.pk


def test_what_was_refused_before_is_tried_at_once_with_the_change(beta: Cluster) -> None:
    assert command("cluster", "set", "beta", "--user", "other").code == 0
    assert Cluster.objects.filter(user="other", next_look_at=None, next_ask_at=None).exists()


def test_another_host_is_told_no_password_that_was_given_for_the_one_before(beta: Cluster) -> None:
    done = command("cluster", "set", "beta", "--host", "elsewhere")
    assert is_one_clear_line(done, 2, "--password-file")
    assert Cluster.objects.get().host == "h"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "nothing is given"),
        (("--port", "70000"), "70000 is no port"),
        (("--max-in-flight", "0"), "at least 1"),
        (("--max-requests", "20"), "1 to 19"),
        (("--password-env", "NOT_THERE"), "NOT_THERE is not set"),
    ],
)
def test_what_cannot_work_is_refused_and_changes_nothing(
    beta: Cluster, options: tuple[str, ...], words: str
) -> None:
    before = Cluster.objects.values().get()
    assert is_one_clear_line(command("cluster", "set", "beta", *options), 2, words)
    assert Cluster.objects.values().get() == before


def test_a_cluster_that_is_not_there_is_named(beta: Cluster) -> None:
    assert is_one_clear_line(command("cluster", "set", "gamma", "--port", "1"), 2, "gamma")


def test_the_help_of_add_names_each_default_of_the_model_and_that_of_set_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    told, changing = (command("cluster", it, "--help").out for it in ("add", "set"))
    told = told.replace("}\n", "} ")
    options = {line.split()[0]: line for line in told.splitlines() if line.startswith("  --")}
    for name in FROM_MODEL:
        default = Cluster._meta.get_field(name).default
        assert options[f"--{name.replace('_', '-')}"].endswith(f"; default {default}")
    assert options["--confirm-hours"].endswith("; default 24.0")
    assert "accept any certificate" in options["--insecure"]
    assert "default" not in changing


def test_a_list_tells_ages_and_failures_and_cuts_nothing_in_80_columns(
    beta: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_cluster("alpha", looked_not_after=now() - timedelta(seconds=3))
    record_cluster("gamma", paused=True, looked_not_after=None, host="a" * 60)
    Cluster.objects.filter(name="beta").update(last_error="beta: h:5080 refuses user or password")
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    monkeypatch.setenv("COLUMNS", "80")
    text = command("cluster", "list").out
    cells = [[it.strip() for it in line.split("│")] for line in text.splitlines()]
    columns = ["".join(column) for column in zip(*(it for it in cells if len(it) > 1), strict=True)]
    assert columns[1] == "alphabetagamma"
    assert columns[2] == f"ganeti.example.com:5080h:5080{'a' * 60}:5080"
    assert columns[4] == "3 s ago10 s agonever"
    assert columns[5].startswith("failures in a row: 3;")
    assert columns[5].endswith("passwordpaused")
