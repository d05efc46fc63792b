"""Two writers on one instance, and where a writer may die."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction

from proj.ganeti.states import STATUS_OF_WORD
from proj.inventory.models import Cluster, Instance, Job, Question, Transition
from proj.observation import Configuration, Interval, Observation, Status
from proj.reconcile.decide import Action, Answer, QueueRead
from proj.reconcile.record import Item, record
from proj.reconcile.settings import Tuning
from tests.reconcile.conftest import Stage, make_stage
from tests.world.engine import plain_policy

pytestmark = pytest.mark.django_db(transaction=True)

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
UUID = "00000001-0000-4000-8000-000000000001"
STEPS = 4
BLOCKED = 0.05
"""Seconds after which a writer that was let go is taken to wait for the other's row lock."""


def moment(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def evidence(begin: float, word: str) -> Item:
    """Return what a job tells that was asked at a second."""
    seen = Observation(
        "vm1", STATUS_OF_WORD[word], word, Configuration(),
        Interval(moment(begin), moment(begin + 1)), 7, UUID,
    )  # fmt: skip
    return Item(Answer(seen), UUID, "vm1", "job", 7)


def add_row(cluster: Cluster, **values: Any) -> Instance:
    """Record an instance of which a node was offline at noon."""
    made = {
        "cluster": cluster, "name": "vm1", "uuid": UUID, "status": "UNKNOWN",
        "backend_status": "ERROR_nodeoffline", "created_at": NOON,
        "observed_not_before": NOON, "observed_not_after": NOON,
    }  # fmt: skip
    return Instance.objects.create(**(made | values))


class Writer:
    """Records one piece of evidence, one database statement at a time."""

    def __init__(self, cluster: Cluster, item: Item) -> None:
        self._cluster, self._item = cluster, item
        self._go, self._waits = threading.Semaphore(0), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.error: BaseException | None = None
        self._thread.start()

    def step(self) -> None:
        """Let the writer go on to its next statement, or until it waits for the other."""
        self._waits.clear()
        self._go.release()
        self._waits.wait(BLOCKED)

    def let_go(self) -> None:
        """Let the writer run on by itself."""
        for _ in range(1000):
            self._go.release()

    def join(self) -> None:
        """Wait for the writer's end."""
        self._thread.join(10)
        assert not self._thread.is_alive()
        assert self.error is None, self.error

    def _run(self) -> None:
        try:
            with connection.execute_wrapper(self._pause):
                try:
                    self._write()
                except IntegrityError:
                    # The other has just adopted it: it is asked about again.
                    self._write()
        except BaseException as error:
            self.error = error
        finally:
            self._waits.set()
            connection.close()

    def _write(self) -> None:
        with transaction.atomic():
            record(self._cluster, [self._item], plain_policy(), Tuning(), now=lambda: moment(60))

    def _pause(self, execute: Callable[..., Any], *statement: Any) -> Any:
        self._waits.set()
        self._go.acquire()
        return execute(*statement)


ORDERS = [
    "".join("A" if step in chosen else "B" for step in range(2 * STEPS))
    for chosen in combinations(range(2 * STEPS), STEPS)
]


@pytest.mark.parametrize("is_known", [True, False])
def test_in_every_order_the_newer_observation_wins_and_the_trail_has_no_gap(
    is_known: bool,
) -> None:
    if connection.vendor == "sqlite":
        pytest.skip("SQLite lets one writer in at a time: there is no order to step through")
    for order in ORDERS:
        cluster = make_stage(name=f"c{order}").engine.cluster
        if is_known:
            add_row(cluster)
        writers = {
            "A": Writer(cluster, evidence(10, "running")),
            "B": Writer(cluster, evidence(20, "ERROR_down")),
        }
        for letter in order:
            writers[letter].step()
        for writer in writers.values():
            writer.let_go()
        for writer in writers.values():
            writer.join()
        row = Instance.objects.get(cluster=cluster)
        assert (row.status, row.backend_status) == ("STOPPED", "ERROR_down"), order
        assert row.observed_not_before == moment(20), order
        trail = Transition.objects.filter(instance=row, field="status").order_by("id")
        states = [(change.before, change.after) for change in trail]
        first = "UNKNOWN" if is_known else None
        assert states in (
            [(first, "STOPPED")],
            [(first, "ACTIVE"), ("ACTIVE", "STOPPED")],
        ), order
        cluster.delete()


@contextmanager
def before_the_rows_are_read(happens: Callable[[], None]) -> Iterator[None]:
    """Let something be written while a writer waits for the locks of instances."""
    waiting = [happens]

    def overtake(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
        is_read = sql.startswith("SELECT") and 'FROM "inventory_instance"' in sql
        if waiting and is_read and connection.in_atomic_block:
            waiting.pop()()
        return execute(sql, *rest)

    with connection.execute_wrapper(overtake):
        yield
    assert not waiting, "no row was read"


def test_evidence_that_waited_for_the_row_while_newer_was_written_overwrites_nothing(
    ten: Stage,
) -> None:
    ten.ask("vm3")
    ten.engine.ask()
    ten.clock.wait(1)
    ten.engine.take(ten.engine.messages.pop())
    answered = Question.objects.exclude(answer=None).get(name="vm3")

    def record_a_crash() -> None:
        ten.clock.wait(30)
        begun = ten.clock()
        seen = Observation(
            "vm3", Status.STOPPED, "ERROR_down", Configuration(),
            Interval(begun, ten.clock()), 99, ten.row("vm3").uuid,
        )  # fmt: skip
        engine = ten.engine
        item = Item(Answer(seen), seen.uuid, "vm3", "job", 99)
        record(engine.cluster, [item], engine.policy, engine.tuning, now=ten.clock)

    with before_the_rows_are_read(record_a_crash):
        ten.engine.settle(answered.pk)
    assert ten.recorded()["vm3"] == "STOPPED ERROR_down"


def test_one_that_is_told_of_twice_at_once_is_recorded_once(empty: Stage) -> None:
    cluster = empty.engine.cluster
    with transaction.atomic():
        items = [evidence(10, "running"), evidence(20, "ERROR_down")]
        record(cluster, items, plain_policy(), Tuning(), now=lambda: moment(60))
    assert Instance.objects.get().uuid == UUID


def test_of_two_that_tell_of_one_at_once_the_second_is_asked_again(empty: Stage) -> None:
    row = add_row(empty.engine.cluster)
    with transaction.atomic():
        items = [evidence(10, "running"), evidence(20, "ERROR_down")]
        settled = record(
            empty.engine.cluster, items, plain_policy(), Tuning(), now=lambda: moment(60)
        )
    assert [it.decision.action for it in settled] == [Action.RECORD, Action.ASK]
    trail = Transition.objects.filter(instance=row, field="status")
    assert [(it.before, it.after) for it in trail] == [("UNKNOWN", "ACTIVE")]


def test_one_whose_name_is_a_path_is_not_recorded_whoever_tells_of_it(empty: Stage) -> None:
    seen = replace(evidence(10, "running").seen.seen, instance="../vm1")  # type: ignore[union-attr]
    item = Item(Answer(seen), UUID, "../vm1", "job", 7)
    with transaction.atomic():
        record(empty.engine.cluster, [item], plain_policy(), Tuning(), now=lambda: moment(60))
    assert not Instance.objects.exists()


def test_a_reading_that_is_older_than_the_recorded_does_not_make_it_older(empty: Stage) -> None:
    cluster = empty.engine.cluster
    row = add_row(cluster, observed_not_before=moment(12), observed_not_after=moment(13))
    Job.objects.create(
        cluster=cluster, job_id=1, state="running", work=[["vm1", "REBOOT", "REBOOT"]],
        names=["vm1"], seen_first=moment(11), seen_last=moment(10), running_since=moment(11),
    )  # fmt: skip
    item = Item(QueueRead(Interval(moment(10), moment(11))), UUID, "vm1", "queue")
    with transaction.atomic():
        record(cluster, [item], plain_policy(), Tuning(), now=lambda: moment(15))
    row.refresh_from_db()
    assert row.status == "REBOOT"
    assert (row.observed_not_before, row.observed_not_after) == (moment(12), moment(13))


GUARDED = ("inventory_instance", "inventory_transition")
"""Tables of which every write must be in one transaction with what caused it."""


def test_no_turn_writes_an_instance_or_its_history_outside_of_a_transaction(ten: Stage) -> None:
    outside = []

    def notice(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
        is_write = sql.startswith(("INSERT", "UPDATE", "DELETE"))
        table = sql.split('"')[1] if is_write and '"' in sql else ""
        if table in GUARDED and not connection.in_atomic_block:
            outside.append(sql)
        return execute(sql, *rest)

    with connection.execute_wrapper(notice):
        ten.world.crash("vm3")
        ten.world.wrong_node("vm4")
        ten.world.remove("vm5")
        ten.world.rename("vm6", "shop")
        ten.world.create("new")
        ten.world.begin_create("made", seconds=5)
        ten.world.begin("REBOOT", "vm7", seconds=5)
        ten.engine.announce("vm8", "REBOOT")
        ten.world.others_ask()
        ten.go_on(60)
        ten.run("all")
        ten.go_on(60)
    assert ten.trail("vm5")[-1][1] == "DELETED"
    assert not outside
