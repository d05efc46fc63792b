"""How many reconcile tasks a worker does in a second, beside tasks that do nothing."""

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


def reconcile_tasks(folder: Path) -> list[Figure]:
    """Let one worker of the Procfile reconcile 1,000 answers, and do nothing 1,000 times."""
    processes = Processes()
    with fleet(folder, clusters=1, instances=COUNT) as (cluster,):
        try:
            processes.start("reconcile")
            empty = seconds(lambda: do_nothing(COUNT))
            ours = seconds(lambda: reconcile(cluster))
            empty = min(empty, seconds(lambda: do_nothing(COUNT)))
        finally:
            processes.end()
    print(f"{COUNT} tasks: empty {empty}, reconcile {ours}")
    return [
        Figure(
            "reconcile tasks a second, PostgreSQL", empty / ours,
            "empty tasks a second, same worker", "x", 0.4, 0.7, more_is_better=True,
        )
    ]  # fmt: skip


def do_nothing(count: int) -> None:
    """Send tasks whose query does not exist by a name that the worker knows: it returns."""
    for number in range(count):
        app.send_task("celery.accumulate", args=(number,), queue="reconcile")
    until(is_idle, "the worker is idle", 120)


def reconcile(cluster: Cluster) -> None:
    """Have a worker reconcile an answer for each instance: every one stopped."""
    at = now()
    pass_of = Pass.objects.create(
        cluster=cluster, kind=Pass.Kind.REQUERY, state="open", requested_at=at, started_at=at
    )
    answers = [
        Observation(
            row.name, Status.STOPPED, "ERROR_down", Configuration(), Evidence.JOB,
            Interval(at, now()), 1,
        )
        for row in Instance.objects.filter(cluster=cluster)
    ]  # fmt: skip
    for query in passes.answer(pass_of, answers, at=now()):
        reconcile_instance.delay(cluster=cluster.name, instance=query.instance, query=query.pk)
    left = Query.objects.filter(state__in=Query.UNFINISHED)
    until(lambda: not left.exists(), "all is reconciled", 120)
    assert Instance.objects.filter(status="STOPPED").count() == COUNT


def is_idle() -> bool:
    """Whether no message waits and none is being worked on."""
    from proj.clock import server

    return not (server().llen("reconcile") or server().zcard("unacked_index"))
