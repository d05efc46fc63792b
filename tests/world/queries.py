"""Query jobs, ours and those of others: they wait for locks, and read what is then true."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from proj.backend import Verdict
from proj.observation import Configuration
from tests.world.faults import Faults
from tests.world.queue import Job, Locks, Queue, Result, Seen
from tests.world.truth import Machine, Truth, lock_of


def node_lock(name: str) -> str:
    """Return the lock of a node."""
    return f"node {name}"


@dataclass
class Queries:
    """How OP_INSTANCE_QUERY_DATA works."""

    truth: Truth
    queue: Queue
    faults: Faults
    seconds: float = 0.3
    """How long one runs, once it has its locks."""
    names: dict[int, tuple[str, ...]] = field(default_factory=dict)
    """What each asks about, as it was typed; nothing: all instances."""

    def ours(self, name: str, limit: int) -> int:
        """Issue one for one instance, with our label."""
        return self._issue((name,), Job(is_query=True, is_ours=True, limit=limit))

    def others(
        self, *names: str, static: bool = False, seconds: float | None = None, held: bool = False
    ) -> int:
        """Let somebody else ask about instances, or about all."""
        return self._issue(names, Job(is_query=True, held=held, seconds=seconds), static=static)

    def _issue(self, names: tuple[str, ...], job: Job, *, static: bool = False) -> int:
        if job.seconds is None:
            job.seconds = self.seconds + self._delay(names)
        job.locks = Locks if static else partial(self._locks, names)
        job.begin = partial(self._begin, job, names, static=static)
        number = self.queue.add(job)
        self.names[number] = names
        return number

    def _begin(self, job: Job, names: tuple[str, ...], *, static: bool) -> bool:
        job.result = self._read(names, static=static)
        return True

    def _asked(self, names: Sequence[str]) -> list[Machine | None]:
        return [*map(self.truth.expand, names)] if names else [*self.truth.machines.values()]

    def _locks(self, names: Sequence[str]) -> Locks:
        locks: set[str] = set()
        for machine in self._asked(names):
            if machine is not None:
                locks.add(lock_of(machine.uuid))
                locks |= {node_lock(name) for name in (machine.node, *machine.secondaries)}
        return Locks(shared=frozenset(locks))

    def _delay(self, names: Sequence[str]) -> float:
        machines = (machine for machine in self._asked(names) if machine is not None)
        nodes = (self.truth.nodes[machine.node] for machine in machines)
        return max((min(node.hangs, 60.0) for node in nodes), default=0.0)

    def _read(self, names: Sequence[str], *, static: bool) -> Result:
        seen: list[Seen] = []
        for machine in self._asked(names):
            if machine is None:
                return Result(Verdict.ABSENT, error=f"one of {names} is not known")
            told = self.truth.told(machine)
            if machine.name in self.faults.refusing:
                return Result(Verdict.FAILED, error=f"{machine.name}: KeyError")
            if told is None and not static:
                return Result(Verdict.FAILED, error=f"Error checking node {machine.node}")
            word = None if static else told
            seen.append(Seen(machine.name, machine.uuid, word, _told(machine.configuration)))
        return Result(Verdict.ANSWERED, tuple(seen))


def _told(configuration: Configuration) -> Configuration:
    return replace(configuration, tags=None)
