"""manage.py cluster add|list|check|pause|resume|remove."""

import os
from argparse import ArgumentParser
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from proj.backend import BackendError
from proj.cli.base import PlainCommand
from proj.cli.output import print_json, print_table, refuse
from proj.inventory.audit import audit_round
from proj.inventory.models import Cluster
from proj.wiring import backend_of


class Command(PlainCommand):
    """Tell the service which Ganeti clusters there are."""

    help = "Add, list, check, pause, resume and remove clusters."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        add = actions.add_parser("add", help="add a cluster")
        add.add_argument("name")
        add.add_argument("--host", required=True)
        add.add_argument("--port", type=int, default=5080)
        add.add_argument("--user", required=True)
        password = add.add_mutually_exclusive_group(required=True)
        password.add_argument("--password-file", type=Path)
        password.add_argument("--password-env", metavar="VAR")
        trust = add.add_mutually_exclusive_group(required=True)
        trust.add_argument("--ca-file", type=Path, help="the certificate of RAPI, or its CA")
        trust.add_argument("--insecure", action="store_true")
        add.add_argument("--unknown", choices=("adopt", "report"), default="adopt")
        add.add_argument("--max-in-flight", type=int, default=3, help="query jobs at once")
        add.add_argument(
            "--max-requests", type=int, default=4, help="requests to RAPI at once; it serves 20"
        )
        add.add_argument("--jobs-per-hour", type=int, default=240, help="for the audit")
        add.add_argument(
            "--confirm-hours", type=float, default=24.0, help="a job speaks for each this often"
        )
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


def _add(options: dict[str, Any]) -> str:
    cluster = Cluster(
        name=options["name"],
        host=options["host"],
        port=options["port"],
        user=options["user"],
        password_source=_password_source(options),
        certificate=_certificate(options["ca_file"]),
        insecure=options["insecure"],
        unknown=options["unknown"],
        max_in_flight=options["max_in_flight"],
        max_requests=options["max_requests"],
        jobs_per_hour=options["jobs_per_hour"],
        confirm_max_age=timedelta(hours=options["confirm_hours"]),
    )
    if not 0 < cluster.port < 65536:
        refuse(f"{cluster.port} is no port: use 1 to 65535")
    if cluster.max_in_flight < 1:
        refuse("--max-in-flight must be at least 1")
    if not 0 < cluster.max_requests < 20:
        refuse("--max-requests must be 1 to 19: RAPI serves 20 clients and hangs the next")
    if Cluster.objects.filter(name=cluster.name).exists():
        refuse(f"a cluster {cluster.name} exists already: choose another name")
    try:
        cluster.clean_fields()
        cluster.save()
    except ValidationError as error:
        refuse(
            "; ".join(f"{name}: {' '.join(texts)}" for name, texts in error.message_dict.items())
        )
    except IntegrityError:
        refuse(f"a cluster {cluster.name} exists already: choose another name")
    return f"{cluster.name} is added; try it: manage.py cluster check {cluster.name}"


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


def _list(options: dict[str, Any]) -> None:
    clusters = Cluster.objects.all()
    if options["name"]:
        clusters = _named(options["name"])
    rows = [
        {
            "name": cluster.name,
            "host": cluster.host,
            "port": cluster.port,
            "instances": cluster.instances.count(),
            "paused": cluster.paused,
            "looked": cluster.looked_not_after,
            "failures": cluster.failures,
            "last_error": cluster.last_error,
        }
        for cluster in clusters
    ]
    if options["json"]:
        print_json({"clusters": rows})
    else:
        print_table(rows, ("name", "host", "port", "instances", "paused", "looked", "last_error"))


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
