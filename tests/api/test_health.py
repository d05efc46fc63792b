"""Alive, and ready."""

from datetime import datetime, timedelta
from typing import Any

import pytest
import redis as redis_client
from django.db import OperationalError, connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.test import Client

from proj.clock import now
from proj.inventory.models import Cluster, Question
from tests.environment import free_port
from tests.recorded import record_cluster, record_hold, record_instance, record_job

pytestmark = pytest.mark.django_db(transaction=True)


def ready() -> tuple[int, list[str]]:
    answer = Client().get("/readyz")
    return answer.status_code, answer.content.decode().splitlines()


@pytest.fixture
def no_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens where Redis should be."""
    nowhere = redis_client.Redis.from_url(f"redis://127.0.0.1:{free_port()}/0")
    monkeypatch.setattr("proj.clock.server", lambda: nowhere)


@pytest.fixture
def no_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database refuses."""

    def refuse() -> None:
        raise OperationalError("password authentication failed for user 'secret'")

    connection.close()
    monkeypatch.setattr(connection, "connect", refuse)


def test_all_is_well() -> None:
    assert ready() == (200, ["ok"])
    record_cluster()
    assert ready() == (200, ["ok"])


def test_a_missing_redis_is_named(no_redis: None) -> None:
    assert ready() == (503, ["no answer from Redis (REDIS_URL)"])


def test_a_missing_database_is_named_and_a_missing_redis_beside_it(
    no_redis: None, no_database: None
) -> None:
    lines = ["no answer from Redis (REDIS_URL)", "no answer from the database (DATABASE_URL)"]
    assert ready() == (503, lines)


def test_the_process_is_alive_whatever_is_missing(no_redis: None, no_database: None) -> None:
    assert Client().get("/healthz").status_code == 200


def test_a_migration_that_was_not_applied_is_named() -> None:
    recorder = MigrationRecorder(connection)
    (newest,) = MigrationLoader(connection).graph.leaf_nodes("inventory")
    recorder.record_unapplied(*newest)
    try:
        assert ready() == (503, ["the database lacks migrations: manage.py migrate"])
    finally:
        recorder.record_applied(*newest)


def test_a_database_of_a_later_version_is_named() -> None:
    recorder = MigrationRecorder(connection)
    recorder.record_applied("inventory", "9999_later")
    try:
        assert ready()[0] == 503
        assert "of a later version" in ready()[1][0]
    finally:
        recorder.record_unapplied("inventory", "9999_later")


LATE = timedelta(minutes=6)
UNREAD = "alpha: its job queue could not be read: no bound holds for changes"


@pytest.mark.parametrize(
    ("values", "lines"),
    [
        ({"read_not_after": -LATE}, [UNREAD]),
        ({"read_not_after": None, "looks": 20}, [UNREAD]),
        ({"read_not_after": None, "follow_failures": 7}, [UNREAD]),
        ({"read_not_after": None, "follow_failures": 2}, ["ok"]),
        ({"read_not_after": None, "looks": 1}, ["ok"]),
        ({"read_not_after": -LATE, "paused": True}, ["ok"]),
    ],
)
def test_a_job_queue_that_is_not_read_voids_the_bound_and_a_fresh_start_is_awaited(
    values: dict[str, Any], lines: list[str]
) -> None:
    if values["read_not_after"] is not None:
        values = values | {"read_not_before": now() - LATE, "read_not_after": now() - LATE}
    record_cluster(**values)
    assert ready() == (200 if lines == ["ok"] else 503, lines)


def differs(since: datetime, **values: object) -> dict[str, object]:
    """Return the columns of a row that lists contradict since then."""
    difference = {
        "value": ["STOPPED", "ADMIN_down"], "acquittals": 0,
        "since": since.isoformat(), "first": since.isoformat(),
        "last": [since.isoformat()] * 2, "asleep_until": None, **values,
    }  # fmt: skip
    return {"differs": {"state": difference}, "differs_since": since}


LONG_AGO = timedelta(minutes=15)


def test_a_change_that_is_not_recorded_in_time_is_named() -> None:
    cluster, then = record_cluster(), now() - LONG_AGO
    record_instance(cluster, "vm1", **differs(then))
    record_instance(cluster, "vm2", missing_first=then, missing_last=now())
    record_instance(cluster, "vm3", **differs(now()))
    record_instance(cluster, "vm4", status="DELETED", missing_first=then)
    code, lines = ready()
    assert code == 503
    assert [line.partition(":")[0] for line in lines] == ["alpha/vm1", "alpha/vm2"]
    Cluster.objects.update(paused=True)
    assert ready() == (200, ["ok"])


def test_what_waits_by_right_is_no_broken_promise() -> None:
    cluster, then = record_cluster(), now() - LONG_AGO
    record_instance(cluster, "worked", missing_first=then, missing_last=now())
    record_job(cluster, "worked", "REMOVE")
    for number in range(7):
        record_instance(cluster, f"held{number}", **differs(then))
    hold = record_hold(cluster, *(f"held{number}" for number in range(7)))
    record_instance(cluster, "disputed", **differs(then, acquittals=3))
    record_instance(cluster, "old", epoch=7, **differs(then))
    assert ready() == (200, ["ok"])
    record_instance(cluster, "vm1", **differs(then))
    assert ready()[1] == [f"alpha/vm1: what lists say since {then:%H:%M:%S} is not recorded yet"]
    hold.delete()
    assert len(ready()[1]) == 5


def test_questions_that_nobody_asks_are_named_and_those_that_wait_their_time_are_not() -> None:
    cluster, then = record_cluster(asked_at=None), now() - LATE
    common = {"cluster": cluster, "priority": 1, "wanted_since": then, "newer_than": then}
    Question.objects.create(name="later", retry_at=now() + LATE, **common)
    Question.objects.create(name="claimed", token="me", **common)
    assert ready() == (200, ["ok"])
    Question.objects.create(name="waits", **common)
    nobody = [["alpha: nobody asks about it: does the worker `on-demand` run?"]]
    assert ready() == (503, *nobody)
    Cluster.objects.update(asked_at=now())
    assert ready() == (200, ["ok"])


def test_a_cluster_about_which_no_chain_was_begun_for_long_is_named_whatever_waits() -> None:
    record_cluster(asked_at=now() - LATE)
    assert ready() == (503, ["alpha: nobody asks about it: does the worker `on-demand` run?"])


def test_a_dead_beat_shows_when_every_turn_has_passed_by_far() -> None:
    record_cluster(next_look_at=now() - LATE)
    record_cluster("beta", next_look_at=now() - 2 * LATE)
    code, (line,) = ready()
    assert code == 503
    assert "beat" in line


@pytest.mark.parametrize(
    "other",
    [{"next_look_at": now}, {"next_look_at": lambda: now() - timedelta(minutes=4)}],
    ids=["due now", "a little late"],
)
def test_one_cluster_that_hangs_is_no_dead_beat(other: dict[str, object]) -> None:
    record_cluster(next_look_at=now() - LATE)
    record_cluster("beta", **{name: value() for name, value in other.items()})  # type: ignore[operator]
    assert ready() == (200, ["ok"])


def test_a_paused_cluster_and_one_just_added_say_nothing_about_beat() -> None:
    record_cluster(next_look_at=now() - LATE, paused=True)
    record_cluster("new", next_look_at=None, looked_not_before=None, looked_not_after=None)
    assert ready() == (200, ["ok"])
