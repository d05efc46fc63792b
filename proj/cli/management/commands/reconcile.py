"""manage.py reconcile: a pass over clusters or instances, through the workers."""

from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from django.core.management.base import CommandError

from proj import health
from proj.cli.base import PlainCommand
from proj.cli.output import print_json, print_table, refuse, some_of
from proj.cli.waiting import FAILED, is_seen_to, reason_for, wait_for
from proj.clock import now, now_or_here
from proj.inventory.models import Cluster, Request
from proj.names import is_instance_name
from proj.observation import Status
from proj.reconcile import requests, shown
from proj.wiring import tuning
from tasks.query import reconcile_now

DRIFT = 3


class Command(PlainCommand):
    """Reconcile now, wait for the outcome, and say what changed."""

    help = "Reconcile clusters or instances with Ganeti, through the workers."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--cluster", action="append", default=[], metavar="NAME")
        parser.add_argument("--instance", action="append", default=[], metavar="CLUSTER/NAME")
        parser.add_argument("--all", action="store_true", help="query every instance by job")
        parser.add_argument("--plan", action="store_true", help="name the changes, write none")
        parser.add_argument("--timeout", type=float, default=600.0, metavar="S")
        parser.add_argument("--json", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        requested = _request(options)
        whole = [it for it in requested if it.kind == Request.Kind.ALL]
        if whole and not options["json"]:
            print(_how_long(whole))
        try:
            closed = wait_for(requested, options["timeout"])
        except requests.Removed as error:
            raise CommandError(str(error), returncode=FAILED) from None
        reports = [shown.describe(request) for request in closed]
        if options["json"]:
            print_json({"passes": reports})
        else:
            _show(closed, reports)
        raise SystemExit(_exit_code(reports, plan=options["plan"]))


def _request(options: dict[str, Any]) -> list[Request]:
    plan, numbers = options["plan"], tuning()
    instances = [_instance(text) for text in options["instance"]]
    clusters = [_cluster(name) for name in options["cluster"]]
    if not clusters and not instances:
        clusters = list(Cluster.objects.filter(paused=False))
        if not clusters:
            refuse("there is no cluster to reconcile: manage.py cluster add")
    for cluster in {*clusters, *(cluster for cluster, _ in instances)}:
        if cluster.paused:
            refuse(f"{cluster.name} is paused: manage.py cluster resume {cluster.name}")
    kind = Request.Kind.ALL if options["all"] else Request.Kind.SWEEP
    requested = []
    try:
        for cluster in clusters:
            wanted = Request.Kind.PLAN if plan else kind
            requested.append(
                requests.request_cluster(cluster, kind=wanted, tuning=numbers, at=now())
            )
            reconcile_now(cluster, whole=True, plan=plan)
        for cluster, name in instances:
            requested.append(
                requests.request_instance(cluster, name, tuning=numbers, at=now(), plan=plan)
            )
            reconcile_now(cluster, whole=False, plan=plan)
    except (requests.TooMany, requests.Removed) as error:
        raise CommandError(str(error), returncode=FAILED) from None
    return requested


SECONDS_A_JOB = 0.35
"""What Ganeti needs to start one query job after another, whatever their number at once."""


def _how_long(requested: list[Request]) -> str:
    counts = (it.cluster.instances.exclude(status=Status.DELETED).count() for it in requested)
    longest = max(counts)
    return f"about {max(1, round(longest * SECONDS_A_JOB))} s: Ganeti starts one job at a time"


def _cluster(name: str) -> Cluster:
    cluster = Cluster.objects.filter(name=name).first()
    if cluster is None:
        refuse(f"no cluster {name}: see manage.py cluster list")
    return cluster


def _instance(text: str) -> tuple[Cluster, str]:
    cluster, slash, name = text.partition("/")
    if not slash or not name:
        refuse(f"{text}: write CLUSTER/NAME")
    if not is_instance_name(name):
        refuse(f"{name!r} is no name of an instance: use up to 255 letters, digits, and . _ -")
    return _cluster(cluster), name


def _show(requested: list[Request], reports: list[dict[str, Any]]) -> None:
    changes = [
        {"cluster": report["cluster"], **change}
        for report in reports
        for change in report["changes"]
    ]
    if changes:
        columns = ("cluster", "instance", "field", "from", "to", "backend_status", "rule")
        print_table(changes, (*columns, "job_id"))
    for request, report in zip(requested, reports, strict=True):
        print(f"{report['cluster']}: {_said(report) if report['outcome'] else _open(request)}")
        for names, reason in _grouped(report["unconfirmed"], "reason"):
            print(f"  not confirmed: {names}: {reason}")
        for names, problem in _grouped(report["findings"], "problem"):
            print(f"  {names}: {problem}")


def _grouped(told: list[dict[str, str]], by: str) -> Iterator[tuple[str, str]]:
    """Yield what is said of instances, with the names of the first few of whom it is said."""
    names: dict[str, list[str]] = defaultdict(list)
    for it in told:
        names[it[by]].append(it["instance"])
    for text, mine in names.items():
        yield some_of(mine), text


def _said(report: dict[str, Any]) -> str:
    """Return what a request came to, in a line; what was not confirmed stands below it."""
    if report["kind"] == Request.Kind.PLAN and report["changes"]:
        return f"{len(report['changes'])} changes would be made; nothing was written"
    is_told_below = report["unconfirmed"] or not report["error"]
    error = "" if is_told_below else f": {report['error']}"
    return f"{report['outcome']}, {report['queried']} confirmed by a job{error}"


def _open(request: Request) -> str:
    at = now_or_here()
    if is_seen_to(request, at=at):
        return f"still open: {reason_for(request, at=at)}"
    return f"still open: {next(health.problems(), 'is a worker running?')}"


def _exit_code(reports: list[dict[str, Any]], *, plan: bool) -> int:
    if any(report["outcome"] not in ("in_sync", "reconciled") for report in reports):
        return FAILED
    if plan and any(report["changes"] for report in reports):
        return DRIFT
    return 0
