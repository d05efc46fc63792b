"""Alive, and ready."""

from datetime import timedelta

import pytest
import redis as redis_client
from django.db import OperationalError, connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.test import Client

from proj.clock import now
from tests.environment import free_port
from tests.recorded import record_cluster

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


LATE = timedelta(minutes=6)


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
