"""manage.py approve: let a held pass through, if the world has not moved."""

from argparse import ArgumentParser
from typing import Any

from proj.cli.base import PlainCommand
from proj.cli.output import print_json, refuse
from proj.cli.waiting import FAILED, wait_for
from proj.clock import now
from proj.inventory.models import Pass
from proj.reconcile import passes
from tasks.query import query_cluster


class Command(PlainCommand):
    """Look again; where the same instances go the same way, let them."""

    help = "Approve a held pass. Refused when the cluster shows something else by now."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("pass_id", type=int, metavar="PASS")
        parser.add_argument("--timeout", type=float, default=600.0, metavar="S")
        parser.add_argument("--json", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        held = Pass.objects.filter(pk=options["pass_id"]).select_related("cluster").first()
        if held is None:
            refuse(f"no pass {options['pass_id']}")
        if held.outcome != Pass.Outcome.HELD:
            refuse(f"pass {held.pk} is not held: it is {held.outcome or held.state}")
        kind = Pass.Kind(held.kind)
        again = passes.request(held.cluster, kind=kind, at=now(), approved=held.fingerprint)
        query_cluster.delay(cluster=held.cluster.name)
        (report,) = (passes.describe(it) for it in wait_for([again], options["timeout"]))
        if options["json"]:
            print_json({"passes": [report]})
        elif report["outcome"] == Pass.Outcome.HELD:
            print(f"{held.cluster.name}: the world has moved: {report['error']}")
        else:
            print(f"{held.cluster.name}: {report['outcome'] or report['state']} {report['error']}")
        if report["outcome"] not in (Pass.Outcome.IN_SYNC, Pass.Outcome.RECONCILED):
            raise SystemExit(FAILED)
