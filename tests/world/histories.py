"""Generated histories: whatever may happen to the world, on the way, and to us, in any order.

An event is a tuple: the name of a method of ``Play``, and its arguments.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from proj.inventory.models import Cluster, Question
from tests.world import databases, invariants
from tests.world.databases import Backup, Row
from tests.world.engine import Engine
from tests.world.faults import Fault
from tests.world.invariants import Observer
from tests.world.operations import OPERATIONS
from tests.world.queue import Job
from tests.world.world import NODES, World

Event = tuple[Any, ...]

LONG = 400.0
"""Seconds within which all is to be right once faults have stopped: see ``Play.converge``."""

VALUES: dict[str, tuple[Any, ...]] = {
    "memory": (4, 1024, 2048),
    "vcpus": (1, 8),
    "disks": ((), (10240,), (10240, 1)),
    "nics": ((),),
    "os": ("noop", "debian"),
    "node": NODES,
    "secondaries": ((), ("node2",), ("node3",)),
    "tags": ((), ("a",), ("a", "b")),
    "new_name": databases.NAMES,
}
OF_OPERATION: dict[str, tuple[str, ...]] = {
    "RENAME": ("new_name",),
    "REINSTALL": ("os",),
    "SET_PARAMS": ("vcpus", "nics", "tags"),
    "RESIZE": ("memory", "vcpus"),
    "GROW_DISK": ("disks",),
    "MOVE": ("node",),
    "REPLACE_DISKS": ("secondaries",),
    "TAGS_SET": ("tags",),
}
"""What such a job changes."""


@dataclass
class Play:
    """The world, the engine, an observer, and what may befall them."""

    engine: Engine
    observer: Observer = field(init=False)
    backup_: Backup | None = None
    excused: list[Job] = field(default_factory=list)
    """Jobs of ours that were open when somebody wrote in the database: we know nothing of them."""
    asked_by_others: int = 0
    """Questions that were there when somebody wrote in the database."""

    def __post_init__(self) -> None:
        self.observer = Observer(self.engine)

    @property
    def world(self) -> World:
        """The world that the engine works on."""
        return self.engine.world

    def happen(self, event: Event) -> None:
        """Let one event happen, and check what it wrote."""
        kind, *arguments = event
        getattr(self, kind)(*arguments)
        problems = [*self.observer.check(), *self._beyond_bounds()]
        assert not problems, (event, problems)

    def _beyond_bounds(self) -> list[str]:
        if not self._is_there():
            return []
        return invariants.beyond_bounds(
            self.engine, without=self.excused, asked_by_others=self.asked_by_others
        )

    def _tampered(self) -> None:
        """Take what is recorded as it is: it is not the engine that wrote it."""
        self.observer.forget()
        self.excused += self.world.our_jobs()
        self.asked_by_others = Question.objects.filter(cluster__name=self.engine.name).count()

    # To instances and nodes

    def befall(self, kind: str, name: str) -> None:
        """Let something happen to an instance, if there is one of this name."""
        if self.world.has(name):
            getattr(self.world, kind)(name)

    def create(self, kind: str, name: str, node: str) -> None:
        if not self.world.has(name):
            getattr(self.world, kind)(name, node=node)

    def rename(self, name: str, new_name: str) -> None:
        if self.world.has(name) and not self.world.has(new_name):
            self.world.rename(name, new_name)

    def swap(self, one: str, other: str) -> None:
        if self.world.has(one) and self.world.has(other):
            self.world.swap(one, other)

    def change(self, name: str, what: str, value: Any) -> None:
        if self.world.has(name):
            self.world.change(name, **{what: value})

    def node(self, kind: str, name: str) -> None:
        getattr(self.world, kind)(name)

    def all(self, kind: str) -> None:
        getattr(self.world, kind)()

    # To the queue

    def begin(
        self, operation: str, name: str, seconds: float | None, how: str, values: dict[str, Any]
    ) -> None:
        options = {how: True} if how else {}
        self.world.begin(operation, name, seconds=seconds, **options, **values)

    def begin_create(self, name: str, becomes: str, seconds: float | None, held: bool) -> None:
        if not self.world.has(becomes):
            self.world.begin_create(name, becomes=becomes, seconds=seconds, held=held)

    def begin_steps(self, one: str, other: str, name: str, second: str) -> None:
        self.world.begin_steps((one, name), (other, second), seconds=5)

    def others_ask(self, names: list[str], static: bool, held: bool, fault: str) -> None:
        number = self.world.others_ask(*names, static=static, held=held)
        if fault:
            getattr(self.world.faults, fault).add(number)

    def lock_node(self, node: str, seconds: float | None) -> None:
        self.world.lock_node(node, seconds)

    def lock_instance(self, name: str, seconds: float | None) -> None:
        if self.world.has(name):
            self.world.lock_instance(name, seconds)

    def job(self, kind: str, place: int) -> None:
        """Let something happen to one of the open jobs, the newest first."""
        if job := self._job(place):
            getattr(self.world, kind)(job.number)

    def finish(self, place: int, end: str, leaving: str) -> None:
        if job := self._job(place):
            self.world.finish(job.number, end, leaving="" if job.is_query else leaving)

    def forget_ended(self, kind: str) -> None:
        """Archive, or purge, every job that is over."""
        over = [job.number for job in self.world.queue.jobs.values() if not job.is_open]
        getattr(self.world, kind)(*over)

    # On the way

    def fail(self, fault: Fault, method: str) -> None:
        self.world.fail(fault, method)

    def mend(self) -> None:
        self.world.mend()

    def switch(self, name: str) -> None:
        """Turn a fault on, or off."""
        setattr(self.world.faults, name, not getattr(self.world.faults, name))

    def cut(self, keeps: int | None) -> None:
        self.world.faults.keeps = keeps

    def spoil(self, what: str, name: str) -> None:
        """Let something be wrong about a name, or right again."""
        getattr(self.world.faults, what).symmetric_difference_update({name})

    # To us

    def wait(self, seconds: float) -> None:
        self.world.clock.wait(seconds)

    def jump(self, seconds: float) -> None:
        self.world.clock.jump(seconds)

    def turn(self, kind: str) -> None:
        """Take a turn: of beat, of a worker, of an operator."""
        if self._is_there() or kind in ("look", "feed", "ask", "beat", "deliver", "restart"):
            getattr(self.engine, kind)()

    def request(self, kind: str) -> None:
        if self._is_there():
            self.engine.request(kind)

    def request_instance(self, name: str) -> None:
        if self._is_there():
            self.engine.request_instance(name)

    def announce(self, name: str, operation: str) -> None:
        if self._is_there():
            self.engine.announce(name, operation)

    def lose(self, place: int) -> None:
        """Lose a message."""
        if self.engine.messages:
            self.engine.messages.pop(place % len(self.engine.messages))

    def double(self, place: int) -> None:
        """Deliver a message, which will come again."""
        if self.engine.messages:
            self.engine.take(self.engine.messages[place % len(self.engine.messages)])

    def die(self, place: int, kind: str) -> None:
        """Let the next turn die at this of its places."""
        self.engine.mortality.dies_at = place
        self.turn(kind)
        self.engine.mortality.dies_at = None

    def edit(self, values: dict[str, Any]) -> None:
        """Let an operator change the cluster: its limits, its policy, whether it is paused."""
        Cluster.objects.filter(name=self.engine.name).update(**values)

    def add_again(self) -> None:
        """Remove the cluster with all that is recorded of it, and add it again."""
        Cluster.objects.filter(name=self.engine.name).delete()
        self.engine.add_cluster()
        self._tampered()

    def backup(self) -> None:
        self.backup_ = Backup()

    def restore(self, is_told: bool) -> None:
        if self.backup_ is not None:
            self.backup_.restore(is_told=is_told)
            self._tampered()

    def write(self, rows: list[Row]) -> None:
        """Let somebody write rows by hand."""
        databases.fill(self.engine, rows)
        self._tampered()

    def lie(self) -> None:
        databases.lie(self.engine)

    def remove_row(self, table: int, place: int) -> None:
        databases.remove_row(table, place)
        self._tampered()

    # In the end

    def calm(self) -> None:
        """Stop all faults, end all jobs, and let the cluster be looked at."""
        self.world.calm()
        if not self._is_there():
            self.engine.add_cluster()
        Cluster.objects.filter(name=self.engine.name).update(paused=False)

    def converge(self, seconds: float = LONG, *, step: float = 5.0) -> None:
        """I1: from now on nothing happens; in so many seconds all is right, and stays so.

        Nobody helps, but an operator approves what is held.
        """
        clock = self.world.clock
        begun, problems = clock.real, ["nothing was checked"]
        while problems and (clock.real - begun).total_seconds() < seconds:
            for _ in range(4):
                self.happen(("turn", "beat"))
                self.engine.approve()
                clock.wait(step)
            problems = invariants.diverged(self.engine)
        assert not problems, problems
        for _ in range(3):
            self.happen(("turn", "beat"))
            clock.wait(self.engine.tuning.look_period)
        problems = invariants.diverged(self.engine)
        assert not problems, ("it was right before", problems)

    def rest(self) -> None:
        """I6: a world that has converged rests."""
        self.engine.look_now()
        self.engine.feed_now()
        self.engine.deliver()
        problems = invariants.restless(self.engine)
        assert not problems, problems

    def _is_there(self) -> bool:
        return Cluster.objects.filter(name=self.engine.name).exists()

    def _job(self, place: int) -> Job | None:
        jobs = [job for job in self.world.queue.jobs.values() if job.is_open]
        return jobs[-1 - place % len(jobs)] if jobs else None


def play(world: World | None = None, **values: Any) -> Play:
    """Return a play over a cluster of three instances, of which nothing is recorded yet."""
    world = world or World()
    if not world.names():
        for name, node in zip(("web", "vm1", "vm11"), NODES, strict=True):
            world.create(name, node=node)
    databases.clear()
    engine = Engine(world)
    engine.restart()
    engine.add_cluster(**values)
    return Play(engine)


def _just(kind: str, *arguments: Any) -> st.SearchStrategy[Event]:
    given = [it if isinstance(it, st.SearchStrategy) else st.just(it) for it in arguments]
    return st.tuples(st.just(kind), *given)


def _of(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


names = st.sampled_from(databases.NAMES)
nodes = st.sampled_from(NODES)
seconds = _of(None, 0, 0.5, 5, 90, 4000)
places = st.integers(0, 5)
methods = _of("*", "look", "highest", "read_queue", "submit_query", "poll", "cancel", "find")


@st.composite
def _beginnings(draw: st.DrawFn) -> Event:
    """Return the beginning of a job of any operation."""
    operation = draw(st.sampled_from(sorted(set(OPERATIONS) - {"CREATE"})))
    values = {it: draw(_of(*VALUES[it])) for it in OF_OPERATION.get(operation, ())}
    if operation == "RENAME":
        how = draw(_of("", "held", "hidden"))
    else:
        how = draw(_of("", "", "held", "unnamed", "hidden"))
    return ("begin", operation, draw(names), draw(seconds), how, values)


@st.composite
def _changes(draw: st.DrawFn) -> Event:
    """Return a change of one field."""
    what = draw(st.sampled_from(sorted(set(VALUES) - {"new_name", "node"})))
    return ("change", draw(names), what, draw(_of(*VALUES[what])))


def of_instances() -> st.SearchStrategy[Event]:
    """Return what happens to instances and nodes."""
    befalls = _of(
        "remove", "recreate", "crash", "stop", "start", "stop_inside", "offline", "run_unwanted",
        "wrong_node", "right_node", "become_real",
    )  # fmt: skip
    return st.one_of(
        _just("befall", befalls, names),
        _just("befall", befalls, names),
        _just("create", _of("create", "create", "reserve"), names, nodes),
        _just("rename", names, names),
        _just("swap", names, names),
        _changes(),
        _just("node", _of("node_down", "node_up", "node_offline", "node_hangs"), nodes),
        _just("all", _of("lose_power", "stop_all", "watch")),
    )


def of_queue() -> st.SearchStrategy[Event]:
    """Return what happens in the queue."""
    kinds = _of(
        "die", "release", "cancel", "cancel_in_vain", "hide", "show", "archive", "purge",
        "spoil_row",
    )  # fmt: skip
    operations = st.sampled_from(("SHUTDOWN", "STARTUP", "REBOOT", "MIGRATE", "ACTIVATE_DISKS"))
    fault = _of("", "", "unfetchable", "hanging", "garbled")
    ends = _of("success", "success", "error", "canceled")
    return st.one_of(
        _beginnings(),
        _beginnings(),
        _just("begin_create", _of("new", "New", "NEW"), _of("new", "new.example"), seconds,
              st.booleans()),
        _just("begin_steps", operations, operations, names, names),
        _just("others_ask", st.lists(names, max_size=2), st.booleans(), st.booleans(), fault),
        _just("lock_node", nodes, seconds),
        _just("lock_instance", names, seconds),
        _just("job", kinds, places),
        _just("finish", places, ends, _of("", "before", "half", "done")),
        _just("finish", places, ends, _of("", "before", "half", "done")),
        _just("forget_ended", _of("archive", "purge")),
        _just("all", _of("renumber", "move_master")),
    )  # fmt: skip


def of_the_way() -> st.SearchStrategy[Event]:
    """Return what happens on the way."""
    switches = _of("empty", "reversed", "restarts", "read_only", "nameless")
    spoils = _of("missing", "twice", "uuidless", "unreadable", "unaskable", "refusing")
    return st.one_of(
        _just("fail", st.sampled_from(list(Fault)), methods),
        _just("mend"),
        _just("switch", switches),
        _just("cut", _of(None, 0, 1, 2)),
        _just("spoil", spoils, names),
    )


def of_turns() -> st.SearchStrategy[Event]:
    """Return the ordinary turns, and time."""
    return st.one_of(
        _just("turn", _of("look", "feed", "ask", "deliver", "beat", "beat", "look_now")),
        _just("turn", _of("feed_now", "beat", "approve", "housekeeping", "restart")),
        _just("wait", _of(0.1, 3.0, 20.0, 70.0, 700.0)),
        _just("request", _of("sweep", "all", "plan")),
        _just("request_instance", names),
        _just("announce", names, _of("CREATE", "REBOOT", "REMOVE")),
    )


def of_us() -> st.SearchStrategy[Event]:
    """Return what goes wrong with us."""
    return st.one_of(
        _just("lose", places),
        _just("double", places),
        _just("die", st.integers(0, 25), _of("look_now", "feed_now", "ask", "deliver", "beat")),
        _just("jump", _of(-3600.0, -1.0, 1.0, 3600.0, 3e8)),
        _just("edit", st.fixed_dictionaries({"paused": st.booleans()})),
        _just("edit", st.fixed_dictionaries({"max_in_flight": _of(2, 3, 5)})),
        _just("add_again"),
        _just("backup"),
        _just("restore", st.booleans()),
        _just("write", st.lists(databases.rows(), min_size=1, max_size=2)),
        _just("lie"),
        _just("remove_row", places, places),
    )


def histories(most: int = 40) -> st.SearchStrategy[list[Event]]:
    """Return any history."""
    turns = of_turns()
    every = st.one_of(of_instances(), of_queue(), of_the_way(), of_us(), turns, turns, turns)
    return st.lists(every, max_size=most)


def check(history: list[Event], generated: list[Row] | None = None, **values: Any) -> None:
    """I1 to I3, I5 and I6 of one history, from one database."""
    scene = play(**values)
    if generated is not None:
        scene.write(generated)
    for event in history:
        scene.happen(event)
    scene.calm()
    scene.converge()
    scene.rest()


Step = Callable[[Play], object]


def places_of(prepare: Step, turn: Step) -> list[str]:
    """Return the places at which this turn may die, after this preparation."""
    scene = play()
    prepare(scene)
    turn(scene)
    return list(scene.engine.mortality.places)


def dies_everywhere(prepare: Step, turn: Step) -> None:
    """Death at every commit: I1 once for each place at which this turn may die."""
    for place, what in enumerate(places_of(prepare, turn)):
        scene = play()
        prepare(scene)
        scene.engine.mortality.dies_at = place
        turn(scene)
        problems = scene.observer.check()
        assert not problems, (place, what, problems)
        scene.calm()
        scene.converge()
