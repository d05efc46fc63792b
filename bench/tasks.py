"""How many reconcile tasks a worker does in a second, beside tasks that do nothing."""

import statistics
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.figures import Figure, seconds
from bench.fleet import fleet, stop
from proj.celery import app
from proj.clock import now, server
from proj.inventory.models import Cluster, Instance, Question, Transition
from proj.observation import Configuration, Interval, Observation, Status
from tests.environment import until
from tests.fixtures.workers import Processes

COUNT = 1_000
ROUNDS = 6
AT_ONCE = 10
"""Messages that one step of a chain sends, in one exchange with Redis: one for each answer."""


def reconcile_tasks(folder: Path) -> list[Figure]:
    """Let one worker of the Procfile reconcile 1,000 answers, and do nothing 1,000 times."""
    processes = Processes()
    ours, empty = [], []
    with fleet(folder, clusters=1, instances=COUNT) as (cluster,):
        try:
            processes.start("reconcile")
            do_nothing()
            for _ in range(ROUNDS):
                answers = answer_all(cluster)
                before = Transition.objects.count()
                ours.append(seconds(lambda it=answers: reconcile(cluster, it)))
                assert Instance.objects.filter(status=Status.ACTIVE).count() == COUNT
                assert Transition.objects.count() >= before + COUNT
                empty.append(seconds(do_nothing))
        finally:
            processes.end()
    print(f"{COUNT} tasks: empty {empty}, reconcile {ours}")
    return [
        Figure(
            "reconcile tasks a second, PostgreSQL",
            statistics.median(empty) / statistics.median(ours),
            "empty tasks a second, same worker", "x", 0.7, 0.85, more_is_better=True,
        )
    ]  # fmt: skip


def do_nothing(count: int = COUNT) -> None:
    """Have the worker run a task that it knows and that does nothing."""
    _send("celery.accumulate", ({"args": (number,)} for number in range(count)))


def answer_all(cluster: Cluster) -> list[Question]:
    """Keep an answer for every instance, by which its status and its word change."""
    rows = list(Instance.objects.filter(cluster=cluster))
    stop([row.pk for row in rows])
    at = now()
    return Question.objects.bulk_create(_answered(cluster, row, at, now()) for row in rows)


def _answered(cluster: Cluster, row: Instance, begun: datetime, ended: datetime) -> Question:
    seen = Observation(
        row.name, Status.ACTIVE, "running", Configuration(),
        Interval(begun, ended), 1, row.uuid,
    )  # fmt: skip
    return Question(
        cluster=cluster, uuid=row.uuid, name=row.name, priority=1, epoch=cluster.epoch,
        wanted_since=begun, newer_than=begun, token="bench", claimed_at=begun, job_id=1,
        answer=seen.to_json(),
    )  # fmt: skip


def reconcile(cluster: Cluster, answers: Iterable[Question]) -> None:
    """Have the worker reconcile these answers, a task for each."""
    _send(
        "tasks.reconcile.reconcile_instance",
        (
            {"kwargs": {"cluster": cluster.name, "instance": it.name, "question": it.pk}}
            for it in answers
        ),
    )


def _send(task: str, messages: Iterable[dict[str, Any]]) -> None:
    """Send messages as a chain does, and wait until the worker has done them."""
    waiting = list(messages)
    with app.producer_or_acquire() as producer:
        for start in range(0, len(waiting), AT_ONCE):
            with producer.batch():
                for it in waiting[start : start + AT_ONCE]:
                    app.send_task(task, queue="reconcile", producer=producer, **it)
    until(is_idle, "the worker is idle", 120)


def is_idle() -> bool:
    """Whether no message waits and none is being worked on."""
    return not (server().llen("reconcile") or server().zcard("unacked_index"))
