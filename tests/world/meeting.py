"""Two turns that meet: one stops at any place where it holds no transaction, another goes by.

A ``Meeting`` is a cluster in which every kind of turn has something to do. It is made once, and
each time that two turns are to meet its copy is taken out.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import timedelta
from io import StringIO
from threading import Thread
from typing import Any
from unittest.mock import patch

from django.core.management import CommandError, call_command
from django.db import OperationalError, connection
from django.db.transaction import Atomic

from proj.inventory.models import Cluster, Instance, Question, Request
from proj.reconcile import memo, requests, turns
from proj.reconcile.brake import Limits
from proj.reconcile.decide import Policy
from proj.reconcile.settings import Tuning
from tests.world import databases, invariants
from tests.world.databases import Backup
from tests.world.engine import Engine, ganeti_policy
from tests.world.invariants import Observer
from tests.world.world import NODES, World

PROOF = 6.0
QUICK = Tuning(
    look_period=6.0,
    look_period_min=2.0,
    relook_after=1.0,
    gone_after=2.0,
    proof_within=PROOF,
    question_cap=6.0,
    retry_cap=3.0,
    look_lease=10.0,
    follow_lease=10.0,
    chain_lease=5.0,
    submit_timeout=10.0,
    answer_timeout=5.0,
    query_timeout=20.0,
    limits=Limits(deleted_share=0.0, stopped_share=1.0, at_least=1),
)
"""Everything as by default, in a tenth of the time; two that vanish are held."""

LEASES = 30.0
"""Seconds after which every lease of one that stands still is over."""

NOBODY = (Cluster.DoesNotExist, requests.Removed)
"""What a person is told who wishes something of a cluster that is not there, or no more."""

NAMES = ("web", "db", "vm1", "vm2", "vm3", "vm4", "vm5", "gone1", "gone2")


@dataclass
class Stops:
    """Counts the places where a turn holds no transaction, and lets another go by at one."""

    world: World
    at: int | None = None
    """The place, from 0; None: at none."""
    step_in: Callable[[], object] = lambda: None
    places: list[str] = field(default_factory=list)
    _is_moved: bool = True
    """Something was done since the last place."""
    _is_away: bool = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Take a turn, whose places are counted."""
        enter, leave = Atomic.__enter__, Atomic.__exit__

        def begin(atomic: Atomic) -> None:
            self._reach("before a transaction")
            enter(atomic)

        def end(atomic: Atomic, *error: Any) -> None:
            leave(atomic, *error)
            self._is_moved = True
            if error[0] is None:
                self._reach("after a transaction")

        def execute(run: Callable[..., Any], sql: str, *rest: Any) -> Any:
            if not sql.startswith("BEGIN"):
                self._reach(f"before {sql[:60]}")
            self._is_moved = True
            return run(sql, *rest)

        def answered(method: str) -> None:
            self._is_moved = True
            self._reach(f"after {method}")

        with (
            patch.object(Atomic, "__enter__", begin),
            patch.object(Atomic, "__exit__", end),
            patch.object(self.world, "touch", lambda it: self._reach(f"before {it}")),
            patch.object(self.world, "touched", answered),
            connection.execute_wrapper(execute),
        ):
            yield
            self._reach("the end")

    def _reach(self, place: str) -> None:
        if self._is_away or connection.in_atomic_block or not self._is_moved:
            return
        self._is_moved = False
        self.places.append(place)
        if len(self.places) - 1 == self.at:
            self._is_away = True
            try:
                self.step_in()
            finally:
                self._is_away = False


@dataclass
class Meeting:
    """A cluster in which every kind of turn has something to do."""

    engine: Engine
    observer: Observer = field(init=False)

    def __post_init__(self) -> None:
        self.observer = Observer(self.engine)
        self.observer.forget()

    @property
    def world(self) -> World:
        """The world that the engine works on."""
        return self.engine.world

    # What may happen

    def look(self) -> None:
        self.engine.look()

    def feed(self) -> None:
        self.engine.feed()

    def ask(self) -> None:
        self.engine.ask()

    def step(self) -> None:
        self._deliver("step")

    def settle(self) -> None:
        self._deliver("settle")

    def request_instance(self) -> None:
        with suppress(*NOBODY):
            self.engine.request_instance("vm5")

    def request_sweep(self) -> None:
        with suppress(*NOBODY):
            self.engine.request("sweep")

    def request_all(self) -> None:
        with suppress(*NOBODY):
            self.engine.request("all")

    def approve(self) -> None:
        self.engine.approve()

    def announce(self) -> None:
        with suppress(*NOBODY):
            self.engine.announce("vm5", "REBOOT")

    def housekeeping(self) -> None:
        self.engine.housekeeping()

    def pause(self) -> None:
        Cluster.objects.filter(name=self.engine.name).update(paused=True)

    def remove(self) -> None:
        with suppress(SystemExit, CommandError):
            call_command("cluster", "remove", self.engine.name, stdout=StringIO())

    def _deliver(self, turn: str) -> None:
        for message in [it for it in self.engine.messages if it.turn == turn][:1]:
            self.engine.take(message)

    # What must hold

    def check(self) -> None:
        """I2 and I3: nothing that was written since the last check is false."""
        problems = self.observer.check()
        assert not problems, problems

    def end(self) -> None:
        """Let all go on until it rests: I1, and all that was written on the way is true."""
        self._go_on_again()
        self.world.calm()
        problems = ["nothing was checked"]
        for number in range(20):
            self._round()
            if number > 3 and not problems:
                return
            problems = invariants.diverged(self.engine)
        assert not problems, problems

    def _go_on_again(self) -> None:
        """Resume the cluster, or add it again."""
        mine = Cluster.objects.filter(name=self.engine.name)
        if not mine.exists():
            assert not any(it._default_manager.exists() for it in databases.TABLES[1:])
            self.engine.add_cluster()
        mine.filter(paused=True).update(
            paused=False, next_look_at=None, next_follow_at=None,
            look_until=None, follow_until=None, await_until=None, next_ask_at=None,
        )  # fmt: skip

    def _round(self) -> None:
        self.engine.beat()
        self.engine.approve()
        self.check()
        self.world.clock.wait(3)


class Original:
    """A meeting before anybody met, of which copies are taken out."""

    def __init__(self) -> None:
        databases.clear()
        self._engine = _prepared()
        self._backup = Backup()
        self._remembered = deepcopy(memo._of_clusters)

    def copy(self) -> Meeting:
        """Bring the database, the world and what a process remembers back to the beginning."""
        self._backup.restore(is_told=False)
        memo._of_clusters.clear()
        memo._of_clusters.update(deepcopy(self._remembered))
        return Meeting(deepcopy(self._engine))


def quick_policy() -> Policy:
    """Return the rules for a Ganeti that is proved as quickly as ``QUICK`` asks for."""
    return replace(
        ganeti_policy(),
        proof_within=timedelta(seconds=PROOF),
        gone_after=timedelta(seconds=QUICK.gone_after),
    )


def _prepared() -> Engine:
    world = World()
    for place, name in enumerate(NAMES):
        world.create(name, node=NODES[place % 3])
    engine = Engine(world, tuning=QUICK, policy=quick_policy())
    engine.restart()
    engine.add_cluster(max_in_flight=3, jobs_per_hour=0)
    _adopt(engine)
    _lay_out(engine)
    return engine


def _adopt(engine: Engine) -> None:
    """Have everything recorded: by two readings around two lists."""
    engine.feed_now()
    engine.look_now()
    engine.world.clock.wait(PROOF + 1)
    engine.look_now()
    engine.feed_now()
    Question.objects.all().delete()
    engine.messages.clear()
    engine.world.clock.wait(1)
    engine.look_now()
    engine.messages.clear()


def _lay_out(engine: Engine) -> None:
    """Leave something to do for every kind of turn."""
    world = engine.world
    # Two that vanish are held; two operations are shown; two changes are asked about.
    world.remove("gone1", "gone2")
    ending = world.begin("REINSTALL", "vm1", os="debian")
    engine.announce("vm2", "REBOOT")
    engine.look_now()
    world.clock.wait(QUICK.gone_after + 1)
    engine.feed_now()
    world.change("web", vcpus=8)
    world.change("db", memory=2048)
    engine.look_now()
    # A chain has found two answers, and its next poll finds a third.
    lock = world.lock_instance("web")
    engine.request_instance("vm3")
    engine.messages.clear()
    engine.ask()
    world.clock.wait(1)
    engine.take(engine.messages.pop(0))
    world.finish(lock)
    # A reading finds one operation that has ended, and one that has begun; a list, much.
    world.clock.wait(1)
    world.finish(ending)
    world.begin("RESIZE", "vm4", memory=4096)
    world.rename("vm3", "shop")
    world.tag("vm2", "a")
    world.create("new")
    world.crash("vm1")
    _leave_over(engine)
    Cluster.objects.update(next_look_at=None, next_follow_at=None, next_ask_at=None)


def _leave_over(engine: Engine) -> None:
    """Leave something for housekeeping: a plan that nobody serves, a moment that lies ahead."""
    at = engine.world.clock.peek()
    cluster = engine.cluster
    Request.objects.create(
        cluster=cluster, kind="plan", name="", state="open", epoch=cluster.epoch,
        requested_at=at - timedelta(hours=1),
    )  # fmt: skip
    Instance.objects.filter(name="vm4").update(confirmed_at=at + timedelta(days=1))


def places_of(original: Original, turn: str) -> list[str]:
    """Return the places at which this turn holds no transaction."""
    meeting = original.copy()
    stops = Stops(meeting.world)
    with stops.watched():
        getattr(meeting, turn)()
    return stops.places


def meet(original: Original, first: str, second: str, place: int, *, late: bool) -> None:
    """Let ``second`` go by while ``first`` stands at a place, and check what must hold.

    An instance is down just then: what ``second`` sees of it is over when ``first`` goes on.
    """
    meeting = original.copy()

    def go_by() -> None:
        meeting.check()
        if late:
            meeting.world.clock.wait(LEASES)
        meeting.world.crash("vm5")
        getattr(meeting, second)()
        meeting.world.start("vm5")
        meeting.check()

    with Stops(meeting.world, place, go_by).watched():
        getattr(meeting, first)()
    meeting.check()
    meeting.end()


def written_by_one_who_comes_back(
    original: Original, turn: str, kind: turns.Kind, place: int
) -> list[str]:
    """Return what a turn says that writes when it goes on and another holds its lease."""
    one = original.copy()
    said: list[str] = []

    def note(run: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        result = run(sql, params, many, context)
        if WRITES.match(sql) and context["cursor"].rowcount:
            said.append(sql)
        return result

    def go_by() -> None:
        one.world.clock.wait(LEASES)
        held = turns.take(one.engine.name, kind, LEASES, now=one.world.clock)
        assert held is not None
        watched.enter_context(connection.execute_wrapper(note))

    with ExitStack() as watched, Stops(one.world, place, go_by).watched():
        getattr(one, turn)()
    return said


WRITES = re.compile("UPDATE|INSERT|DELETE")


# Within transactions


class Statements:
    """Counts the statements that a turn says within transactions, and stops it at one."""

    def __init__(self, at: int | None = None, step_in: Callable[[], object] = lambda: None) -> None:
        self.said: list[str] = []
        self._at, self._step_in = at, step_in

    def watched(self) -> AbstractContextManager[None]:
        """Take a turn, whose statements are counted."""
        return connection.execute_wrapper(self._execute)

    def _execute(self, run: Callable[..., Any], sql: str, *rest: Any) -> Any:
        if not connection.in_atomic_block:
            return run(sql, *rest)
        result = run(sql, *rest)
        self.said.append(sql[:60])
        if len(self.said) - 1 == self._at:
            self._step_in()
        return result


def statements_of(original: Original, turn: str) -> list[str]:
    """Return what this turn says within transactions."""
    one = original.copy()
    statements = Statements()
    with statements.watched():
        getattr(one, turn)()
    return statements.said


def meet_inside(original: Original, first: str, second: str, place: int) -> None:
    """Let ``second`` go by on a connection of its own while ``first`` is in a transaction.

    Where it would wait for a lock, the two come one after the other: it is taken again.
    """
    one = original.copy()
    blocked: list[OperationalError] = []

    def go_by() -> None:
        try:
            getattr(one, second)()
        except OperationalError as error:
            blocked.append(error)

    def elsewhere() -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = '{PATIENCE}ms'")
        try:
            go_by()
        finally:
            connection.close()

    def step_in() -> None:
        thread = Thread(target=elsewhere)
        thread.start()
        thread.join()

    with Statements(place, step_in).watched():
        getattr(one, first)()
    one.check()
    if blocked:
        getattr(one, second)()
        one.check()
    one.end()


PATIENCE = 20
"""Milliseconds: the one that holds the lock stands still, so that to wait longer is in vain."""

ORDER = ("inventory_cluster", "inventory_question", "inventory_instance")
LOCKS = re.compile(r"""^(?:UPDATE|INSERT INTO|DELETE FROM)\s+"?(\w+)|FROM "(\w+)".* FOR (?:NO )?""")


@contextmanager
def locks_in_order() -> Iterator[None]:
    """Fail where a transaction locks rows of a table after those of one that comes later.

    Two that lock in one order never wait for each other.
    """
    locked: list[int] = []
    enter = Atomic.__enter__

    def begin(atomic: Atomic) -> None:
        if not connection.in_atomic_block:
            locked.clear()
        enter(atomic)

    def execute(run: Callable[..., Any], sql: str, *rest: Any) -> Any:
        found = LOCKS.search(sql)
        table = (found[1] or found[2]) if found else ""
        if connection.in_atomic_block and table in ORDER:
            place = ORDER.index(table)
            assert place in locked or place >= max(locked, default=0), (sql, locked)
            locked.append(place)
        return run(sql, *rest)

    with patch.object(Atomic, "__enter__", begin), connection.execute_wrapper(execute):
        yield
