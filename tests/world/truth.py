"""What is true of a cluster: its nodes and instances, and what was true of them before."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import count, zip_longest

from proj.observation import Configuration, Nic
from tests.world.clock import Clock

NIC = Nic(None, "aa:00:00:00:00:01", "bridged", "br0")
TOLD_OF_FORTHCOMING = "ADMIN_down"
"""A query job asks the node, which knows no such instance, and repeats its admin state."""


@dataclass(slots=True)
class Node:
    """A node: reachable or not, in use or not."""

    name: str
    is_down: bool = False
    is_offline: bool = False
    hangs: float = 0.0
    """Seconds before it answers; from 60 on nobody waits for it."""

    @property
    def is_silent(self) -> bool:
        """Whether nobody gets an answer from it."""
        return self.is_down or self.hangs >= 60


@dataclass(slots=True)
class Machine:
    """One instance: what Ganeti wants of it, and where it really runs."""

    uuid: str
    name: str
    node: str
    secondaries: tuple[str, ...] = ()
    admin: str = "up"
    """up, down or offline."""
    runs_on: str | None = None
    stopped_inside: bool = False
    """By its user, and Ganeti knows it."""
    is_forthcoming: bool = False
    memory: int = 1024
    vcpus: int = 1
    disks: tuple[int, ...] = (10240,)
    nics: tuple[Nic, ...] = (NIC,)
    os: str = "noop"
    tags: tuple[str, ...] = ()
    strange_word: str | None = None
    """What the list says in place of any word that is known."""

    @property
    def configuration(self) -> Configuration:
        """What it is made of, with everything that a list tells."""
        return Configuration(
            memory=self.memory,
            vcpus=self.vcpus,
            disks=self.disks,
            nics=self.nics,
            nodes=(self.node, *self.secondaries),
            os=self.os,
            tags=tuple(sorted(self.tags)),
        )


@dataclass(frozen=True, slots=True)
class Past:
    """What was true of one instance from a moment on."""

    at: datetime
    """In real time."""
    exists: bool
    name: str = ""
    listed: str = ""
    """The word of the list of all instances."""
    told: str | None = None
    """The word of a query job; None where such a job would fail."""
    configuration: Configuration = field(default_factory=Configuration)
    half_done: bool = False
    """A job that the queue told of was at work on it; no query job could have seen it."""


@dataclass
class Truth:
    """The nodes, the instances and their history."""

    clock: Clock
    number: int = 0
    """Of the cluster: uuids of two clusters differ, unless their numbers are equal."""
    nodes: dict[str, Node] = field(default_factory=dict)
    machines: dict[str, Machine] = field(default_factory=dict)
    """By uuid, in the order of the list."""
    history: dict[str, list[Past]] = field(default_factory=dict)
    at_work: Callable[[], frozenset[str]] = frozenset
    """The locks of what jobs change at this moment, as the queue tells."""

    def new_uuid(self) -> str:
        """Return a uuid that no instance of this cluster has had."""
        for made in count(len(self.history) + 1):
            uuid = f"{made:08x}-0000-4000-8000-{self.number:012x}"
            if uuid not in self.history:
                break
        return uuid

    def named(self, name: str) -> Machine:
        """Return the instance of exactly this name.

        Raises:
            KeyError: there is none.
        """
        for machine in self.machines.values():
            if machine.name == name:
                return machine
        raise KeyError(name)

    def expand(self, name: str) -> Machine | None:
        """Return the one who answers to this name, as Ganeti completes it."""
        pattern = re.compile(rf"{re.escape(name)}(\..*)?", re.IGNORECASE | re.DOTALL)
        same, begun = [], []
        for machine in self.machines.values():
            if machine.name == name:
                return machine
            if pattern.fullmatch(machine.name):
                begun.append(machine)
                same += [machine] if machine.name.lower() == name.lower() else []
        if len(same) == 1:
            return same[0]
        return begun[0] if len(begun) == 1 else None

    def listed(self, machine: Machine) -> str:
        """Return the word of the list of all instances, in Ganeti's order of precedence."""
        node = self.nodes[machine.node]
        if machine.is_forthcoming:
            return "forthcoming"
        if node.is_offline:
            return "ERROR_nodeoffline"
        if node.is_silent:
            return "ERROR_nodedown"
        if machine.runs_on is not None and machine.runs_on != machine.node:
            # Who does not answer is not known to run anything.
            if not self.nodes[machine.runs_on].is_silent:
                return "ERROR_wrongnode"
            return _word_of(machine, runs=False)
        return _word_of(machine, runs=machine.runs_on is not None)

    def told(self, machine: Machine) -> str | None:
        """Return what a query job says, which asks the primary node only; None if it fails."""
        node = self.nodes[machine.node]
        mirrors = [self.nodes[name] for name in machine.secondaries if machine.disks]
        if any(mirror.is_silent and not mirror.is_offline for mirror in mirrors):
            return None
        if node.is_offline:
            return "ERROR_nodeoffline"
        if node.is_silent:
            return None
        if machine.is_forthcoming:
            return TOLD_OF_FORTHCOMING
        return _word_of(machine, runs=machine.runs_on == machine.node)

    def note(self) -> None:
        """Keep what is true now, where it differs from what was."""
        at_work = self.at_work()
        for uuid in dict.fromkeys([*self.history, *self.machines]):
            pasts = self.history.setdefault(uuid, [])
            now = self._now(uuid, half_done=lock_of(uuid) in at_work)
            if not pasts or replace(pasts[-1], at=now.at) != now:
                pasts.append(now)

    def was(self, uuid: str, begin: datetime, end: datetime) -> Iterator[Past]:
        """Return all that was true of an instance at some moment of a real interval."""
        pasts = self.history.get(uuid, [])
        for past, later in zip_longest(pasts, pasts[1:]):
            if past.at <= end and (later is None or later.at > begin):
                yield past

    def was_named(self, name: str, begin: datetime, end: datetime) -> Iterator[Past]:
        """Return all that was true of whoever had a name at some moment of a real interval."""
        for uuid in self.history:
            yield from (past for past in self.was(uuid, begin, end) if past.name == name)

    def _now(self, uuid: str, *, half_done: bool) -> Past:
        machine = self.machines.get(uuid)
        if machine is None:
            return Past(self.clock.real, exists=False)
        return Past(
            at=self.clock.real,
            exists=True,
            name=machine.name,
            listed=self.listed(machine),
            told=self.told(machine),
            configuration=machine.configuration,
            half_done=half_done,
        )


def lock_of(uuid: str) -> str:
    """Return the lock of an instance."""
    return f"instance {uuid}"


def _word_of(machine: Machine, *, runs: bool) -> str:
    if runs:
        return "running" if machine.admin == "up" else "ERROR_up"
    if machine.admin == "up":
        return "USER_down" if machine.stopped_inside else "ERROR_down"
    if machine.admin == "down" and machine.stopped_inside:
        return "USER_down"
    return {"down": "ADMIN_down", "offline": "ADMIN_offline"}[machine.admin]
