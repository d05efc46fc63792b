"""manage.py approve: let a mass change through, exactly as it is held; without one, list them."""

from argparse import ArgumentParser
from typing import Any

from proj.cli.base import PlainCommand
from proj.cli.output import print_json, refuse, some_of
from proj.clock import now
from proj.inventory.fleet import held
from proj.inventory.models import Cluster, Hold
from proj.reconcile import holds
from proj.reconcile.brake import Entry
from proj.wiring import tuning
from tasks.query import query_cluster

SHOWN = 20


class Command(PlainCommand):
    """Let exactly what a hold names pass, for an hour, while it still differs."""

    help = "Approve a held mass change by its id. Without an id: list what is held."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("hold_id", type=int, nargs="?", metavar="ID")
        parser.add_argument("--json", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["hold_id"] is None:
            _list(as_json=options["json"])
            return
        hold = Hold.objects.filter(pk=options["hold_id"]).select_related("cluster").first()
        if hold is None:
            refuse(f"no hold {options['hold_id']}: manage.py approve lists what is held")
        try:
            entries = holds.approve(hold, tuning(), at=now())
        except holds.CannotBeApproved as error:
            refuse(str(error))
        query_cluster.delay(cluster=hold.cluster.name)
        if options["json"]:
            print_json({"approved": _described(hold)})
        else:
            print(f"{hold.cluster.name}: {len(entries)} changes may pass: {_names(entries)}")


def _list(*, as_json: bool) -> None:
    waiting = list(held(Cluster.objects.all()))
    if as_json:
        print_json({"holds": [_described(hold) for hold in waiting]})
        return
    for hold in waiting:
        print(f"{hold.pk} {hold.cluster.name}: {hold.reason}: {_names(holds.entries_of(hold))}")
    if not waiting:
        print("nothing is held")


def _names(entries: list[Entry]) -> str:
    return some_of([f"{it.name} {it.before} -> {it.after}" for it in entries], SHOWN)


def _described(hold: Hold) -> dict[str, Any]:
    return {
        "id": hold.pk,
        "cluster": hold.cluster.name,
        "reason": hold.reason,
        "since": hold.since,
        "changes": [
            {"instance": it.name, "from": it.before, "to": it.after}
            for it in holds.entries_of(hold)
        ],
    }
