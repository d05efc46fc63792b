"""manage.py cluster add|set|list|check|pause|resume|remove."""

import os
from argparse import ArgumentParser
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from proj.backend import BackendError
from proj.cli.base import PlainCommand
from proj.cli.output import print_json, print_table, refuse
from proj.clock import age, now_or_here
from proj.inventory.audit import audit_round
from proj.inventory.models import Cluster, UnknownPolicy
from proj.wiring import backend_of


class Command(PlainCommand):
    """Tell the service which Ganeti clusters there are."""

    help = "Add, change, list, check, pause, resume and remove clusters."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        _add_options(actions.add_parser("add", help="add a cluster"), is_new=True)
        _add_options(actions.add_parser("set", help="change what is given"), is_new=False)
        for action, text in (
            ("list", "show every cluster"),
            ("check", "talk to a cluster and say what is wrong"),
        ):
            sub = actions.add_parser(action, help=text)
            sub.add_argument("name", nargs="?")
            sub.add_argument("--json", action="store_true")
        for action, text in (
            ("pause", "send nothing more to a cluster"),
            ("resume", "go on with a paused cluster"),
            ("remove", "forget a cluster and its instances; Ganeti is not touched"),
        ):
            sub = actions.add_parser(action, help=text)
            sub.add_argument("name")

    def handle(self, *args: Any, **options: Any) -> None:
        match options["action"]:
            case "add":
                self.stdout.write(_add(options))
            case "set":
                self.stdout.write(_set(options))
            case "list":
                _list(options)
            case "check":
                _check(options)
            case "pause":
                _named(options["name"]).update(paused=True)
                self.stdout.write(f"{options['name']} is paused")
            case "resume":
                _named(options["name"]).update(
                    paused=False, next_look_at=None, next_follow_at=None,
                    look_until=None, follow_until=None, await_until=None, next_ask_at=None,
                )  # fmt: skip
                self.stdout.write(f"{options['name']} goes on")
            case "remove":
                _remove(options["name"])
                self.stdout.write(f"{options['name']} is forgotten; Ganeti was not touched")


def _named(name: str) -> Any:
    found = Cluster.objects.filter(name=name)
    if not found.exists():
        refuse(f"no cluster {name}: see manage.py cluster list")
    return found


def _remove(name: str) -> None:
    with transaction.atomic():
        # First, as every turn locks it: none waits for what this holds, and the other way round.
        found = _named(name)
        list(found.select_for_update())
        found.delete()


CONFIRM_HOURS = 24.0
"""Of a cluster of which nothing else is said."""
FROM_MODEL = ("port", "unknown", "max_in_flight", "max_requests", "jobs_per_hour")


def _add_options(parser: ArgumentParser, *, is_new: bool) -> None:
    parser.add_argument("name")
    parser.add_argument("--host", required=is_new, help="where RAPI listens: the cluster's name")
    parser.add_argument("--user", required=is_new, help="of RAPI; the right `read` is enough")
    password = parser.add_mutually_exclusive_group(required=is_new)
    password.add_argument("--password-file", type=Path, help="holds the password, and no more")
    password.add_argument("--password-env", metavar="VAR", help="a variable that holds it")
    trust = parser.add_mutually_exclusive_group(required=is_new)
    trust.add_argument("--ca-file", type=Path, help="the certificate of RAPI, or its CA")
    trust.add_argument(
        "--insecure", action="store_true",
        help="accept any certificate: who is in between reads the password",
    )  # fmt: skip
    _add_numbers(parser, "; default %(default)s" if is_new else "")
    if is_new:
        fresh = Cluster()
        defaults = {name: getattr(fresh, name) for name in FROM_MODEL}
        parser.set_defaults(**defaults, confirm_hours=CONFIRM_HOURS)


def _add_numbers(parser: ArgumentParser, default: str) -> None:
    """Add the options that may be left out; ``default`` is how their help tells what holds then."""
    parser.add_argument("--port", type=int, help=f"of RAPI{default}")
    parser.add_argument(
        "--unknown", choices=UnknownPolicy.values,
        help=f"instances that are not in the database: record them, or only name them{default}",
    )  # fmt: skip
    parser.add_argument(
        "--max-in-flight", type=int, metavar="N", help=f"query jobs at once{default}"
    )
    parser.add_argument(
        "--max-requests", type=int, metavar="N",
        help=f"requests to RAPI at once; it serves 20, and hangs the next{default}",
    )  # fmt: skip
    parser.add_argument(
        "--jobs-per-hour", type=int, metavar="N",
        help=f"query jobs that the audit may spend; it asks each in its turn{default}",
    )  # fmt: skip
    parser.add_argument(
        "--confirm-hours", type=float, metavar="H",
        help=f"a job is to speak for each instance this often{default}",
    )  # fmt: skip


def _add(options: dict[str, Any]) -> str:
    cluster = Cluster(name=options["name"])
    if Cluster.objects.filter(name=cluster.name).exists():
        refuse(f"a cluster {cluster.name} exists already: choose another name")
    _change(cluster, options)
    try:
        cluster.save()
    except IntegrityError:
        refuse(f"a cluster {cluster.name} exists already: choose another name")
    return f"{cluster.name} is added; try it: manage.py cluster check {cluster.name}"


def _set(options: dict[str, Any]) -> str:
    cluster = _named(options["name"]).get()
    where = (cluster.host, cluster.port)
    changed = _change(cluster, options)
    if not changed:
        refuse("nothing is given that would change: see manage.py cluster set --help")
    if (cluster.host, cluster.port) != where and "password_source" not in changed:
        refuse("another host is told the password too: give --password-file or --password-env")
    # What was refused before is tried anew at once; the other columns are the turns'.
    cluster.next_look_at = cluster.next_follow_at = cluster.next_ask_at = None
    cluster.save(update_fields=[*changed, "next_look_at", "next_follow_at", "next_ask_at"])
    return f"{cluster.name} is changed; try it: manage.py cluster check {cluster.name}"


def _change(cluster: Cluster, options: dict[str, Any]) -> list[str]:
    """Change what is given, if it can work; returns the names of the columns."""
    given = ("host", "port", "user", "unknown", "max_in_flight", "max_requests", "jobs_per_hour")
    values = {name: options[name] for name in given if options[name] is not None}
    if options["confirm_hours"] is not None:
        values["confirm_max_age"] = timedelta(hours=options["confirm_hours"])
    if options["password_env"] or options["password_file"]:
        values["password_source"] = _password_source(options)
    if options["ca_file"] or options["insecure"]:
        values |= {
            "certificate": _certificate(options["ca_file"]), "insecure": options["insecure"],
        }  # fmt: skip
    for name, value in values.items():
        setattr(cluster, name, value)
    if not 0 < cluster.port < 65536:
        refuse(f"{cluster.port} is no port: use 1 to 65535")
    if cluster.max_in_flight < 1:
        refuse("--max-in-flight must be at least 1")
    if not 0 < cluster.max_requests < 20:
        refuse("--max-requests must be 1 to 19: RAPI serves 20 clients and hangs the next")
    try:
        cluster.clean_fields()
    except ValidationError as error:
        refuse(
            "; ".join(f"{name}: {' '.join(texts)}" for name, texts in error.message_dict.items())
        )
    return list(values)


def _password_source(options: dict[str, Any]) -> str:
    if options["password_env"]:
        if not os.environ.get(options["password_env"]):
            refuse(f"the variable {options['password_env']} is not set")
        return f"env:{options['password_env']}"
    path: Path = options["password_file"]
    if not _text_of(path, "password file").strip():
        refuse(f"the password file {path} is empty")
    return f"file:{path.resolve()}"


def _certificate(path: Path | None) -> str:
    if path is None:
        return ""
    text = _text_of(path, "certificate")
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    if begin not in text or end not in text:
        refuse(f"{path} holds no PEM certificate")
    # rapi.pem of a master holds the private key too, which has no business here.
    blocks = (block.partition(end)[0] for block in text.split(begin)[1:])
    return "".join(f"{begin}{block}{end}\n" for block in blocks)


def _text_of(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        refuse(f"cannot read the {what} {path}: {reason}")


COLUMNS = ("name", "RAPI", "instances", "looked", "state")


def _list(options: dict[str, Any]) -> None:
    clusters = _named(options["name"]) if options["name"] else Cluster.objects.all()
    if options["json"]:
        print_json({"clusters": [_described(cluster) for cluster in clusters]})
        return
    at = now_or_here()
    print_table([_shown(cluster, at) for cluster in clusters], COLUMNS)


def _described(cluster: Cluster) -> dict[str, Any]:
    return {
        "name": cluster.name,
        "host": cluster.host,
        "port": cluster.port,
        "instances": cluster.instances.count(),
        "paused": cluster.paused,
        "looked": cluster.looked_not_after,
        "failures": cluster.failures,
        "last_error": cluster.last_error,
    }


def _shown(cluster: Cluster, at: datetime) -> dict[str, Any]:
    return {
        "name": cluster.name,
        "RAPI": f"{cluster.host}:{cluster.port}",
        "instances": cluster.instances.count(),
        "looked": age(cluster.looked_not_after, at),
        "state": _state(cluster),
    }


def _state(cluster: Cluster) -> str:
    if cluster.paused:
        return "paused"
    if not cluster.is_failing:
        return ""
    failures = max(cluster.failures, cluster.follow_failures, cluster.ask_failures)
    error = cluster.last_error.removeprefix(f"{cluster.name}: ")
    return f"failures in a row: {failures}; {error}".removesuffix("; ")


def _check(options: dict[str, Any]) -> None:
    clusters = _named(options["name"]) if options["name"] else Cluster.objects.all()
    rows = [_checked(cluster) for cluster in clusters]
    if options["json"]:
        print_json({"clusters": rows})
    else:
        for row in rows:
            print(
                row["error"]
                or f"{row['name']}: RAPI {row['version']}, {row['instances']} instances;"
                f" {row['audit']}; {row['queue']}"
            )
    if any(row["error"] for row in rows):
        raise SystemExit(2)


def _checked(cluster: Cluster) -> dict[str, Any]:
    try:
        backend = backend_of(cluster)
        version = backend.version()
        instances = backend.look().size
    except BackendError as error:
        return {"name": cluster.name, "error": str(error)}
    try:
        backend.read_queue(None, [], whole=True)
        queue = "the job queue can be read; the right `write` would let stuck queries be canceled"
    except BackendError as error:
        queue = f"the job queue cannot be read, so that no bound holds (PROOF_WITHIN): {error}"
    audit = audit_round(
        instances, jobs_per_hour=cluster.jobs_per_hour, confirm_max_age=cluster.confirm_max_age
    )
    return {
        "name": cluster.name,
        "error": "",
        "version": version,
        "instances": instances,
        "audit": str(audit),
        "queue": queue,
    }
