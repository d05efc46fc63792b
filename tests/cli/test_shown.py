"""What the commands show of what is recorded, and what they ask for."""

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from proj.clock import now, server
from proj.inventory.models import Cluster, Question, Request
from proj.reconcile.rows import OLDEST
from tests.commands import Result, command, is_one_clear_line
from tests.recorded import (
    record_change,
    record_cluster,
    record_hold,
    record_instance,
    record_job,
    record_request,
)

pytestmark = pytest.mark.django_db(transaction=True)

QUEUES = ("on-demand", "ganeti", "reconcile")
UUID = "8a0c3f52-6f0b-4d0e-9b53-0f2a4c1d7e66"


@pytest.fixture(autouse=True)
def broker() -> Iterator[None]:
    """The broker, without messages of tests before."""
    server().delete(*QUEUES)
    yield
    server().delete(*QUEUES)


def test_instances_are_shown_with_their_uuid_what_is_done_to_them_and_ages() -> None:
    alpha, beta = record_cluster("gnt1.example.com"), record_cluster("beta", read_not_after=OLDEST)
    record_instance(alpha, "vm1", uuid=UUID, api_id=UUID, nodes=["node1", "node2"])
    record_job(alpha, "vm1", "MIGRATE")
    record_instance(
        beta, "vm1", confirmed_at=None, observed_not_before=OLDEST, observed_not_after=OLDEST,
        missing_first=now(), missing_last=now(),
    )  # fmt: skip
    record_instance(alpha, "vm2", status="STOPPED")
    unread, first, second = command("instances", "--json").json["instances"]
    assert (first["cluster"], first["name"], first["uuid"]) == ("gnt1.example.com", "vm1", UUID)
    assert (first["id"], first["node"], first["task_state"]) == (UUID, "node1", "MIGRATE")
    assert 3600 <= first["confirmed_age"] < 3700
    assert 10 <= first["observed_age"] < 60
    assert second["task_state"] == ""
    assert unread["task_state"] is None
    assert unread["observed_age"] is unread["confirmed_age"] is None
    (stopped,) = command("instances", "--status", "STOPPED", "--json").json["instances"]
    assert stopped["name"] == "vm2"
    assert UUID in command("instances", "--cluster", "gnt1.example.com").out


def explained(name: str = "alpha/vm1") -> tuple[Any, str]:
    told, text = command("explain", name, "--json"), command("explain", name)
    assert told.code == text.code == 0, text.error
    return told.json, " ".join(text.out.split())


def test_an_instance_in_order_is_explained_with_its_history_and_the_bound() -> None:
    record_change(record_instance(record_cluster(), "vm1", uuid=UUID), now())
    told, text = explained()
    assert (told["recorded"]["uuid"], told["recorded"]["status"]) == (UUID, "ACTIVE")
    assert (told["differs"], told["jobs"], told["question"]) == ([], [], None)
    assert told["history"][0]["rule"] == "job-convicts"
    assert told["why"] == [
        "a change is recorded within 180 s: what no job proves, two lists settle"
    ]
    assert "job-convicts" in text


def test_each_moment_is_explained_with_its_age_and_what_it_means() -> None:
    record_instance(
        record_cluster(), "vm1", audited_at=now() - timedelta(days=3), changes_in_window=2
    )
    lines = command("explain", "alpha/vm1").out.splitlines()
    told = dict(line.split(": ", 1) for line in lines if ": " in line)
    assert re.fullmatch(
        r"[-\d]{10} [:\d]{8}, 60 min ago \(when a query job last told of it\)", told["confirmed_at"]
    )
    assert ", 3 d ago (when it last had its turn in the audit" in told["audited_at"]
    assert ", 10 s ago (when a job or a list last showed it" in told["observed_at"]
    assert told["changes_in_window"].startswith("2 (changes of its status since")


def test_what_differs_is_explained_with_who_works_on_it_and_why_it_waits() -> None:
    cluster, then = record_cluster(), now() - timedelta(minutes=1)
    difference = {
        "value": ["STOPPED", "ADMIN_down"], "acquittals": 0,
        "since": then.isoformat(), "first": then.isoformat(),
        "last": [then.isoformat()] * 2, "asleep_until": None,
    }  # fmt: skip
    record_instance(cluster, "vm1", differs={"state": difference}, differs_since=then)
    record_job(cluster, "vm1", "MIGRATE")
    Question.objects.create(
        cluster=cluster, name="vm1", priority=1, wanted_since=then, newer_than=then, attempts=2,
        retry_at=now() + timedelta(minutes=1), error="Error checking node",
    )  # fmt: skip
    hold = record_hold(cluster, "vm1")
    told, text = explained()
    assert told["differs"][0]["value"] == ["STOPPED", "ADMIN_down"]
    assert (told["jobs"][0]["job_id"], told["question"]["attempts"]) == (1, 2)
    since = f"{then:%H:%M:%S}"
    for words in (
        f"lists say state is STOPPED ADMIN_down since {since}: list-suspects",
        "MIGRATE is under way (job 1, running): in-flight",
        f"waits to be asked since {since}, not before",
        "the last attempt: Error checking node",
        f"manage.py approve {hold.pk}",
    ):
        assert words in text


def test_what_nobody_has_read_in_this_epoch_is_not_yet_observed() -> None:
    cluster = record_cluster(
        epoch=2, looked_not_before=None, looked_not_after=None, read_not_after=None
    )
    then = now() - timedelta(minutes=1)
    record_instance(
        cluster, "vm1", observed_not_before=OLDEST, observed_not_after=OLDEST,
        missing_first=then, missing_last=then,
    )  # fmt: skip
    told, text = explained()
    assert "observed_at: not yet" in text
    assert "1970" not in text
    assert told["why"] == [
        "the job queue cannot be read: no bound holds (PROOF_WITHIN), task_state is unknown"
    ]


@pytest.mark.parametrize("name", ["alpha/nobody", "nobody/vm1", "vm1"])
def test_what_is_not_recorded_cannot_be_explained(name: str) -> None:
    record_cluster()
    assert is_one_clear_line(command("explain", name), 2, name)


def reconcile(*arguments: str) -> Result:
    return command("reconcile", "--timeout", "0", *arguments)


@pytest.mark.parametrize(
    ("arguments", "kind", "queue"),
    [
        ((), "sweep", "ganeti"),
        (("--all",), "all", "ganeti"),
        (("--all", "--plan"), "plan", "ganeti"),
        (("--instance", "alpha/vm1"), "instance", "on-demand"),
        (("--instance", "alpha/vm1", "--plan"), "plan", "ganeti"),
    ],
)
def test_what_is_wanted_is_requested_and_without_workers_it_stays_open(
    arguments: tuple[str, ...], kind: str, queue: str
) -> None:
    record_cluster()
    done = reconcile(*arguments)
    assert (done.code, "still open: is a worker running?" in done.out) == (1, True)
    row = Request.objects.get()
    assert (row.kind, row.state) == (kind, "open")
    assert server().llen(queue) == 1


def test_what_is_still_open_is_told_with_the_reason_where_workers_have_seen_to_it() -> None:
    error = "nothing listens at h:5080"
    record_cluster(
        failures=1, last_error=f"alpha: {error}", look_until=now() + timedelta(minutes=1)
    )
    done = reconcile()
    assert (done.code, done.out) == (1, f"alpha: still open: {error}\n")


def test_going_over_all_says_beforehand_how_long_it_takes() -> None:
    cluster = record_cluster()
    for number in range(40):
        record_instance(cluster, f"vm{number}")
    assert reconcile("--all").out.startswith("about 14 s: ")
    assert "about" not in reconcile("--all", "--plan").out
    assert set(reconcile("--all", "--json").json) == {"passes"}


def as_closed(monkeypatch: pytest.MonkeyPatch, *closed: Request) -> None:
    """Have the workers answer with these requests."""
    monkeypatch.setattr(
        "proj.cli.management.commands.reconcile.wait_for", lambda *_, **__: list(closed)
    )


def test_the_json_is_that_of_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = record_cluster()
    record_change(record_instance(cluster, "vm1"), now())
    as_closed(monkeypatch, record_request(cluster, "reconciled", listed=3, suspects=1, queried=1))
    done = reconcile("--json")
    (told,) = done.json["passes"]
    assert done.code == 0
    assert {
        "id", "cluster", "outcome", "listed", "suspects", "queried", "jobs_failed", "error",
        "changes",
    } <= set(told)  # fmt: skip
    assert (told["outcome"], told["listed"], told["suspects"]) == ("reconciled", 3, 1)
    assert told["changes"] == [
        {"instance": "vm1", "field": "status", "from": "ACTIVE", "to": "STOPPED",
         "backend_status": "ADMIN_down", "rule": "job-convicts", "source": "job", "job_id": 17}
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("outcome", "values", "code"),
    [
        ("in_sync", {}, 0),
        ("reconciled", {}, 0),
        ("failed", {"unconfirmed": [["vm1", "job 7 works on it"]]}, 1),
        ("held", {"unconfirmed": [["vm1", "held: manage.py approve 3"]]}, 1),
    ],
)
def test_the_exit_code_tells_whether_all_is_confirmed_and_the_output_what_is_not(
    outcome: str, values: dict[str, Any], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_closed(monkeypatch, record_request(record_cluster(), outcome, **values))
    done = reconcile()
    assert (done.code, f"alpha: {outcome}" in done.out) == (code, True)
    for name, reason in values.get("unconfirmed", []):
        assert f"not confirmed: {name}: {reason}" in done.out


def test_who_was_not_confirmed_for_the_same_reason_stands_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = [[f"vm{number}", "held: manage.py approve 12"] for number in range(83)]
    closed = record_request(
        record_cluster(findings=[{"instance": it, "problem": "not known"} for it in ("a", "b")]),
        "held", unconfirmed=[*held, ["other", "job 7 works on it"]], queried=2,
    )  # fmt: skip
    as_closed(monkeypatch, closed)
    assert reconcile().out.splitlines() == [
        "alpha: held, 2 confirmed by a job",
        "  not confirmed: vm0, vm1, vm2, vm3, vm4 and 78 more: held: manage.py approve 12",
        "  not confirmed: other: job 7 works on it",
        "  a, b: not known",
    ]


@pytest.mark.parametrize(("planned", "code"), [([], 0), ([{"instance": "vm1"}], 3)])
def test_a_plan_ends_with_3_where_there_is_drift(
    planned: list[dict[str, str]], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = "reconciled" if planned else "in_sync"
    closed = record_request(record_cluster(), outcome, kind="plan", planned=planned)
    as_closed(monkeypatch, closed)
    assert reconcile("--plan", "--json").code == code


def test_above_a_number_of_open_requests_the_command_says_to_come_again() -> None:
    cluster = record_cluster()
    common = {"cluster": cluster, "kind": "instance", "requested_at": now()}
    Request.objects.bulk_create(Request(name=f"other{number}", **common) for number in range(1000))
    assert is_one_clear_line(reconcile("--instance", "alpha/vm1"), 1, "1000 requests are open")


def test_a_cluster_may_have_a_domain_name_and_none_that_is_no_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAPI_PASSWORD", "open sesame")
    rest = ("--host", "h", "--user", "u", "--password-env", "RAPI_PASSWORD", "--insecure")
    assert command("cluster", "add", "gnt1.example.com", *rest).code == 0
    for name in ("a b", "a/b", ".", "x" * 101):
        assert is_one_clear_line(command("cluster", "add", name, *rest), 2, "name")
    assert Cluster.objects.get().name == "gnt1.example.com"
