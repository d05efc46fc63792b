"""While a command waits it says for what, and why, on stderr: once, and again when it changes."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from proj.cli import waiting
from proj.clock import now, server
from proj.inventory.models import Cluster, Question, Request
from tests.commands import Result, command
from tests.recorded import record_cluster, record_hold, record_instance, record_job

pytestmark = pytest.mark.django_db(transaction=True)

Step = Callable[[], object]


@pytest.fixture(autouse=True)
def broker() -> Iterator[None]:
    """The broker, left without messages."""
    yield
    server().delete("on-demand", "ganeti", "reconcile")


@pytest.fixture
def reconcile(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run the command; while it waits, one step is taken after the other, and all is closed."""

    def run(*arguments: str, steps: tuple[Step, ...] = ()) -> Result:
        left = iter([*steps, close])
        monkeypatch.setattr(waiting, "TOLD_EACH", 0.0)
        monkeypatch.setattr(waiting.time, "sleep", lambda _: next(left)())
        return command("reconcile", "--timeout", "30", *arguments)

    return run


def close() -> None:
    Request.objects.update(state="closed", outcome="in_sync", closed_at=now())


def list_all(**values: Any) -> Step:
    """Return the step after which the requests have their scope."""
    return lambda: Request.objects.update(scoped_at=now(), **values)


def nothing() -> None:
    """Let time go by."""


def test_what_is_waited_for_is_said_at_once_and_not_again_while_it_is_the_same(
    reconcile: Callable[..., Result],
) -> None:
    record_cluster(moment=now())
    done = reconcile(steps=(nothing, nothing))
    assert done.error == "waiting for alpha: it has not been listed yet\n"
    assert done.code == 0


def test_a_cluster_that_begins_to_fail_is_said_with_its_error(
    reconcile: Callable[..., Result],
) -> None:
    for name in ("alpha", "sim3"):
        record_cluster(name, moment=now())
    error = "sim3: accepts but does not answer in time"

    def fail() -> None:
        Cluster.objects.filter(name="sim3").update(failures=1, last_error=error)

    assert reconcile(steps=(fail, nothing)).error.splitlines() == [
        "waiting for alpha, sim3: it has not been listed yet",
        "waiting for alpha: it has not been listed yet",
        f"waiting for {error}",
    ]


def test_what_is_held_is_said_with_how_many_and_the_command_that_lets_it_pass(
    reconcile: Callable[..., Result],
) -> None:
    cluster, names = record_cluster(moment=now()), [f"vm{number}" for number in range(84)]
    for name in names:
        record_instance(cluster, name)
    hold = record_hold(cluster, *names)
    told = reconcile(steps=(list_all(blocked_since=now()),)).error.splitlines()
    approve = f"look at Ganeti; if it is right, manage.py approve {hold.pk}"
    assert told[1:] == [f"waiting for alpha: 84 instances are held: {approve}"]


def test_a_cluster_that_is_paused_meanwhile_is_said_with_how_to_go_on(
    reconcile: Callable[..., Result],
) -> None:
    record_cluster(moment=now())
    told = reconcile(steps=(lambda: Cluster.objects.update(paused=True),)).error.splitlines()
    assert told[1:] == ["waiting for alpha: it is paused: manage.py cluster resume alpha"]


def test_who_cannot_be_confirmed_is_named_with_the_reason(
    reconcile: Callable[..., Result],
) -> None:
    cluster = record_cluster(moment=now())
    for name in ("vm1", "vm2"):
        record_instance(cluster, name)
        record_job(cluster, name, "MIGRATE")
    told = reconcile(steps=(list_all(blocked_since=now()),)).error.splitlines()
    assert told[1:] == ["waiting for alpha: vm1: job 1 works on it and 1 more"]


def test_one_instance_is_waited_for_with_the_reason_why_it_is_not_confirmed(
    reconcile: Callable[..., Result],
) -> None:
    record_instance(record_cluster(moment=now()), "vm1")

    def ask() -> None:
        Question.objects.update(token="t", claimed_at=now(), job_id=17)

    assert reconcile("--instance", "alpha/vm1", steps=(ask,)).error.splitlines() == [
        "waiting for alpha/vm1: it waits to be asked about",
        "waiting for alpha/vm1: query job 17 is open",
    ]


def test_a_request_that_no_worker_has_seen_to_for_a_while_says_what_may_be_missing(
    reconcile: Callable[..., Result],
) -> None:
    record_cluster(moment=now() - timedelta(minutes=5))

    def let_a_minute_pass() -> None:
        Request.objects.update(requested_at=now() - timedelta(minutes=1))

    def take_a_turn() -> None:
        Cluster.objects.update(look_until=now() + timedelta(minutes=1))

    def die_in_it() -> None:
        half_a_minute_ago = now() - timedelta(seconds=30)
        Cluster.objects.update(look_until=half_a_minute_ago, moment=half_a_minute_ago)

    steps = (let_a_minute_pass, take_a_turn, die_in_it)
    assert reconcile(steps=steps).error.splitlines() == [
        "waiting for alpha: it has not been listed yet",
        "waiting for alpha: nobody sees to it: do beat and the workers run?",
        "waiting for alpha: it has not been listed yet",
        "waiting for alpha: nobody sees to it: do beat and the workers run?",
    ]


def test_of_many_clusters_the_first_are_named_and_the_output_stays_json(
    reconcile: Callable[..., Result],
) -> None:
    for number in range(7):
        record_cluster(f"c{number}", moment=now())
    done = reconcile("--json")
    assert len(done.json["passes"]) == 7
    assert done.error == ("waiting for c0, c1, c2, c3, c4 and 2 more: it has not been listed yet\n")
