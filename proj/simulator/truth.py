"""What is true of a simulated cluster: its nodes and its instances."""

import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Json = Any

ADMIN_STATES = ("up", "down", "offline")


@dataclass(slots=True)
class Instance:
    """One instance: what Ganeti wants of it, and where it really runs."""

    name: str
    node: str
    uuid: str = ""
    admin_state: str = "up"
    running_on: str | None = None
    memory: int = 1024
    vcpus: int = 1
    disks: list[int] = field(default_factory=lambda: [10240])
    nics: list[tuple[str | None, str, str, str]] = field(default_factory=list)
    os: str = "noop"
    tags: list[str] = field(default_factory=list)
    secondaries: list[str] = field(default_factory=list)
    """The nodes that hold its disks too, as DRBD has it."""
    is_forthcoming: bool = False
    """Reserved and not made yet."""
    stopped_inside: bool = False
    """Shut down by its own system: no crash, if it does not run."""
    serial: int = 1
    ctime: float = 1.0
    mtime: float = 1.0
    stamp: int = 0
    """The cluster's generation when this instance last changed."""


@dataclass(slots=True)
class Node:
    """A node: reachable or not, offline or not."""

    name: str
    is_down: bool = False
    is_offline: bool = False
    hangs: float = 0.0
    """Seconds after which Ganeti gives it up."""

    @property
    def is_silent(self) -> bool:
        """Whether Ganeti asks it and gets no answer."""
        return (self.is_down or self.hangs > 0) and not self.is_offline


class Truth:
    """A cluster's instances and nodes. Every change makes anew what the list says of them."""

    def __init__(
        self,
        name: str,
        *,
        nodes: int,
        instances: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.clock = clock
        self.nodes = {
            f"node{number}.{name}": Node(f"node{number}.{name}") for number in range(1, nodes + 1)
        }
        self.master = next(iter(self.nodes))
        self.domain = ""
        """What the name check of a creation adds to a name without a dot."""
        self.instances: dict[str, Instance] = {}
        self.generation = 0
        self._created = 0
        self._all_stamp = 0
        homes = list(self.nodes)
        for number in range(1, instances + 1):
            self.add(f"vm{number:05}.{name}", homes[number % len(homes)])

    def add(self, name: str, node: str | None = None, **values: Any) -> Instance:
        """Create an instance, with a uuid that was never there; it runs, unless told otherwise."""
        home = node or next(iter(self.nodes))
        mac = f"aa:00:00:{random.randbytes(3).hex(':')}"
        self._created += 1
        made_of = {
            "uuid": str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{self._created}.{self.name}")),
            "running_on": home,
            "nics": [(None, mac, "bridged", "br0")],
        }
        self.instances[name] = Instance(name, home, **(made_of | values))
        self.changed(name)
        return self.instances[name]

    def reserve(self, name: str, node: str | None = None) -> Instance:
        """Make an instance forthcoming: it is listed, and nothing of it exists."""
        return self.add(name, node, is_forthcoming=True, admin_state="down", running_on=None)

    def commit(self, name: str) -> None:
        """Make a forthcoming instance real, and start it."""
        self.change(name, is_forthcoming=False)
        self.start(name)

    def rename(self, name: str, new_name: str) -> None:
        """Give an instance another name; it stays what it is."""
        if new_name in self.instances:
            raise ValueError(f"{new_name} exists already")
        instance = self.instances[new_name] = self.instances.pop(name)
        instance.name, instance.serial, instance.mtime = new_name, instance.serial + 1, self.clock()
        self.changed()

    def remove(self, name: str) -> None:
        """Make an instance cease to be."""
        self.instances.pop(name, None)
        self.changed()

    def change(self, name: str, **values: Any) -> None:
        """Change an instance; its serial number follows its configuration, not its run state."""
        instance = self.instances[name]
        for field_name, value in values.items():
            setattr(instance, field_name, value)
        if values.keys() - {"running_on", "stopped_inside"}:
            instance.serial += 1
            instance.mtime = self.clock()
        self.changed(name)

    def start(self, name: str) -> None:
        """Start an instance as Ganeti does."""
        home = self.instances[name].node
        self.change(name, admin_state="up", running_on=home, stopped_inside=False)

    def stop(self, name: str) -> None:
        """Stop an instance as Ganeti does."""
        self.change(name, admin_state="down", running_on=None)

    def crash(self, name: str) -> None:
        """Make an instance vanish from its hypervisor."""
        self.change(name, running_on=None)

    def stop_inside(self, name: str) -> None:
        """Let an instance's own system shut it down."""
        self.change(name, running_on=None, stopped_inside=True)

    def set_node(
        self, name: str, *, is_down: bool = False, is_offline: bool = False, hangs: float = 0.0
    ) -> None:
        """Break or mend a node."""
        node = self.nodes[name]
        node.is_down, node.is_offline, node.hangs = is_down, is_offline, hangs
        self.changed()

    def move_master(self) -> None:
        """Let the next node be master."""
        homes = list(self.nodes)
        self.master = homes[(homes.index(self.master) + 1) % len(homes)]

    def changed(self, name: str | None = None) -> None:
        """Say that whatever was computed from one instance, or from all, is old."""
        self.generation += 1
        if name in self.instances:
            self.instances[name].stamp = self.generation
        else:
            self._all_stamp = self.generation

    def stamp_of(self, instance: Instance) -> int:
        """Return what changes whenever anything that is said of this instance may change."""
        return max(instance.stamp, self._all_stamp)

    def complete(self, typed: str, *, ignores_case: bool = True) -> Instance | None:
        """Return whom Ganeti takes a name for: a unique beginning, up to a dot, is enough.

        Its jobs ignore case; what is asked without a job does not.
        """
        if typed in self.instances:
            return self.instances[typed]
        fold = str.casefold if ignores_case else str
        key = fold(typed)
        known = list(self.instances.items())
        same = [it for name, it in known if fold(name) == key]
        longer = [it for name, it in known if fold(name).startswith(f"{key}.")]
        for found in (same, same + longer):
            if len(found) == 1:
                return found[0]
        return None

    def full_name(self, typed: str) -> str:
        """Return the name that a creation of ``typed`` ends up with."""
        name = typed.lower()
        return f"{name}.{self.domain}" if self.domain and "." not in name else name

    def status_of(self, instance: Instance) -> str:
        """Return the word of the list of all instances, in Ganeti's order of precedence."""
        home, host = self.nodes[instance.node], self.nodes.get(instance.running_on or "")
        is_seen = host is not None and not host.is_silent and not host.is_offline
        if home.is_offline:
            return "ERROR_nodeoffline"
        if home.is_silent and not is_seen:
            return "ERROR_nodedown"
        if not is_seen:
            if instance.admin_state == "up" and instance.stopped_inside:
                return "USER_down"
            words = {"up": "ERROR_down", "down": "ADMIN_down", "offline": "ADMIN_offline"}
            return words[instance.admin_state]
        if host is not home:
            return "ERROR_wrongnode"
        return "running" if instance.admin_state == "up" else "ERROR_up"

    def runs(self, instance: Instance) -> bool | None:
        """Return what the list says of the hypervisor: nothing, where the node says nothing."""
        if self.status_of(instance) in ("ERROR_nodedown", "ERROR_nodeoffline"):
            return None
        return instance.running_on == instance.node

    def run_state_of(self, instance: Instance) -> str | None:
        """Return what a query job says of the primary node."""
        if self.nodes[instance.node].is_offline:
            return None
        if instance.running_on == instance.node:
            return "up"
        if instance.admin_state == "up" and instance.stopped_inside:
            return "user down"
        return "offline" if instance.admin_state == "offline" else "down"
