"""How many reconcile tasks a worker does in a second, beside tasks that do nothing."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from bench.figures import Figure, seconds
from bench.fleet import fleet
from proj.celery import app
from proj.clock import now
from proj.inventory.models import Cluster, Instance, Pass, Query
from proj.observation import Configuration, Evidence, Interval, Observation, Status
from proj.reconcile import passes
from tasks.reconcile import reconcile_instance
from tests.environment import until
from tests.fixtures.workers import Processes

COUNT = 1_000
ROUNDS = 3
WORDS = {"ERROR_down": Status.STOPPED, "running": Status.ACTIVE}


def reconcile_tasks(folder: Path) -> list[Figure]:
    """Let one worker of the Procfile reconcile 1,000 answers, and do nothing 1,000 times."""
    processes = Processes()
    ours, empty = [], []
    with fleet(folder, clusters=1, instances=COUNT) as (cluster,):
        try:
            processes.start("reconcile")
            do_nothing()
            for _ in range(ROUNDS):
                for word in WORDS:
                    answers = answer_all(cluster, word)
                    ours.append(seconds(lambda it=answers: reconcile(it)))
                    assert Instance.objects.filter(status=WORDS[word]).count() == COUNT
                    empty.append(seconds(do_nothing))
        finally:
            processes.end()
    print(f"{COUNT} tasks: empty {empty}, reconcile {ours}")
    return [
        Figure(
            "reconcile tasks a second, PostgreSQL",
            statistics.median(empty) / statistics.median(ours),
            "empty tasks a second, same worker", "x", 0.4, 0.7, more_is_better=True,
        )
    ]  # fmt: skip


def do_nothing(count: int = COUNT) -> None:
    """Have the worker run a task that it knows and that does nothing."""
    for number in range(count):
        app.send_task("celery.accumulate", args=(number,), queue="reconcile")
    until(is_idle, "the worker is idle", 120)


def answer_all(cluster: Cluster, word: str) -> list[Query]:
    """Keep an answer for every instance, by which its status changes."""
    at = now()
    pass_of = Pass.objects.create(
        cluster=cluster, kind=Pass.Kind.REQUERY, state="open", requested_at=at, started_at=at
    )
    seen = [
        Observation(
            row.name, WORDS[word], word, Configuration(), Evidence.JOB, Interval(at, now()), 1
        )
        for row in Instance.objects.filter(cluster=cluster)
    ]
    return passes.answer(pass_of, seen, at=now())


def reconcile(answers: Sequence[Query]) -> None:
    """Have the worker reconcile these answers."""
    for query in answers:
        reconcile_instance.delay(
            cluster=query.cluster.name, instance=query.instance, query=query.pk
        )
    until(is_idle, "the worker is idle", 120)


def is_idle() -> bool:
    """Whether no message waits and none is being worked on."""
    from proj.clock import server

    return not (server().llen("reconcile") or server().zcard("unacked_index"))
