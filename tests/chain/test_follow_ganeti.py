"""What others do on a real Ganeti is followed by its job queue, with the look switched off."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from proj.inventory.models import Cluster, Instance, Query, Transition
from tests.commands import add_cluster, manage
from tests.environment import until
from tests.fixtures.lab import Lab
from tests.fixtures.workers import WORKERS, Processes

pytestmark = [pytest.mark.ganeti, pytest.mark.django_db(transaction=True)]

WITHIN = 3.0
"""Seconds after a job's end in which its instance must be recorded right."""


@pytest.fixture
def following(lab: Lab, transactional_db: None, processes: Processes) -> Iterator[Lab]:
    """Every instance recorded, no further look, the queue followed by worker and beat."""
    processes.start(*WORKERS, LOOK_PERIOD="86400", LOOK_PERIOD_MIN="86400")
    assert add_cluster(lab.access).code == 0
    assert manage("reconcile", "--all").code == 0
    processes.start("beat")
    until(lambda: Cluster.objects.get().feed_after is not None, "the queue is followed")
    asked = Query.objects.count()
    yield lab
    assert asked <= Query.objects.count()


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
                found.add((row.status, row.task_state))
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
    queries = Query.objects.exclude(submitted_at=None).count()
    for number in (3, 4, 5):
        following.crash(number)
    try:
        following.gnt("gnt-instance", "info", "-s", third)
        following.gnt("gnt-instance", "info", one)
        ends_as(one, "STOPPED", "ERROR_down")
        assert recorded(other) == recorded(third) == ("ACTIVE", "running")
        following.gnt("gnt-instance", "info", "--all")
        ends_as(other, "STOPPED", "ERROR_down")
        assert Query.objects.exclude(submitted_at=None).count() == queries
        changes = Transition.objects.filter(field="status", after="STOPPED")
        assert {(change.rule, change.source) for change in changes} == {("job-convicts", "follow")}
        assert Instance.objects.exclude(confirmed_at=None).count() == 20
    finally:
        for number in (3, 4, 5):
            following.gnt("gnt-instance", "start", following.name(number))


def test_reboot_stop_and_start_show_while_they_run_and_are_right_soon_after(
    following: Lab,
) -> None:
    name = following.name(6)
    slow = ("sh", "-c", f"gnt-debug delay --no-master -n {following.node_name(6)} 4 & sleep 1; ")

    def do(action: str) -> set[tuple[str, str]]:
        command = f"{slow[2]} gnt-instance {action} {name}; wait"
        return seen_while(lambda: following.on(1, "sh", "-c", command), name)

    assert ("REBOOT", "REBOOT") in do("reboot")
    ends_as(name, "ACTIVE", "running")
    assert ("ACTIVE", "SHUTDOWN") in do("stop")
    ends_as(name, "STOPPED", "ADMIN_down")
    assert ("STOPPED", "STARTUP") in do("start")
    ends_as(name, "ACTIVE", "running")


def test_an_instance_is_a_build_while_it_is_made_and_deleted_after_its_removal(
    following: Lab,
) -> None:
    name = "vm900.lab1.example"
    node = following.node_name(6)
    command = (
        f"gnt-debug delay --no-master -n {node} 4 & sleep 1;"
        f" gnt-instance add -t diskless -o noop -B memory=4,vcpus=1 --no-ip-check"
        f" --no-name-check --no-install --no-start --no-nics -n {node} {name}; wait"
    )
    shown = seen_while(lambda: following.on(1, "sh", "-c", command), name)
    assert ("BUILD", "CREATE") in shown
    ends_as(name, "STOPPED", "ADMIN_down")
    following.gnt("gnt-instance", "remove", "-f", name)
    ends_as(name, "DELETED", "")


def test_of_fifty_requests_at_once_at_most_two_jobs_reach_ganeti(following: Lab) -> None:
    from tasks.requery import requery

    name = following.name(7)
    newest = Cluster.objects.get().feed_after or 0
    with ThreadPoolExecutor(10) as pool:
        for done in [
            pool.submit(requery.delay, cluster=following.access["name"], instance=name)
            for _ in range(50)
        ]:
            done.result()
    until(
        lambda: (
            Query.objects.filter(instance=name, state="done", job_id__gt=newest).exists()
            and not Query.objects.filter(state__in=Query.UNFINISHED).exists()
        ),
        "the requests are answered",
    )
    jobs = following.gnt("gnt-job", "list", "--no-headers", "-o", "id,summary").splitlines()
    ours = [job for job in jobs if int(job.split()[0]) > newest and "QUERY_DATA" in job]
    assert 1 <= len(ours) <= 2
