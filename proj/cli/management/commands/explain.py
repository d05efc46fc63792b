"""manage.py explain: all that is known about one instance, and why."""

from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from django.forms.models import model_to_dict

from proj.cli.base import PlainCommand
from proj.cli.output import print_json, print_table, refuse
from proj.clock import age, now_or_here
from proj.inventory.fleet import held, is_queue_read
from proj.inventory.models import Cluster, Instance, Job, Question
from proj.observation import to_json
from proj.reconcile import holds, rows, shown
from proj.reconcile.decide import NOTHING_KEPT, Memory, Rule
from proj.reconcile.resolve import resolve_to_read
from proj.wiring import tuning

HISTORY = 20
NEVER = "not yet"
TO_THE_SECOND = "%Y-%m-%d %H:%M:%S"
MEANINGS = {
    "backend_status": "Ganeti's word for the status",
    "observed_at": "when a job or a list last showed it as it is recorded",
    "created_at": "when it was first recorded",
    "confirmed_at": "when a query job last told of it",
    "audited_at": "when it last had its turn in the audit, which asks each instance now and then",
    "stale_before": "when a job on it ended: what was read before counts no more",
    "missing_first": "the first list that lacked it",
    "missing_last": "the last list that lacked it",
    "flapping_since": "its status changes so often that most changes are only counted",
    "changes_since": "since when the changes of its status are counted",
    "changes_in_window": "changes of its status since changes_since; too many are flapping",
}
INTERNAL = (
    "id", "cluster", "epoch", "revision", "differs", "differs_since", "observed_not_before",
    "observed_not_after",
)  # fmt: skip


class Command(PlainCommand):
    """Say what is recorded, what lists say, what is asked, and which rules hold."""

    help = "Explain one instance: recorded state, what differs, questions, rules and history."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("instance", metavar="CLUSTER/NAME")
        parser.add_argument("--json", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        cluster, slash, name = options["instance"].partition("/")
        if not slash:
            refuse(f"{options['instance']}: write CLUSTER/NAME")
        row = Cluster.objects.filter(name=cluster).first()
        found = resolve_to_read(row, name) if row is not None else None
        if found is None:
            refuse(f"no instance {options['instance']}: see manage.py instances")
        explained = _explained(found)
        if options["json"]:
            print_json(explained)
            return
        for line in (*_recorded(explained["recorded"]), *explained["why"]):
            print(line)
        history = [it | {"at": f"{it['at']:{TO_THE_SECOND}}"} for it in explained["history"]]
        print_table(history, ("at", "field", "from", "to", "rule", "source", "job_id"))


def _recorded(recorded: dict[str, Any]) -> Iterator[str]:
    """Say what is recorded, and of what is no word of Ganeti's what it means."""
    at = now_or_here()
    for field, value in (recorded | {"observed_at": recorded["observed_at"] or NEVER}).items():
        if value in (None, ""):
            continue
        if isinstance(value, datetime):
            value = f"{value:{TO_THE_SECOND}}, {age(value, at)}"
        meaning = f" ({MEANINGS[field]})" if field in MEANINGS else ""
        yield f"{field}: {value}{meaning}"


def _explained(instance: Instance) -> dict[str, Any]:
    at = now_or_here()
    question, jobs = _question(instance), _jobs(instance, at)
    return {
        "instance": str(instance),
        "recorded": model_to_dict(instance, exclude=INTERNAL) | {
            "task_state": shown.task_states([instance], at=at)[instance.pk],
            "observed_at": shown.observed_at(instance),
        },
        "differs": [
            {"field": field, "value": to_json(it.value), "since": it.since}
            for field, it in _memory(instance, at).differs.items()
        ],
        "jobs": [{"job_id": it.job_id, "state": it.state, "work": it.work} for it in jobs],
        "question": None if question is None else {
            "priority": question.get_priority_display(),
            "wanted_since": question.wanted_since,
            "job_id": question.job_id,
            "attempts": question.attempts,
            "retry_at": question.retry_at,
            "error": question.error,
        },
        "why": [*_why(instance, question, jobs, at)],
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
    }  # fmt: skip


def _memory(instance: Instance, at: datetime) -> Memory:
    """Return what the last lists said; of another epoch it is void."""
    if instance.epoch != instance.cluster.epoch:
        return NOTHING_KEPT
    return rows.memory_of(instance, at=at)


def _question(instance: Instance) -> Question | None:
    mine = Question.objects.filter(cluster=instance.cluster)
    if instance.uuid:
        return mine.filter(uuid=instance.uuid).first()
    return mine.filter(uuid=None, name=instance.name).first()


def _jobs(instance: Instance, at: datetime) -> list[Job]:
    cluster = instance.cluster
    jobs = rows.at_work(rows.open_jobs(cluster), cluster, tuning(), at=at)
    return rows.JobsByInstance(jobs).on(instance)


def _why(
    instance: Instance, question: Question | None, jobs: Sequence[Job], at: datetime
) -> Iterator[str]:
    """Say in sentences what holds now, and by when it will be right."""
    cluster, memory = instance.cluster, _memory(instance, at)
    for field, it in memory.differs.items():
        rule = Rule.LIST_SUSPECTS
        yield f"lists say {field} is {_words(it.value)} since {it.since:%H:%M:%S}: {rule}"
    if memory.missing is not None:
        yield f"lists lack it since {memory.missing[0]:%H:%M:%S}: {Rule.MISSING_ONCE}"
    for job in jobs:
        number = "announced, not seen yet" if job.job_id is None else f"{job.job_id}, {job.state}"
        yield f"{rows.work_on(job, instance)[0]} is under way (job {number}): {Rule.IN_FLIGHT}"
    if question is not None:
        yield _waits(question)
    for hold in held(Cluster.objects.filter(pk=cluster.pk)):
        if rows.key_of(instance) in {entry.key for entry in holds.entries_of(hold)}:
            yield f"held: {hold.reason}; look at it, then: manage.py approve {hold.pk}"
    if cluster.paused:
        yield f"{cluster} is paused: manage.py cluster resume {cluster}"
    elif cluster.is_failing:
        yield f"{cluster} is failing: {cluster.last_error}"
    if not is_queue_read(cluster, at=at):
        yield "the job queue cannot be read: no bound holds (PROOF_WITHIN), task_state is unknown"
    else:
        seconds = tuning().bound.total_seconds()
        yield f"a change is recorded within {seconds:g} s: what no job proves, two lists settle"


def _waits(question: Question) -> str:
    since = f"since {question.wanted_since:%H:%M:%S}"
    failed = f"; the last attempt: {question.error}" if question.error else ""
    if question.job_id is not None:
        return f"asked by job {question.job_id}, wanted {since}{failed}"
    until = f", not before {question.retry_at:%H:%M:%S}" if question.retry_at else ""
    return f"waits to be asked {since}{until}{failed}"


def _words(value: Any) -> str:
    plain = to_json(value)
    return " ".join(map(str, plain)) if isinstance(plain, list) else str(plain)
