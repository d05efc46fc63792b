"""manage.py instances: one row per instance, as recorded."""

from argparse import ArgumentParser
from datetime import datetime
from typing import Any

from proj.cli.base import PlainCommand
from proj.cli.output import print_json, print_table, refuse
from proj.clock import now_or_here
from proj.inventory.models import Cluster, Instance
from proj.observation import Status
from proj.reconcile import shown


class Command(PlainCommand):
    """Show what the database says."""

    help = "Show every instance: status, Ganeti's word, node, and how old the knowledge is."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--cluster", metavar="NAME")
        parser.add_argument("--status", choices=[status.value for status in Status])
        parser.add_argument("--json", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        found = Instance.objects.select_related("cluster")
        if options["cluster"]:
            if not Cluster.objects.filter(name=options["cluster"]).exists():
                refuse(f"no cluster {options['cluster']}: see manage.py cluster list")
            found = found.filter(cluster__name=options["cluster"])
        if options["status"]:
            found = found.filter(status=options["status"])
        found = found.order_by("cluster__name", "name", "pk")
        at = now_or_here()
        states = shown.task_states(found, at=at)
        rows = [_row(instance, states[instance.pk], at) for instance in found]
        if options["json"]:
            print_json({"instances": rows})
        else:
            print_table(rows, COLUMNS)


COLUMNS = (
    "cluster",
    "name",
    "uuid",
    "status",
    "backend_status",
    "task_state",
    "node",
    "observed_age",
    "confirmed_age",
)


def _row(instance: Instance, task_state: str | None, at: datetime) -> dict[str, Any]:
    """Return one instance; ages are in seconds, null when there was no such reading.

    The task's state is null where the job queue could not be read.
    """
    observed = shown.observed_at(instance)
    confirmed = instance.confirmed_at
    return {
        "cluster": instance.cluster.name,
        "name": instance.name,
        "uuid": instance.uuid,
        "id": str(instance.api_id),
        "status": instance.status,
        "backend_status": instance.backend_status,
        "task_state": task_state,
        "node": instance.nodes[0] if instance.nodes else None,
        "observed_age": round((at - observed).total_seconds(), 1) if observed else None,
        "confirmed_age": round((at - confirmed).total_seconds(), 1) if confirmed else None,
    }
