"""What is true of a simulated cluster: its nodes, its instances and its queue of jobs."""

import random
import time
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
    admin_state: str = "up"
    running_on: str | None = None
    memory: int = 1024
    vcpus: int = 1
    disks: list[int] = field(default_factory=lambda: [10240])
    nics: list[tuple[str | None, str, str, str]] = field(default_factory=list)
    os: str = "noop"
    secondaries: list[str] = field(default_factory=list)
    """The nodes that hold its disks too, as DRBD has it."""
    serial: int = 1
    mtime: float = 1.0
    stamp: int = 0
    """The cluster's generation when this instance last changed."""


@dataclass(slots=True)
class Node:
    """A node: reachable or not, offline or not."""

    name: str
    is_down: bool = False
    is_offline: bool = False


@dataclass(slots=True)
class Job:
    """One job of the queue."""

    number: int
    operation: dict[str, Json]
    received: float
    seconds: float
    status: str = "queued"
    result: Json = None
    started: float | None = None
    ended: float | None = None

    @property
    def instances(self) -> list[str]:
        """The instances that it names; a query that names none asks for all."""
        if "instances" in self.operation:
            return list(self.operation["instances"])
        return [self.operation["instance_name"]]

    @property
    def reads_only(self) -> bool:
        """Whether it shares its locks with others of its kind."""
        return bool(self.operation["OP_ID"] == "OP_INSTANCE_QUERY_DATA")

    @property
    def summary(self) -> str:
        """The word that Ganeti shows for it."""
        kind = str(self.operation["OP_ID"]).removeprefix("OP_")
        name = self.operation.get("instance_name")
        return f"{kind}({name})" if name else kind


class Truth:
    """A cluster's instances and nodes. Every change makes anew what the list says of them."""

    def __init__(self, name: str, *, nodes: int, instances: int) -> None:
        self.name = name
        self.nodes = {
            f"node{number}.{name}": Node(f"node{number}.{name}") for number in range(1, nodes + 1)
        }
        self.master = next(iter(self.nodes))
        self.instances: dict[str, Instance] = {}
        self.generation = 0
        self._all_stamp = 0
        homes = list(self.nodes)
        for number in range(1, instances + 1):
            self.add(f"vm{number:05}.{name}", homes[number % len(homes)])

    def add(self, name: str, node: str | None = None, **values: Any) -> Instance:
        """Create an instance that runs, unless told otherwise."""
        home = node or next(iter(self.nodes))
        mac = f"aa:00:00:{random.randbytes(3).hex(':')}"
        made_of = {"running_on": home, "nics": [(None, mac, "bridged", "br0")]}
        self.instances[name] = Instance(name, home, **(made_of | values))
        self.changed(name)
        return self.instances[name]

    def remove(self, name: str) -> None:
        """Make an instance cease to be."""
        self.instances.pop(name, None)
        self.changed()

    def change(self, name: str, **values: Any) -> None:
        """Change an instance; its serial number follows its configuration, not its run state."""
        instance = self.instances[name]
        for field_name, value in values.items():
            setattr(instance, field_name, value)
        if values.keys() - {"running_on"}:
            instance.serial += 1
            instance.mtime = time.time()
        self.changed(name)

    def start(self, name: str) -> None:
        """Start an instance as Ganeti does."""
        self.change(name, admin_state="up", running_on=self.instances[name].node)

    def stop(self, name: str) -> None:
        """Stop an instance as Ganeti does."""
        self.change(name, admin_state="down", running_on=None)

    def crash(self, name: str) -> None:
        """Make an instance vanish from its hypervisor."""
        self.change(name, running_on=None)

    def set_node(self, name: str, *, is_down: bool = False, is_offline: bool = False) -> None:
        """Break or mend a node."""
        self.nodes[name].is_down = is_down
        self.nodes[name].is_offline = is_offline
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

    def status_of(self, instance: Instance) -> str:
        """Return the word of the list of all instances, in Ganeti's order of precedence."""
        node = self.nodes[instance.node]
        if node.is_offline:
            return "ERROR_nodeoffline"
        if node.is_down:
            return "ERROR_nodedown"
        if instance.running_on is None:
            words = {"up": "ERROR_down", "down": "ADMIN_down", "offline": "ADMIN_offline"}
            return words[instance.admin_state]
        if instance.running_on != instance.node:
            return "ERROR_wrongnode"
        return "running" if instance.admin_state == "up" else "ERROR_up"

    def run_state_of(self, instance: Instance) -> str | None:
        """Return what a query job says of the primary node."""
        if self.nodes[instance.node].is_offline:
            return None
        if instance.running_on == instance.node:
            return "up"
        return "offline" if instance.admin_state == "offline" else "down"


Effect = Callable[[Truth, Job], Json]


def effect_of(operation: str) -> Effect:
    """Return what a job of this kind does to the truth when it ends well."""
    return _EFFECTS.get(operation, _nothing)


def beginning_of(operation: str) -> Effect:
    """Return what a job of this kind does as soon as it runs: a list sees it half done."""
    return _BEGINNINGS.get(operation, _nothing)


class JobError(Exception):
    """The job ends in this error: Ganeti's class and its arguments."""


def _query_data(truth: Truth, job: Job) -> Json:
    names = job.operation["instances"] or list(truth.instances)
    static = bool(job.operation["static"])
    return {name: _details(truth, name, static=static) for name in names}


def _details(truth: Truth, name: str, *, static: bool) -> Json:
    instance = _known(truth, name)
    node = truth.nodes[instance.node]
    if node.is_down and not node.is_offline and not static:
        raise JobError("OpExecError", f"Error checking node {node.name}: Error 7: no route")
    if not static and any(_is_silent(truth.nodes[other]) for other in instance.secondaries):
        raise JobError("OpExecError", f"Can't compute disk status for {name}: Error 7: no route")
    backend = {
        "maxmem": instance.memory, "minmem": instance.memory, "vcpus": instance.vcpus,
        "spindle_use": 1, "auto_balance": True, "always_failover": False,
    }  # fmt: skip
    return {
        "name": instance.name,
        "config_state": instance.admin_state,
        "run_state": None if static else truth.run_state_of(instance),
        "pnode": instance.node,
        "snodes": instance.secondaries,
        "os": instance.os,
        "hypervisor": "fake",
        "disk_template": "plain" if instance.disks else "diskless",
        "nics": [
            [None, f"{instance.name}-nic", ip, mac, mode, link, "", None, None]
            for ip, mac, mode, link in instance.nics
        ],
        "disks": [
            {"iv_name": f"disk/{n}", "dev_type": "plain", "size": size, "mode": "rw",
             "children": [], "logical_id": ["vg", f"disk{n}"], "pstatus": None,
             "sstatus": None, "drbd_info": None, "spindles": None, "name": None,
             "uuid": f"{instance.name}-{n}"}
            for n, size in enumerate(instance.disks)
        ],
        "be_instance": {},
        "be_actual": backend,
        "hv_instance": {},
        "hv_actual": {},
        "os_instance": {},
        "os_actual": {},
        "network_port": None,
        "serial_no": instance.serial,
        "mtime": instance.mtime,
        "ctime": 1.0,
        "uuid": f"uuid-{instance.name}",
    }  # fmt: skip


def _known(truth: Truth, name: str) -> Instance:
    instance = truth.instances.get(name)
    if instance is None:
        raise JobError("OpPrereqError", f"Instance '{name}' not known", "unknown_entity")
    return instance


def _is_silent(node: Node) -> bool:
    return node.is_down and not node.is_offline


def _begin_create(truth: Truth, job: Job) -> Json:
    (name,) = job.instances
    if name in truth.instances:
        raise JobError("OpPrereqError", f"Instance '{name}' exists already", "already_exists")
    truth.add(name, admin_state="down", running_on=None)


def _begin_start(truth: Truth, job: Job) -> Json:
    truth.change(_known(truth, *job.instances).name, admin_state="up")


def _begin_stop(truth: Truth, job: Job) -> Json:
    truth.change(_known(truth, *job.instances).name, admin_state="down")


def _start(truth: Truth, job: Job) -> Json:
    truth.start(_known(truth, *job.instances).name)


def _stop(truth: Truth, job: Job) -> Json:
    truth.stop(_known(truth, *job.instances).name)


def _remove(truth: Truth, job: Job) -> Json:
    truth.remove(_known(truth, *job.instances).name)


def _move(truth: Truth, job: Job) -> Json:
    instance = _known(truth, *job.instances)
    homes = list(truth.nodes)
    home = homes[(homes.index(instance.node) + 1) % len(homes)]
    truth.change(instance.name, node=home, running_on=instance.running_on and home)


def _nothing(truth: Truth, job: Job) -> Json:
    return None


_BEGINNINGS: dict[str, Effect] = {
    "OP_INSTANCE_CREATE": _begin_create,
    "OP_INSTANCE_STARTUP": _begin_start,
    "OP_INSTANCE_SHUTDOWN": _begin_stop,
}

_EFFECTS: dict[str, Effect] = {
    "OP_INSTANCE_QUERY_DATA": _query_data,
    "OP_INSTANCE_CREATE": _start,
    "OP_INSTANCE_STARTUP": _start,
    "OP_INSTANCE_REBOOT": _start,
    "OP_INSTANCE_REINSTALL": _nothing,
    "OP_INSTANCE_SHUTDOWN": _stop,
    "OP_INSTANCE_REMOVE": _remove,
    "OP_INSTANCE_MIGRATE": _move,
    "OP_INSTANCE_FAILOVER": _move,
}
