"""What others do on a real Ganeti is followed by its job queue, with the look switched off."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection

from proj.clock import now
from proj.inventory.models import Cluster, Instance, Job, Question, Transition
from proj.reconcile import shown
from tests.environment import until
from tests.fixtures.lab import Lab
from tests.fixtures.workers import Processes
from tests.recorded import is_followed, record_all

pytestmark = [pytest.mark.ganeti, pytest.mark.django_db(transaction=True)]

WITHIN = 3.0
"""Seconds after a job's end in which its instance must be recorded right."""


@pytest.fixture(scope="module")
def workers_environment() -> dict[str, str]:
    """Whatever is found is not found by a look."""
    return {"LOOK_PERIOD": "86400", "LOOK_PERIOD_MIN": "86400", "GONE_AFTER": "2"}


@pytest.fixture
def following(lab: Lab, workers: Processes) -> Lab:
    """Every instance recorded, no further look, the queue followed by worker and beat."""
    record_all(lab.access)
    until(is_followed, "the queue is followed")
    return lab


def task_state(row: Instance) -> str | None:
    return shown.task_states([row], at=now())[row.pk]


def recorded(name: str) -> tuple[str, str]:
    row = Instance.objects.filter(name=name).first()
    return (row.status, row.backend_status) if row else ("", "")


def seen_while(work: Callable[[], Any], name: str) -> set[tuple[str, str]]:
    """Return the status and task state that an instance showed while something ran."""
    found = set()
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work)
        while not done.done():
            row = Instance.objects.filter(name=name).first()
            if row is not None:
                found.add((row.status, task_state(row)))
            time.sleep(0.02)
        done.result()
    return found


def ends_as(name: str, status: str, word: str) -> None:
    begun = time.monotonic()
    until(lambda: recorded(name) == (status, word), f"{name} is {status} {word}", WITHIN)
    print(f"{name} {status} after {time.monotonic() - begun:.2f} s")


def test_what_an_administrator_asks_mends_the_database_with_no_query_of_ours(
    following: Lab,
) -> None:
    one, other, third = (following.name(number) for number in (3, 4, 5))
    queries = Cluster.objects.get().asked
    for number in (3, 4, 5):
        following.crash(number)
    try:
        following.gnt("gnt-instance", "info", "-s", third)
        following.gnt("gnt-instance", "info", one)
        ends_as(one, "STOPPED", "ERROR_down")
        assert recorded(other) == recorded(third) == ("ACTIVE", "running")
        following.gnt("gnt-instance", "info", "--all")
        ends_as(other, "STOPPED", "ERROR_down")
        assert Cluster.objects.get().asked == queries
        changes = Transition.objects.filter(field="status", after="STOPPED")
        assert {(change.rule, change.source) for change in changes} == {
            ("job-convicts", "foreign_job")
        }
        assert Instance.objects.exclude(confirmed_at=None).count() == 20
    finally:
        for number in (3, 4, 5):
            following.gnt("gnt-instance", "start", following.name(number))


@pytest.fixture
def slow(following: Lab) -> Iterator[Callable[..., set[tuple[str, str]]]]:
    """A way to run a gnt command on node 2 whose job takes a while, and to watch an instance."""
    daemon = "/run/ganeti/ganeti-noded.pid"
    node = following.node_name(2)
    following.gnt("gnt-cluster", "modify", "--candidate-pool-size=1")
    following.gnt("gnt-node", "modify", "--master-candidate=no", node)

    def run(name: str, *command: str) -> set[tuple[str, str]]:
        following.on(2, "sh", "-c", f"kill -STOP $(cat {daemon})")
        try:
            with ThreadPoolExecutor(1) as pool:
                waked = pool.submit(_wake_when_seen, following, name, daemon)
                shown = seen_while(lambda: following.gnt(*command), name)
                waked.result()
        finally:
            following.on(2, "sh", "-c", f"kill -CONT $(cat {daemon})")
        return shown

    yield run
    following.gnt("gnt-cluster", "modify", "--candidate-pool-size=10")
    following.gnt("gnt-node", "modify", "--master-candidate=yes", node)


def _wake_when_seen(lab: Lab, name: str, daemon: str) -> None:
    """Let the node go on as soon as the database shows that a job works on the instance."""
    try:
        until(
            lambda: any(
                name in job.names for job in Job.objects.filter(is_query=False, state="running")
            ),
            f"the job on {name} is shown", 20,
        )  # fmt: skip
    finally:
        connection.close()
        lab.on(2, "sh", "-c", f"kill -CONT $(cat {daemon})")


def test_reboot_stop_and_start_show_while_they_run_and_are_right_soon_after(
    following: Lab, slow: Callable[..., set[tuple[str, str]]]
) -> None:
    name = following.name(6)
    assert ("HARD_REBOOT", "REBOOT") in slow(name, "gnt-instance", "reboot", name)
    ends_as(name, "ACTIVE", "running")
    assert ("ACTIVE", "SHUTDOWN") in slow(name, "gnt-instance", "stop", name)
    ends_as(name, "STOPPED", "ADMIN_down")
    assert ("STOPPED", "STARTUP") in slow(name, "gnt-instance", "start", name)
    ends_as(name, "ACTIVE", "running")


def test_an_instance_is_a_build_while_it_is_made_and_deleted_after_its_removal(
    following: Lab, slow: Callable[..., set[tuple[str, str]]]
) -> None:
    name = "vm900.lab1.example"
    shown = slow(
        name, "gnt-instance", "add", "-t", "diskless", "-o", "noop", "-B", "memory=4,vcpus=1",
        *following.unchecked, "--no-install", "--no-start", "--no-nics",
        "-n", following.node_name(6), name,
    )  # fmt: skip
    assert ("BUILD", "CREATE") in shown
    ends_as(name, "STOPPED", "ADMIN_down")
    following.gnt("gnt-instance", "remove", "-f", name)

    def is_gone() -> bool:
        # Two lists prove it, and none is due here but the second, soon after the first.
        far = now() + timedelta(minutes=1)
        Cluster.objects.filter(look_token="", next_look_at__gt=far).update(next_look_at=None)
        return recorded(name) == ("DELETED", "")

    until(is_gone, f"{name} is gone", 60)


def test_of_fifty_requests_at_once_at_most_two_jobs_reach_ganeti(following: Lab) -> None:
    from tasks.requery import requery

    name = following.name(7)
    newest = max(int(job) for job in jobs_of(following, "id"))
    with ThreadPoolExecutor(10) as pool:
        for done in [
            pool.submit(requery.delay, cluster=following.access["name"], instance=name)
            for _ in range(50)
        ]:
            done.result()
    until(
        lambda: (
            any(
                int(job.split()[0]) > newest and "QUERY_DATA" in job
                for job in jobs_of(following, "id,summary")
            )
            and not Question.objects.exists()
        ),
        "the requests are answered",
    )
    jobs = jobs_of(following, "id,summary")
    ours = [job for job in jobs if int(job.split()[0]) > newest and "QUERY_DATA" in job]
    assert 1 <= len(ours) <= 2


def jobs_of(lab: Lab, fields: str) -> list[str]:
    """Return Ganeti's own list of its jobs."""
    return lab.gnt("gnt-job", "list", "--no-headers", "-o", fields).splitlines()
