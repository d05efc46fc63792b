"""On a real Ganeti, with real workers: what broke the first engine, and what it costs now.

Periods are short, so that bounds are: PROOF_WITHIN is 10 s and a look is due every 3 s.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ganeti.rapi.client import GanetiRapiClient, GenericCurlConfig

from proj.clock import now
from proj.inventory.models import Cluster, Instance, Job, Question, Request, Transition
from proj.reconcile import requests, shown
from proj.wiring import tuning
from tasks.query import reconcile_now
from tasks.requery import requery
from tests.commands import command
from tests.environment import until
from tests.fixtures.lab import Lab
from tests.fixtures.workers import Processes
from tests.recorded import is_followed, record_all

pytestmark = [pytest.mark.ganeti, pytest.mark.django_db(transaction=True)]

LOOK, PROOF, GONE = 3.0, 10.0, 2.0
JOB = 4.0
"""Seconds in which a query job comes to its end on a slow machine, and is settled."""
TWO_LOOKS = 2 * LOOK
WORKING = ("ganeti", "on_demand", "reconcile")
SEATS = 3
UNENDED = ("queued", "waiting", "canceling", "running")
"""Ganeti's words for a job that holds a seat."""


@pytest.fixture(scope="module")
def workers_environment() -> dict[str, str]:
    """Short periods, and so short bounds."""
    return {
        "LOOK_PERIOD": f"{LOOK:g}",
        "LOOK_PERIOD_MIN": f"{LOOK:g}",
        "PROOF_WITHIN": f"{PROOF:g}",
        "GONE_AFTER": f"{GONE:g}",
    }


@pytest.fixture
def known(lab: Lab, workers: Processes) -> Iterator[Lab]:
    """The lab, every instance of it recorded; at rest again when the test is over."""
    record_all(lab.access)
    until(is_followed, "it is looked at and followed")
    yield lab
    until(lambda: not Question.objects.exists(), "no question is left", 2 * PROOF)
    until(lambda: not Instance.objects.filter(differs_since__isnull=False), "nothing differs")


def row_of(name: str) -> Instance:
    """Return the living row of this name."""
    return Instance.objects.select_related("cluster").exclude(status="DELETED").get(name=name)


def recorded(name: str) -> str:
    """Return the status and Ganeti's word of the living row of this name, if there is one."""
    living = Instance.objects.filter(name=name).exclude(status="DELETED").first()
    return f"{living.status} {living.backend_status}".strip() if living else ""


def task_state(name: str) -> str | None:
    """Return the operation that is shown to be under way."""
    row = row_of(name)
    return shown.task_states([row], at=now())[row.pk]


def becomes(name: str, state: str, within: float) -> float:
    """Wait until this is recorded of an instance; return the seconds that it took."""
    begun = time.monotonic()
    until(lambda: recorded(name) == state, f"{name} is {state}", within)
    took = time.monotonic() - begun
    print(f"{name} is {state} after {took:.1f} s")
    return took


def ask(name: str = "") -> Request:
    """Wish one instance to be confirmed, or all."""
    cluster = Cluster.objects.get()
    if name:
        wished = requests.request_instance(cluster, name, tuning=tuning(), at=now())
    else:
        kind = Request.Kind.SWEEP
        wished = requests.request_cluster(cluster, kind=kind, tuning=tuning(), at=now())
    reconcile_now(cluster, whole=not name, plan=False)
    return wished


def closed(wished: Request, within: float = PROOF + TWO_LOOKS + JOB) -> Request:
    """Wait until a request has ended, and return it."""
    until(lambda: Request.objects.filter(pk=wished.pk, state="closed"), "it has ended", within)
    return Request.objects.get(pk=wished.pk)


def client(lab: Lab) -> GanetiRapiClient:
    """Return the official client of a user who may write."""
    return GanetiRapiClient(
        lab.access["host"],
        username=lab.access["write_user"],
        password=Path(lab.access["write_password_file"]).read_text(),
        curl_config_fn=GenericCurlConfig(connect_timeout=5, timeout=30, proxy=""),
    )


def ours(lab: Lab, *, after: int = 0) -> list[tuple[int, str, str]]:
    """Return id, status and instance of our jobs in Ganeti's own queue, by their label."""
    listed = client(lab).Query("job", ["id", "status", "ops"], [">", "id", after])["data"]
    rows: list[tuple[int, str, Any]] = [(row[0][1], row[1][1], row[2][1][0]) for row in listed]
    return [
        (number, status, op["instances"][0])
        for number, status, op in rows
        if any(str(text).startswith("rate-limit:") for _, text, _ in op.get("reason", ()))
    ]


def newest(lab: Lab) -> int:
    """Return the highest id in Ganeti's queue."""
    return max(int(row["id"]) for row in client(lab).GetJobs(bulk=True))


@contextmanager
def locked(lab: Lab, node: int, seconds: int = 120) -> Iterator[int]:
    """Lock a node by a job that names no instance, for as long as the block lasts at most."""
    job = lab.lock(node, seconds)
    try:
        yield job
    finally:
        lab.purge(job)


@pytest.fixture
def instance(lab: Lab) -> Iterator[Callable[..., str]]:
    """A way to add instances that are removed again after the test, whatever their names."""
    made: list[str] = []

    def add(name: str, *names_it_may_get: str) -> str:
        lab.add(name)
        made.extend((name, *names_it_may_get))
        return name

    yield add
    left = lab.gnt("gnt-instance", "list", "--no-headers", "-o", "name").split()
    for name in dict.fromkeys(made):
        if name in left:
            lab.remove(name)


def status_of(lab: Lab, job: int) -> str:
    """Return the status of a job in Ganeti's own queue."""
    return lab.gnt("gnt-job", "list", "--no-headers", "-o", "status", str(job)).strip()


def test_a_crash_after_a_failover_and_a_reboot_that_nobody_saw_is_recorded(
    known: Lab, workers: Processes
) -> None:
    number = 3
    name = known.name(number)
    lock = known.lock(known.node_of(number), 120)
    failover = known.failover(number, wait=False)
    try:
        until(lambda: task_state(name) == "FAILOVER", "the failover is shown")
        with workers.paused(*WORKING):
            known.purge(lock)
            until(lambda: status_of(known, failover) == "success", "the failover has ended")
            known.reboot(number)
            known.crash(number)
            assert (recorded(name), task_state(name)) == ("ACTIVE running", "FAILOVER")
            # By message: a worker that stands still may hold a lock of the database.
            requery.delay(cluster=known.access["name"], instance=name)
        ask(name)
        ask()
        becomes(name, "STOPPED ERROR_down", TWO_LOOKS + JOB)
        crash = Transition.objects.get(instance=row_of(name), field="status", after="STOPPED")
        until(lambda: task_state(name) == "", "nothing is under way")
        until(lambda: not Request.objects.filter(state="open"), "all requests have ended")
        wishes = list(Request.objects.all())
        assert {it.kind for it in wishes} == {Request.Kind.INSTANCE, Request.Kind.SWEEP}
        for wished in wishes:
            assert wished.outcome in ("in_sync", "reconciled"), wished.error
            assert wished.last_transition is not None
            assert wished.last_transition >= crash.pk, "it was answered before it was true"
    finally:
        known.purge(lock)
        known.gnt("gnt-instance", "start", name)
        known.failover(number)
    becomes(name, "ACTIVE running", TWO_LOOKS + JOB)


def test_what_waits_for_a_lock_takes_no_more_seats_than_there_are_and_delays_no_other(
    known: Lab,
) -> None:
    before = newest(known)
    behind = [known.name(number) for number in (2, 4, 6)]
    others = [known.name(number) for number in range(1, 20, 2)]
    with locked(known, 2):
        stuck = [ask(name) for name in behind]
        until(lambda: len(open_ones(known, before)) == SEATS - 1, "all seats but one are stuck")
        free = [ask(name) for name in others]

        def are_confirmed() -> bool:
            assert len(open_ones(known, before)) <= SEATS, ours(known, after=before)
            mine = Request.objects.filter(pk__in=[it.pk for it in free])
            return not mine.filter(state="open").exists()

        until(are_confirmed, "the others are confirmed", len(others) * JOB)
        assert {closed(wished).outcome for wished in free} == {"in_sync"}
        asked = {name for _, status, name in ours(known, after=before) if status == "success"}
        assert asked
        assert asked <= set(others)
        left = {name for _, status, name in ours(known, after=before) if status in UNENDED}
        assert len(left & set(behind)) == SEATS - 1, "they were stuck all the while"
        checked = command("cluster", "check", str(known.access["name"]))
        assert "`write`" in checked.out
    for wished in stuck:
        assert closed(wished).outcome in ("in_sync", "failed")
    for name in behind:
        assert recorded(name) == "ACTIVE running"


def open_ones(lab: Lab, after: int) -> list[int]:
    """Return our jobs that have not ended, of Ganeti's own queue."""
    return [number for number, status, _ in ours(lab, after=after) if status in UNENDED]


def test_an_instance_whose_name_begins_anothers_is_gone_in_the_usual_time(
    known: Lab, instance: Callable[..., str]
) -> None:
    web, longer = instance("web"), instance("web.example.org")
    for name in (web, longer):
        becomes(name, "STOPPED ADMIN_down", TWO_LOOKS + PROOF)
    row, before = row_of(web), newest(known)
    known.remove(web)
    begun = time.monotonic()
    until(
        lambda: Instance.objects.get(pk=row.pk).status == "DELETED",
        "web is gone", GONE + TWO_LOOKS + JOB,
    )  # fmt: skip
    print(f"gone after {time.monotonic() - begun:.1f} s")
    until(lambda: not Question.objects.exists(), "no question is left")
    assert recorded(longer) == "STOPPED ADMIN_down"
    assert recorded(web) == ""
    asked = [name for _, _, name in ours(known, after=before)]
    assert len(asked) <= 5, asked


def test_a_renamed_instance_keeps_its_id_and_one_made_anew_is_another(
    known: Lab, instance: Callable[..., str]
) -> None:
    name, new = instance("vm.example.org", "shop.example.org"), "shop.example.org"
    third = instance("vm3.example.org")
    for each in (name, third):
        becomes(each, "STOPPED ADMIN_down", TWO_LOOKS + PROOF)
    before, first = row_of(name), row_of(third)
    known.rename(name, new)
    becomes(new, "STOPPED ADMIN_down", TWO_LOOKS + PROOF)
    known.remove(third)
    known.add(third)
    until(
        lambda: (
            [row.status for row in Instance.objects.filter(name=third).order_by("pk")]
            == ["DELETED", "STOPPED"]
        ),
        "the first is gone and the second is there", GONE + 2 * TWO_LOOKS + PROOF,
    )  # fmt: skip
    after, second = row_of(new), row_of(third)
    assert (after.pk, after.api_id, after.uuid) == (before.pk, before.api_id, before.uuid)
    named = Transition.objects.filter(instance=after, field="name")
    assert [(it.before, it.after) for it in named] == [(name, new)]
    assert not Instance.objects.filter(name=name).exists()
    assert second.uuid != first.uuid
    assert second.api_id != first.api_id


def test_a_crash_behind_the_lock_of_a_node_is_recorded_within_the_bound(known: Lab) -> None:
    number = 4
    name = known.name(number)
    with locked(known, known.node_of(number)):
        known.crash(number)
        took = becomes(name, "STOPPED ERROR_down", PROOF + TWO_LOOKS + JOB)
        assert took > PROOF / 2, "it did not wait for a proof"
        change = Transition.objects.get(instance=row_of(name), field="status", after="STOPPED")
        assert (change.rule, change.source) == ("two-lists-agree", "lists")
    known.gnt("gnt-instance", "start", name)
    becomes(name, "ACTIVE running", TWO_LOOKS + JOB)


def test_a_query_that_waits_for_a_lock_has_read_nothing_and_serves_a_later_wish(known: Lab) -> None:
    number, before = 6, newest(known)
    name = known.name(number)
    with locked(known, known.node_of(number)):
        ask(name)
        until(lambda: open_ones(known, before), "its query is issued")
        known.crash(number)
        later = ask(name)
        noted = Question.objects.filter(name=name, unstarted_at__gte=later.requested_at)
        until(noted.exists, "it is known not to have begun")
    assert closed(later).outcome == "reconciled"
    assert recorded(name) == "STOPPED ERROR_down"
    assert [asked for _, _, asked in ours(known, after=before)] == [name]
    known.gnt("gnt-instance", "start", name)
    becomes(name, "ACTIVE running", TWO_LOOKS + JOB)


def test_what_the_watcher_restarts_is_recorded_as_running_and_left_in_peace(known: Lab) -> None:
    number = 5
    name = known.name(number)
    known.crash(number)
    becomes(name, "STOPPED ERROR_down", TWO_LOOKS + JOB)
    known.watch()
    becomes(name, "ACTIVE running", TWO_LOOKS + JOB)
    until(lambda: not Question.objects.exists(), "no question is left")
    row = row_of(name)
    changes = Transition.objects.filter(instance=row, field="status").order_by("pk")
    assert [it.after for it in changes] == ["ACTIVE", "STOPPED", "ACTIVE"]
    assert (row.flapping_since, row.differs, task_state(name)) == (None, {}, "")


def test_an_open_query_of_somebody_elses_that_is_purged_does_not_stop_the_feed(known: Lab) -> None:
    number = 6
    name = known.name(number)
    with locked(known, known.node_of(number)):
        query = int(client(known).GetInstanceInfo(name))
        mirrored = Job.objects.filter(job_id=query)
        until(lambda: mirrored.exists(), "the query is mirrored")
        known.purge(query)
        until(lambda: not mirrored.exists(), "it is forgotten")
        # A stop does not wait for the node's lock.
        stop = known.job("gnt-instance", "stop", name)
        until(
            lambda: Cluster.objects.get().feed_after >= stop, "the feed has passed both",
            TWO_LOOKS + JOB,
        )  # fmt: skip
    becomes(name, "STOPPED ADMIN_down", TWO_LOOKS + JOB)
    known.gnt("gnt-instance", "start", name)
    becomes(name, "ACTIVE running", TWO_LOOKS + JOB)
