"""What Celery must be told, or it forgets, doubles or slows down."""

import re
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

import pytest
from celery.fixups.django import DjangoWorkerFixup

from beat_schedule import schedule
from proj.celery import app
from proj.clock import server
from proj.reconcile.ask import Answered, Step
from tasks.query import _go_on
from tests.commands import ROOT

LOCKS = sorted((ROOT / "requirements").glob("*.txt"))


def test_a_connection_to_the_database_outlives_its_task() -> None:
    assert DjangoWorkerFixup(app).db_reuse_max > 1_000_000


def test_a_task_ends_long_before_its_message_is_given_to_another() -> None:
    visible_again = app.conf.broker_transport_options["visibility_timeout"]
    assert app.conf.task_soft_time_limit < app.conf.task_time_limit < visible_again / 1.5


def test_a_message_of_beat_expires_before_the_next_is_due() -> None:
    for entry in schedule(timedelta(seconds=5)).values():
        assert entry["options"]["expires"] < entry["schedule"]


def test_every_queue_of_a_task_has_a_worker_in_the_procfile() -> None:
    procfile = (ROOT / "Procfile").read_text()
    served = {name for names in re.findall(r"-Q (\S+)", procfile) for name in names.split(",")}
    assert {route["queue"] for route in app.conf.task_routes.values()} == served
    assert {queue.name for queue in app.conf.task_queues} == served


def test_nothing_but_json_is_accepted() -> None:
    assert list(app.conf.accept_content) == ["json"]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
@pytest.mark.parametrize("package", ["celery", "redis", "kombu"])
def test_nobody_took_celery_or_redis_back_to_an_older_version(lock: Path, package: str) -> None:
    (pinned,) = re.findall(rf"(?m)^{package}==(\S+)", lock.read_text())
    assert version(package) == pinned
    assert int(pinned.split(".")[0]) >= {"celery": 5, "redis": 8, "kombu": 5}[package]


@pytest.mark.django_db(transaction=True)
def test_answers_are_sent_on_though_redis_dropped_our_connection() -> None:
    """As after a restart of Redis."""
    step = Step([Answered(key, "vm1") for key in (1, 2)])
    _go_on("alpha", step)
    server().execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    _go_on("alpha", step)
    sent = server().llen("reconcile")
    server().delete("reconcile")
    assert sent == 4
