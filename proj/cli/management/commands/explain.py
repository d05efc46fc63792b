"""manage.py explain: all that is known about one instance, and why."""

from argparse import ArgumentParser
from typing import Any

from django.forms.models import model_to_dict

from proj.cli.base import PlainCommand
from proj.cli.output import print_json, print_table, refuse
from proj.inventory.models import Instance, Query

HISTORY = 20


class Command(PlainCommand):
    """Say what is recorded about an instance, what was asked and which rules fired."""

    help = "Explain one instance: recorded state, queries, rules and history."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("instance", metavar="CLUSTER/NAME")
        parser.add_argument("--json", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        cluster, slash, name = options["instance"].partition("/")
        if not slash:
            refuse(f"{options['instance']}: write CLUSTER/NAME")
        found = Instance.objects.filter(cluster__name=cluster, name=name).first()
        if found is None:
            refuse(f"no instance {options['instance']}: see manage.py instances")
        explained = _explained(found)
        if options["json"]:
            print_json(explained)
            return
        for field, value in explained["recorded"].items():
            if value not in (None, ""):
                print(f"{field}: {value}")
        print_table(
            explained["queries"], ("at", "job_id", "state", "rule", "backend_status", "error")
        )
        print_table(explained["history"], ("at", "field", "from", "to", "rule", "source", "job_id"))


def _explained(instance: Instance) -> dict[str, Any]:
    queries = Query.objects.filter(cluster=instance.cluster, instance=instance.name)
    recorded = model_to_dict(instance, exclude=["id", "cluster", "name", "version"])
    return {
        "instance": str(instance),
        "recorded": recorded | {"task_state": instance.task_state},
        "queries": [
            {
                "at": query.submitted_at,
                "job_id": query.job_id,
                "state": query.state,
                "rule": query.rule,
                "backend_status": (query.answer or {}).get("backend_status"),
                "error": query.error,
            }
            for query in queries.order_by("-id")[:HISTORY]
        ],
        "history": [
            {
                "at": change.at,
                "field": change.field,
                "from": change.before,
                "to": change.after,
                "backend_status": change.backend_status,
                "rule": change.rule,
                "source": change.source,
                "job_id": change.job_id,
                "folded": change.folded,
            }
            for change in instance.transitions.all()[:HISTORY]
        ],
    }
