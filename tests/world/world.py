"""The world: one cluster, and everything that can happen to it, each by a short method.

Whatever is done here by a method that names no job happens at once, as by a job that nobody
saw, by a user inside the guest, or by bad luck. ``begin`` and its like put jobs into the queue.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tests.world import operations
from tests.world.clock import Clock
from tests.world.faults import EVERY, Fault, Faults
from tests.world.memory import Asked, Memory
from tests.world.queries import Queries, node_lock
from tests.world.queue import Job, Locks, Queue
from tests.world.truth import Machine, Node, Truth, lock_of
from tests.world.work import Step, Worker

NODES = ("node1", "node2", "node3")


class World:
    """One Ganeti cluster in memory. Several may share a clock."""

    def __init__(
        self, clock: Clock | None = None, *, nodes: Sequence[str] = NODES, number: int = 1
    ) -> None:
        self.clock = clock or Clock()
        self.truth = Truth(self.clock, number, {name: Node(name) for name in nodes})
        self.queue = Queue(self.clock, self._note)
        self.truth.at_work = self.queue.at_work
        self.faults = Faults()
        self.queries = Queries(self.truth, self.queue, self.faults)
        self.worker = Worker(self.truth, self.queue)
        self.requests: list[Asked] = []
        self.harm: list[str] = []
        """What we did to Ganeti that we may not do."""
        self.touch: Callable[[str], object] = lambda _: None
        """Called with the method's name before each request."""
        self.touched: Callable[[str], object] = lambda _: None
        """Called after each request that was answered, before its caller has the answer."""
        self._is_batch = False

    def backend(self) -> Memory:
        """Return a connection to the cluster."""
        return Memory(self)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let many things happen at one moment."""
        outer, self._is_batch = self._is_batch, True
        try:
            yield
        finally:
            self._is_batch = outer
            self._note()

    # What happens to instances

    def create(self, name: str, *, node: str = "", runs: bool = True, **values: Any) -> str:
        """Make an instance that runs, and return its uuid."""
        machine = self._new(name, node, values)
        if not runs:
            machine.admin = "down"
        machine.runs_on = machine.node if runs else None
        self.truth.machines[machine.uuid] = machine
        self._note()
        return machine.uuid

    def create_many(self, count: int, name: str = "vm") -> list[str]:
        """Make many instances that run, spread over the nodes."""
        homes = list(self.truth.nodes)
        with self.at_once():
            return [
                self.create(f"{name}{number:04}", node=homes[number % len(homes)])
                for number in range(count)
            ]

    def remove(self, *names: str) -> None:
        """Make instances cease to be."""
        with self.at_once():
            for name in names:
                del self.truth.machines[self.machine(name).uuid]

    def recreate(self, name: str, **values: Any) -> str:
        """Remove an instance, and make another one of the same name at once."""
        with self.at_once():
            self.remove(name)
            return self.create(name, **values)

    def rename(self, name: str, new_name: str) -> None:
        """Give an instance another name, which nobody has."""
        if self.has(new_name):
            raise ValueError(f"{new_name} is taken")
        self._change(name, name=new_name)

    def swap(self, one: str, other: str) -> None:
        """Let two instances bear each other's name."""
        first, second = self.machine(one), self.machine(other)
        first.name, second.name = other, one
        self._note()

    def crash(self, *names: str) -> None:
        """Let instances vanish from their hypervisor: ERROR_down."""
        with self.at_once():
            for name in names:
                self._change(name, runs_on=None)

    def stop_inside(self, name: str) -> None:
        """Let its user shut it down, and Ganeti notice: USER_down."""
        self._change(name, runs_on=None, stopped_inside=True)

    def stop(self, *names: str) -> None:
        """Stop instances as an administrator does: ADMIN_down."""
        with self.at_once():
            for name in names:
                operations.stopped(self.truth, self.machine(name), {})

    def start(self, *names: str) -> None:
        """Start instances as an administrator, or the watcher, does."""
        with self.at_once():
            for name in names:
                operations.started(self.truth, self.machine(name), {})

    def run_unwanted(self, name: str) -> None:
        """Let it run although it is to be down: ERROR_up."""
        machine = self.machine(name)
        self._change(name, admin="down", runs_on=machine.node)

    def offline(self, name: str) -> None:
        """Mark an instance offline: ADMIN_offline."""
        self._change(name, admin="offline", runs_on=None)

    def wrong_node(self, name: str, node: str = "") -> None:
        """Let it run on another node than its primary, for good: ERROR_wrongnode."""
        machine = self.machine(name)
        others = [other for other in self.truth.nodes if other != machine.node]
        self._change(name, runs_on=node or others[0])

    def right_node(self, name: str) -> None:
        """Let it run where it ought to."""
        self._change(name, runs_on=self.machine(name).node)

    def migrate(self, name: str, seconds: float = 5.0) -> int:
        """Migrate an instance by a job: for its seconds a list says ERROR_wrongnode."""
        return self.begin("MIGRATE", name, seconds=seconds)

    def reserve(self, name: str, **values: Any) -> str:
        """Make a forthcoming instance: it has a record, and nothing else exists of it."""
        return self.create(name, runs=False, is_forthcoming=True, **values)

    def become_real(self, name: str) -> None:
        """Make a forthcoming instance exist, and run."""
        machine = self.machine(name)
        self._change(name, is_forthcoming=False, admin="up", runs_on=machine.node)

    def change(self, name: str, /, **values: Any) -> None:
        """Change memory, vcpus, disks, nics, os, node, secondaries or tags."""
        self._change(name, **values)

    def tag(self, name: str, *tags: str) -> None:
        """Give it these tags and no other: only a list tells them."""
        self._change(name, tags=tags)

    def move(self, name: str, node: str) -> None:
        """Move an instance to another node, which is its primary then."""
        machine = self.machine(name)
        runs_on = None if machine.runs_on is None else node
        others = tuple(other for other in machine.secondaries if other != node)
        self._change(name, node=node, secondaries=others, runs_on=runs_on)

    def say(self, name: str, word: str | None) -> None:
        """Let the list have a word for it that nobody knows, or a known one again."""
        self._change(name, strange_word=word)

    # What happens to nodes and to many

    def node_down(self, *names: str) -> None:
        """Let nodes, and what runs on them, be unreachable."""
        self._nodes(names, is_down=True)

    def node_up(self, *names: str) -> None:
        """Let nodes be reachable, in use, and prompt."""
        self._nodes(names, is_down=False, is_offline=False, hangs=0.0)

    def node_offline(self, *names: str) -> None:
        """Let an administrator mark nodes offline."""
        self._nodes(names, is_offline=True)

    def node_hangs(self, name: str, seconds: float = 60.0) -> None:
        """Let a node answer late; from 60 s on Ganeti takes it for down."""
        self._nodes((name,), hangs=seconds)

    def lose_power(self) -> None:
        """Let everything stop at once."""
        self.crash(*self.names())

    def stop_all(self) -> None:
        """Let an administrator stop everything."""
        self.stop(*self.names())

    def watch(self, seconds: float = 1.0) -> list[int]:
        """Let Ganeti's watcher start whatever is ERROR_down, by jobs."""
        machines = [*self.truth.machines.values()]
        down = [it.name for it in machines if self.truth.listed(it) == "ERROR_down"]
        return [self.begin("STARTUP", name, seconds=seconds) for name in down]

    # What happens in the queue

    def begin(
        self,
        operation: str,
        *names: str,
        seconds: float | None = None,
        held: bool = False,
        unnamed: bool = False,
        hidden: bool = False,
        **values: Any,
    ) -> int:
        """Put a job of somebody else's into the queue, and return its id.

        It waits for its locks, runs for ``seconds``, or until it is finished by the test, and
        does what its operation does. One that is ``held`` stays queued, one that is ``unnamed``
        tells no instance, one that is ``hidden`` has an id and cannot be seen yet.
        """
        steps = [self.worker.step(operation, name, values) for name in names]
        return self.worker.put(
            steps, Job(seconds=seconds, held=held, hidden=hidden), unnamed=unnamed
        )

    def begin_steps(
        self,
        *steps: tuple[str, str] | tuple[str, str, dict[str, Any]],
        seconds: float | None = None,
        held: bool = False,
    ) -> int:
        """Put a job of several operations into the queue: (operation, name, values)."""
        made = [self.worker.step(step[0], step[1], step[2] if step[2:] else {}) for step in steps]
        return self.worker.put(made, Job(seconds=seconds, held=held))

    def begin_create(
        self,
        name: str,
        *,
        becomes: str = "",
        seconds: float | None = None,
        held: bool = False,
        hidden: bool = False,
        **values: Any,
    ) -> int:
        """Put a creation into the queue; its name is completed and lowered as it begins."""
        machine = self._new(becomes or name.lower(), values.pop("node", ""), values)
        step = Step("CREATE", name, machine.uuid, becomes=machine)
        return self.worker.put([step], Job(seconds=seconds, held=held, hidden=hidden))

    def begin_rename(
        self, name: str, new_name: str, *, seconds: float | None = None, held: bool = False
    ) -> int:
        """Put a renaming into the queue, which names both names."""
        return self.begin("RENAME", name, seconds=seconds, held=held, new_name=new_name)

    def others_ask(
        self,
        *names: str,
        static: bool = False,
        seconds: float | None = None,
        held: bool = False,
    ) -> int:
        """Let somebody else run ``gnt-instance info`` about some, or all."""
        return self.queries.others(*names, static=static, seconds=seconds, held=held)

    def lock_node(self, node: str, seconds: float | None = None) -> int:
        """Lock a node by a job that names no instance, as ``gnt-debug delay`` does."""
        return self._lock(node_lock(node), seconds)

    def lock_instance(self, name: str, seconds: float | None = None) -> int:
        """Lock an instance by a job that does not name it."""
        return self._lock(lock_of(self.machine(name).uuid), seconds)

    def finish(self, number: int, end: str = "success", *, leaving: str = "") -> None:
        """End a job in success, error or canceled; what it did stays before, half or done."""
        self.queue.finish(self.queue.jobs[number], end, leaving=leaving)

    def die(self, number: int) -> None:
        """Let the process of a job die: "detected death of job N"."""
        self.finish(number, "error", leaving="half")

    def release(self, number: int) -> None:
        """Let a job go on that was held."""
        self.queue.jobs[number].held = False
        self.queue.advance()

    def cancel(self, number: int) -> bool:
        """Let somebody cancel a job, which works unless it runs."""
        return self.queue.cancel(self.queue.jobs[number])

    def cancel_in_vain(self, number: int, seconds: float = 60.0) -> None:
        """Let a job be ``canceling`` for a while, and run all the same."""
        self.queue.delay(self.queue.jobs[number], seconds)

    def hide(self, number: int) -> None:
        """Let a job's row not be there yet, although higher ones are."""
        self.queue.jobs[number].hidden = True
        self._note()

    def show(self, number: int) -> None:
        """Let a job's row appear at last."""
        self.queue.jobs[number].hidden = False
        self._note()

    def archive(self, *numbers: int) -> None:
        """Archive jobs: only who asks for their ids sees them."""
        for number in numbers:
            self.queue.jobs[number].archived = True

    def archive_ended(self) -> None:
        """Archive every job that is over."""
        self.archive(*(it.number for it in self.queue.jobs.values() if not it.is_open))

    def purge(self, *numbers: int) -> None:
        """Let the queue not know jobs any more; what runs goes on."""
        for number in numbers:
            self.queue.jobs[number].purged = True
        self._note()

    def spoil_row(self, number: int) -> None:
        """Let the row of a job be one that cannot be read."""
        self.queue.jobs[number].unreadable = True
        self._note()

    def renumber(self) -> None:
        """Empty the queue and begin its ids anew."""
        self.queue.renumber()
        self._note()

    def move_master(self, seconds: float = 5.0) -> None:
        """Let another node be master: what runs dies, and nothing listens for a while."""
        for job in self.queue.open():
            if job.word == "running":
                self.queue.finish(job, "error", leaving="half")
        self.fail(Fault.DOWN)
        self.clock.after(seconds, self.mend)

    # What happens on the way

    def fail(self, fault: Fault, *methods: str) -> None:
        """Let requests meet a fault: all, or those of some of the backend's methods."""
        self.faults.requests |= dict.fromkeys(methods or (EVERY,), fault)

    def mend(self) -> None:
        """Let every request through again."""
        self.faults.requests.clear()

    def calm(self) -> None:
        """End all faults, locks and jobs, and mend every node; instances stay as they are."""
        self.faults.stop()
        self.clock.mend()
        self.node_up(*self.truth.nodes)
        for machine in self.truth.machines.values():
            machine.strange_word = None
        for job in self.queue.jobs.values():
            job.hidden = job.unreadable = job.held = False
        while jobs := self.queue.open():
            self.queue.finish(jobs[0])

    # What is so

    def has(self, name: str) -> bool:
        """Whether an instance has exactly this name."""
        return name in self.names()

    def names(self) -> list[str]:
        """Return the names of all instances."""
        return [machine.name for machine in self.truth.machines.values()]

    def machine(self, name: str) -> Machine:
        """Return the instance of exactly this name."""
        return self.truth.named(name)

    def count(self, *methods: str) -> int:
        """Return how many requests there were, of some methods or of all."""
        return sum(not methods or asked.method in methods for asked in self.requests)

    def our_jobs(self) -> list[Job]:
        """Return the jobs of ours that are open."""
        return [job for job in self.queue.open() if job.is_ours]

    def _new(self, name: str, node: str, values: dict[str, Any]) -> Machine:
        if self.has(name):
            raise ValueError(f"{name} is taken")
        homes = list(self.truth.nodes)
        home = node or homes[0]
        others = [other for other in homes if other != home][:1]
        uuid = values.pop("uuid", None) or self.truth.new_uuid()
        self.truth.history.setdefault(uuid, [])
        return Machine(uuid, name, home, values.pop("secondaries", tuple(others)), **values)

    def _change(self, whose: str, /, **values: Any) -> None:
        machine = self.machine(whose)
        for field, value in values.items():
            getattr(machine, field)
            setattr(machine, field, value)
        self._note()

    def _nodes(self, names: Sequence[str], **values: Any) -> None:
        for name in names:
            for field, value in values.items():
                setattr(self.truth.nodes[name], field, value)
        self._note()

    def _lock(self, lock: str, seconds: float | None) -> int:
        locks = Locks(alone=frozenset({lock}))
        return self.queue.add(Job(seconds=seconds, locks=lambda: locks))

    def _note(self) -> None:
        if not self._is_batch:
            self.truth.note()
