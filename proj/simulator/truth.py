"""What is true of a simulated cluster: its nodes, its instances and its queue of jobs."""

import random
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
    serial: int = 1


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
    archived: bool = False

    @property
    def instances(self) -> list[str]:
        """The instances that it works on."""
        named = self.operation.get("instances")
        return list(named) if named else [self.operation["instance_name"]]

    @property
    def summary(self) -> str:
        """The word that Ganeti shows for it."""
        kind = str(self.operation["OP_ID"]).removeprefix("OP_")
        name = self.operation.get("instance_name")
        return f"{kind}({name})" if name else kind


class Truth:
    """A cluster's instances and nodes. Every change makes the list anew."""

    def __init__(self, name: str, *, nodes: int, instances: int) -> None:
        self.name = name
        self.nodes = {
            f"node{number}.{name}": Node(f"node{number}.{name}") for number in range(1, nodes + 1)
        }
        self.instances: dict[str, Instance] = {}
        self.generation = 0
        homes = list(self.nodes)
        for number in range(1, instances + 1):
            self.add(f"vm{number:05}.{name}", homes[number % len(homes)])

    def add(self, name: str, node: str | None = None, **values: Any) -> Instance:
        """Create an instance that runs."""
        home = node or next(iter(self.nodes))
        mac = "aa:00:00:" + ":".join(f"{random.randrange(256):02x}" for _ in range(3))
        instance = Instance(
            name, home, running_on=home, nics=[(None, mac, "bridged", "br0")], **values
        )
        self.instances[name] = instance
        self.changed()
        return instance

    def remove(self, name: str) -> None:
        """Make an instance cease to be."""
        self.instances.pop(name, None)
        self.changed()

    def change(self, name: str, **values: Any) -> None:
        """Change an instance behind everybody's back."""
        for field_name, value in values.items():
            setattr(self.instances[name], field_name, value)
        self.changed()

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

    def changed(self) -> None:
        """Say that whatever was computed from the truth is old."""
        self.generation += 1

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


class JobError(Exception):
    """The job ends in this error: Ganeti's class and its arguments."""


def _query_data(truth: Truth, job: Job) -> Json:
    names = job.operation["instances"] or list(truth.instances)
    static = bool(job.operation["static"])
    return {name: _details(truth, name, static=static) for name in names}


def _details(truth: Truth, name: str, *, static: bool) -> Json:
    instance = truth.instances.get(name)
    if instance is None:
        raise JobError("OpPrereqError", f"Instance '{name}' not known", "unknown_entity")
    node = truth.nodes[instance.node]
    if node.is_down and not node.is_offline and not static:
        raise JobError("OpExecError", f"Error checking node {node.name}: Error 7: no route")
    backend = {
        "maxmem": instance.memory, "minmem": instance.memory, "vcpus": instance.vcpus,
        "spindle_use": 1, "auto_balance": True, "always_failover": False,
    }  # fmt: skip
    return {
        "name": instance.name,
        "config_state": instance.admin_state,
        "run_state": None if static else truth.run_state_of(instance),
        "pnode": instance.node,
        "snodes": [],
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
        "mtime": 1.0,
        "ctime": 1.0,
        "uuid": f"uuid-{instance.name}",
    }  # fmt: skip


def _create(truth: Truth, job: Job) -> Json:
    truth.add(job.instances[0])


def _start(truth: Truth, job: Job) -> Json:
    truth.start(job.instances[0])


def _stop(truth: Truth, job: Job) -> Json:
    truth.stop(job.instances[0])


def _remove(truth: Truth, job: Job) -> Json:
    truth.remove(job.instances[0])


def _move(truth: Truth, job: Job) -> Json:
    instance = truth.instances[job.instances[0]]
    homes = list(truth.nodes)
    home = homes[(homes.index(instance.node) + 1) % len(homes)]
    truth.change(instance.name, node=home, running_on=instance.running_on and home)


def _nothing(truth: Truth, job: Job) -> Json:
    return None


_EFFECTS: dict[str, Effect] = {
    "OP_INSTANCE_QUERY_DATA": _query_data,
    "OP_INSTANCE_CREATE": _create,
    "OP_INSTANCE_STARTUP": _start,
    "OP_INSTANCE_REBOOT": _start,
    "OP_INSTANCE_REINSTALL": _nothing,
    "OP_INSTANCE_SHUTDOWN": _stop,
    "OP_INSTANCE_REMOVE": _remove,
    "OP_INSTANCE_MIGRATE": _move,
    "OP_INSTANCE_FAILOVER": _move,
}
