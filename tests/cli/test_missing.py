"""What a command says when a server or a table is missing, or a setting is wrong."""

import importlib
import json
import os
import pkgutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings

import proj.cli.management.commands as found
from proj.cli.base import PlainCommand
from proj.environment import database
from proj.inventory.models import Cluster, Request
from tests.commands import ROOT, Result, command, is_one_clear_line, manage
from tests.environment import POSTGRES_PORT, free_port
from tests.recorded import record_cluster, record_hold

COMMANDS = {
    "approve": ("approve", "1"),
    "cluster add": ("cluster", "add", "beta", "--host", "h", "--user", "u",
                    "--password-env", "HOME", "--insecure"),
    "cluster set": ("cluster", "set", "alpha", "--jobs-per-hour", "100"),
    "cluster list": ("cluster", "list"),
    "cluster check": ("cluster", "check"),
    "cluster pause": ("cluster", "pause", "alpha"),
    "cluster resume": ("cluster", "resume", "alpha"),
    "cluster remove": ("cluster", "remove", "alpha"),
    "demo": ("demo", "--seconds", "1"),
    "explain": ("explain", "alpha/vm1"),
    "instances": ("instances",),
    "preflight": ("preflight",),
    "reconcile": ("reconcile",),
    "restored": ("restored",),
    "reconcile --instance": ("reconcile", "--instance", "alpha/vm1"),
}  # fmt: skip
NEED_REDIS = {"approve", "cluster check", "preflight", "reconcile", "reconcile --instance"}
MAKE_TABLES = {"demo"}
NEED_NO_TABLES = {"preflight"}

EACH_IN_TURN = """
import dataclasses, json, sys, django
django.setup()
from tests.commands import command
for name, arguments in json.loads(sys.argv[1]).items():
    done = command(*arguments)
    print(json.dumps([name, dataclasses.astuple(done)]), file=sys.stderr)
"""


def results(commands: dict[str, tuple[str, ...]], **environment: str) -> dict[str, Result]:
    """Run commands one after the other in one process with another environment."""
    environment = {"WEB_PORT": str(free_port()), "FLOWER_PORT": str(free_port())} | environment
    done = subprocess.run(
        [sys.executable, "-c", EACH_IN_TURN, json.dumps(commands)],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = (json.loads(line) for line in done.stderr.splitlines())
    return {name: Result(*result) for name, result in lines}


def without(*names: str) -> dict[str, tuple[str, ...]]:
    return {name: arguments for name, arguments in COMMANDS.items() if name not in names}


def test_every_command_is_one_that_answers_plainly() -> None:
    names = {module.name for module in pkgutil.iter_modules(found.__path__)}
    for name in names:
        module = importlib.import_module(f"{found.__name__}.{name}")
        assert issubclass(module.Command, PlainCommand)
    assert names == {arguments[0] for arguments in COMMANDS.values()}


@pytest.mark.django_db(transaction=True)
def test_a_missing_redis_is_named_by_those_that_need_it_and_the_others_go_on() -> None:
    held = record_hold(record_cluster(password_source="env:HOME"), "vm1")
    arguments = without("demo", "explain", "cluster remove", "cluster pause")
    arguments["approve"] = ("approve", str(held.pk))
    nowhere = f"redis://:s3cret@127.0.0.1:{free_port()}/0"
    answers = results(arguments, REDIS_URL=nowhere)
    assert set(answers) == set(arguments)
    for name, answer in answers.items():
        assert "s3cret" not in answer.out + answer.error
        if name in NEED_REDIS:
            assert is_one_clear_line(answer, 2, "no answer from Redis (REDIS_URL)", "redis-server")
        else:
            assert answer.code == 0, (name, answer)
    assert not Request.objects.exists()
    assert Cluster.objects.filter(name="beta").exists()


@pytest.mark.parametrize(
    "where", ["sqlite:////nowhere/db.sqlite3", "postgres://me:s3cret@127.0.0.1:{port}/nowhere"]
)
def test_a_missing_database_is_named_by_every_command(
    where: str, tmp_path: Path, redis: None
) -> None:
    answers = results(
        COMMANDS, DATABASE_URL=where.format(port=free_port()), VAR_DIR=str(tmp_path / "demo")
    )
    assert set(answers) == set(COMMANDS)
    for answer in answers.values():
        assert is_one_clear_line(answer, 2, "no answer from the database (DATABASE_URL)")
        assert "s3cret" not in answer.error


def test_a_database_without_tables_is_named_by_every_command(
    tmp_path: Path, database_server: None, redis: None
) -> None:
    empty = f"sqlite:///{tmp_path}/db.sqlite3"
    if settings.DATABASES["default"]["ENGINE"].endswith("postgresql"):
        empty = f"postgres://postgres@127.0.0.1:{POSTGRES_PORT}/template1"
    answers = results(without(*MAKE_TABLES), DATABASE_URL=empty)
    for name, answer in answers.items():
        if name in NEED_NO_TABLES:
            assert answer.code == 0, answer
        else:
            assert is_one_clear_line(answer, 2, "lacks tables", "manage.py migrate")


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"REDIS_URL": "redis://127.0.0.1:1/0"}, "REDIS_URL"),
        ({"DATABASE_URL": "sqlite:////nowhere/db.sqlite3"}, "DATABASE_URL"),
        ({"DATABASE_URL": "sqlite:///{empty}"}, "manage.py migrate"),
    ],
)
@pytest.mark.django_db(transaction=True)
def test_a_process_that_lacks_a_server_ends_with_2_and_one_line(
    environment: dict[str, str], words: str, tmp_path: Path
) -> None:
    record_cluster()
    given = {name: it.format(empty=tmp_path / "db") for name, it in environment.items()}
    assert is_one_clear_line(manage("reconcile", **given), 2, words)


@pytest.mark.parametrize("name", ["WEB_PORT", "FLOWER_PORT"])
def test_a_port_that_is_taken_is_named_with_its_setting_before_anything_starts(
    name: str, tmp_path: Path, redis: None, database_server: None
) -> None:
    demo = {"VAR_DIR": str(tmp_path / "demo"), "DATABASE_URL": f"sqlite:///{tmp_path}/db.sqlite3"}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        answers = results({"preflight": ("preflight",)}, **{name: port})
        answers |= results({"demo": ("demo",)}, **demo, **{name: port})
    said = f"port {port} is taken ({name}): is make"
    assert is_one_clear_line(answers["preflight"], 2, f"{said} demo running?")
    assert is_one_clear_line(answers["demo"], 2, f"{said} up running?")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", ["a name", "no/name", "x" * 256, "vm1\n", "vm1\0", "vm1;"])
def test_a_name_that_no_instance_can_have_is_refused(name: str) -> None:
    record_cluster()
    assert is_one_clear_line(command("reconcile", "--instance", f"alpha/{name}"), 2, "is no name")
    assert not Request.objects.exists()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("LOOK_PERIOD=abc", "'abc': write a number of seconds, more than 0; without it 60"),
        ("LOOK_PERIOD=nan", "more than 0"),
        ("LOOK_PERIOD=inf", "more than 0"),
        ("LOOK_PERIOD_MIN=61", "more than 0 and at most 60"),
        ("FOLLOW_PERIOD=0", "more than 0"),
        ("BEAT_PERIOD=0", "more than 0"),
        ("BEAT_PERIOD=-1", "more than 0"),
        ("GONE_AFTER=-1", "0 or more"),
        ("PROOF_WITHIN=0", "more than 0"),
        ("KEEP_DAYS=-1", "a number of days"),
        ("FLOWER_PORT=http", "1 to 65535"),
        ("WEB_PORT=0", "1 to 65535"),
        ("REDIS_URL=nonsense", "redis://host:port/number"),
        ("REDIS_URL=redis://:s3cret@host/name", "redis://host:port/number"),
        ("REDIS_URL=redis://:s3cret@host:port/0", "redis://host:port/number"),
        ("DATABASE_URL=nonsense", "postgres://user@host/name or sqlite:///path"),
        ("DATABASE_URL=oracle://:s3cret@host/name", "postgres://user@host/name"),
        ("DATABASE_URL=postgres://:s3cret@host:port/name", "postgres://user@host/name"),
        ("DATABASE_URL=postgres://host/name?prepare_threshold=no", "a number of uses, or none"),
        ("GANETI_STATUSES=ERROR_down", "write ERROR_down=ERROR"),
        ("GANETI_STATUSES=ERROR_down=BROKEN", "ACTIVE, BUILD"),
        ("VAR_DIR=/dev/null/var", "cannot make the folder /dev/null/var"),
    ],
)
def test_a_wrong_setting_is_named_with_what_to_write(setting: str, words: str) -> None:
    name, _, value = setting.partition("=")
    result = manage("cluster", "list", **{name: value})
    assert is_one_clear_line(result, 2, name, words)
    assert "s3cret" not in result.error


@pytest.mark.parametrize("setting", ["GONE_AFTER=0", "LOOK_PERIOD=0.5", "REDIS_URL=rediss://h/3"])
def test_a_setting_at_its_limit_is_taken(setting: str) -> None:
    name, _, value = setting.partition("=")
    assert manage("check", **{name: value}).code == 0


@pytest.mark.parametrize(("query", "threshold"), [("", 2), ("?prepare_threshold=none", None)])
def test_an_operator_may_have_no_statement_prepared(
    query: str, threshold: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgres://user@host/name{query}")
    found = database("DATABASE_URL", Path("unused"))
    assert found["OPTIONS"] == {"prepare_threshold": threshold}
