"""What the operations of a job name, lock and do."""

from collections.abc import Callable
from dataclasses import dataclass, field

from proj.simulator.truth import Instance, Json, Truth

QUERY = "OP_INSTANCE_QUERY_DATA"
CREATE = "OP_INSTANCE_CREATE"
RENAME = "OP_INSTANCE_RENAME"
DELAY = "OP_TEST_DELAY"

LEVELS = 2
"""Locks are taken in this many steps: of instances, then of nodes."""


class JobError(Exception):
    """The job ends in this error: Ganeti's class and its arguments."""

    @property
    def result(self) -> Json:
        """The error as the result of an operation shows it."""
        kind, *arguments = self.args
        return [kind, arguments]


@dataclass(frozen=True, slots=True)
class Lock:
    """What an operation holds of the instances, or of the nodes; no names are all of them."""

    names: frozenset[str] | None = frozenset()
    is_shared: bool = False

    def excludes(self, other: "Lock") -> bool:
        """Whether the two cannot be held at a time."""
        if self.is_shared and other.is_shared:
            return False
        if self.names is None or other.names is None:
            return self.names != frozenset() and other.names != frozenset()
        return not self.names.isdisjoint(other.names)


@dataclass(slots=True)
class Operation:
    """One operation of a job."""

    given: dict[str, Json]
    """As RAPI shows it. A name is as it was typed until the operation runs."""
    status: str = "queued"
    result: Json = None
    instances: list[str] = field(default_factory=list)
    """Full names, from the moment that it waits for its locks."""
    held: list[Lock] = field(default_factory=list)
    """Of instances first, then of nodes: who waits for a node holds its instances."""
    began: float = 0.0
    delay: float = 0.0
    """Seconds that a hanging node costs it."""

    @property
    def kind(self) -> str:
        """Ganeti's OP_ID."""
        return str(self.given["OP_ID"])

    @property
    def is_query(self) -> bool:
        """Whether it only reads."""
        return self.kind == QUERY

    @property
    def is_static(self) -> bool:
        """Whether it takes no locks and asks no node."""
        return bool(self.given.get("static"))

    @property
    def summary(self) -> str:
        """The word that Ganeti shows for it; a renaming names nobody."""
        word = self.kind.removeprefix("OP_")
        shown = {RENAME: None, DELAY: "duration"}.get(self.kind, "instance_name")
        value = self.given.get(shown) if shown else None
        return word if value is None else f"{word}({value})"

    @property
    def typed(self) -> list[str]:
        """The instances that it names, as somebody typed them."""
        if self.is_query:
            return list(self.given.get("instances", ()))
        return [self.given["instance_name"]] if "instance_name" in self.given else []


def resolve(truth: Truth, op: Operation) -> None:
    """Find out whom it names, before it asks for locks.

    Raises:
        JobError: there is no such instance.
    """
    if op.kind == CREATE:
        op.instances = [truth.full_name(op.given["instance_name"])]
        return
    if op.typed:
        op.instances = [_completed(truth, name).name for name in op.typed]
    if op.kind not in FOR_FORTHCOMING and any(
        truth.instances[name].is_forthcoming for name in op.instances
    ):
        raise JobError("OpPrereqError", "forthcoming instances not supported for this operation")


def lock_of(truth: Truth, op: Operation) -> Lock:
    """Return what it needs next: its instances, then their nodes."""
    names = None if op.is_query and not op.typed else frozenset(op.instances)
    if op.is_query and op.is_static:
        return Lock()
    if not op.held:
        return Lock(names, is_shared=op.is_query)
    if op.kind == DELAY:
        return Lock(frozenset(op.given.get("on_nodes", ())))
    if op.kind in WITHOUT_NODES:
        return Lock()
    return Lock(_nodes_of(truth, op, names), is_shared=op.is_query or op.kind == CREATE)


def begin(truth: Truth, op: Operation) -> None:
    """Do what it does as soon as it runs: a list sees it half done.

    Raises:
        JobError: it cannot be done.
    """
    if "instance_name" in op.given:
        op.given["instance_name"] = op.instances[0]
        if op.instances[0] in truth.instances:
            op.given["instance_uuid"] = truth.instances[op.instances[0]].uuid
    if op.is_query and not op.is_static:
        names = op.instances or list(truth.instances)
        nodes = [truth.nodes[truth.instances[it].node] for it in names if it in truth.instances]
        op.delay = max((node.hangs for node in nodes if node.is_silent), default=0.0)
    _BEGINNINGS.get(op.kind, _nothing)(truth, op)


def finish(truth: Truth, op: Operation) -> Json:
    """Do what it does in the end, and return its result.

    Raises:
        JobError: it cannot be done.
    """
    return _ENDS.get(op.kind, _nothing)(truth, op)


def _completed(truth: Truth, typed: str) -> Instance:
    found = truth.complete(typed)
    if found is None:
        raise JobError("OpPrereqError", f"Instance '{typed}' not known", "unknown_entity")
    return found


def _its_own(truth: Truth, op: Operation) -> Instance:
    """Return the one instance that it works on, if it is still there."""
    return _known(truth, op.instances[0])


def _known(truth: Truth, name: str) -> Instance:
    found = truth.instances.get(name)
    if found is None:
        raise JobError("OpPrereqError", f"Instance '{name}' not known", "unknown_entity")
    return found


def _nodes_of(truth: Truth, op: Operation, names: frozenset[str] | None) -> frozenset[str] | None:
    if names is None:
        return None
    if op.kind == CREATE:
        return frozenset([op.given.get("pnode") or next(iter(truth.nodes))])
    found = [truth.instances[name] for name in names if name in truth.instances]
    nodes = {node for instance in found for node in (instance.node, *instance.secondaries)}
    if op.kind in MOVES:
        nodes |= {_next_node(truth, instance) for instance in found}
    return frozenset(nodes)


def _next_node(truth: Truth, instance: Instance) -> str:
    homes = list(truth.nodes)
    return homes[(homes.index(instance.node) + 1) % len(homes)]


def _query_data(truth: Truth, op: Operation) -> Json:
    names = op.instances if op.typed else list(truth.instances)
    return {name: _details(truth, _known(truth, name), static=op.is_static) for name in names}


def _details(truth: Truth, instance: Instance, *, static: bool) -> Json:
    node = truth.nodes[instance.node]
    if node.is_silent and not static:
        raise JobError("OpExecError", f"Error checking node {node.name}: Error 7: no route")
    if not static and any(truth.nodes[other].is_silent for other in instance.secondaries):
        raise JobError(
            "OpExecError", f"Can't compute disk status for {instance.name}: Error 7: no route"
        )
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
        "ctime": instance.ctime,
        "uuid": instance.uuid,
    }  # fmt: skip


def _begin_create(truth: Truth, op: Operation) -> Json:
    (name,) = op.instances
    if op.given.get("commit"):
        _its_own(truth, op)
    elif name in truth.instances:
        raise JobError("OpPrereqError", f"Instance '{name}' exists already", "already_exists")
    elif op.given.get("forthcoming"):
        truth.reserve(name, op.given.get("pnode"))
    else:
        truth.add(name, op.given.get("pnode"), admin_state="down", running_on=None)


def _create(truth: Truth, op: Operation) -> Json:
    instance = _its_own(truth, op)
    if not op.given.get("forthcoming"):
        truth.change(instance.name, is_forthcoming=False)
        if op.given.get("start", True):
            truth.start(instance.name)
    return [instance.node]


def _begin_start(truth: Truth, op: Operation) -> Json:
    truth.change(_its_own(truth, op).name, admin_state="up")


def _begin_stop(truth: Truth, op: Operation) -> Json:
    truth.change(_its_own(truth, op).name, admin_state="down")


def _begin_migrate(truth: Truth, op: Operation) -> Json:
    instance = _its_own(truth, op)
    if instance.running_on:
        truth.change(instance.name, running_on=_next_node(truth, instance))


def _begin_failover(truth: Truth, op: Operation) -> Json:
    truth.crash(_its_own(truth, op).name)


def _begin_rename(truth: Truth, op: Operation) -> Json:
    instance = _its_own(truth, op)
    if op.given.get("name_check", True):
        op.given["new_name"] = truth.full_name(op.given["new_name"])
    if instance.admin_state == "up" or instance.running_on:
        problem = f"Instance '{instance.name}' is marked to be up, cannot rename"
        raise JobError("OpPrereqError", problem, "wrong_state")
    if op.given["new_name"] in truth.instances:
        problem = f"Instance '{op.given['new_name']}' is already in the cluster"
        raise JobError("OpPrereqError", problem, "already_exists")


def _start(truth: Truth, op: Operation) -> Json:
    truth.start(_its_own(truth, op).name)


def _stop(truth: Truth, op: Operation) -> Json:
    truth.stop(_its_own(truth, op).name)


def _remove(truth: Truth, op: Operation) -> Json:
    truth.remove(_its_own(truth, op).name)


def _rename(truth: Truth, op: Operation) -> Json:
    truth.rename(_its_own(truth, op).name, op.given["new_name"])
    return op.given["new_name"]


def _migrate(truth: Truth, op: Operation) -> Json:
    instance = _its_own(truth, op)
    home = _next_node(truth, instance)
    truth.change(instance.name, node=home, running_on=instance.running_on and home)


def _failover(truth: Truth, op: Operation) -> Json:
    instance = _its_own(truth, op)
    home = _next_node(truth, instance)
    truth.change(
        instance.name, node=home, running_on=home if instance.admin_state == "up" else None
    )


def _set_parameters(truth: Truth, op: Operation) -> Json:
    backend = op.given.get("beparams") or {}
    values: dict[str, Json] = {}
    for key, name in (("memory", "memory"), ("maxmem", "memory"), ("vcpus", "vcpus")):
        if key in backend:
            values[name] = backend[key]
    if op.given.get("offline") is not None:
        values["admin_state"] = "offline" if op.given["offline"] else "down"
    truth.change(_its_own(truth, op).name, **values)


def _nothing(_truth: Truth, _op: Operation) -> Json:
    return None


Effect = Callable[[Truth, Operation], Json]

WITHOUT_NODES = frozenset(
    {
        "OP_INSTANCE_STARTUP",
        "OP_INSTANCE_SHUTDOWN",
        "OP_INSTANCE_REBOOT",
        "OP_INSTANCE_REINSTALL",
        RENAME,
    }
)
"""Operations that lock no node; any other locks its instances' nodes."""

MOVES = frozenset({"OP_INSTANCE_MIGRATE", "OP_INSTANCE_FAILOVER", "OP_INSTANCE_MOVE"})

FOR_FORTHCOMING = MOVES | {QUERY, CREATE, RENAME, DELAY, "OP_INSTANCE_REMOVE"}
"""Operations that a forthcoming instance stands."""

_BEGINNINGS: dict[str, Effect] = {
    CREATE: _begin_create,
    RENAME: _begin_rename,
    "OP_INSTANCE_STARTUP": _begin_start,
    "OP_INSTANCE_SHUTDOWN": _begin_stop,
    "OP_INSTANCE_MIGRATE": _begin_migrate,
    "OP_INSTANCE_FAILOVER": _begin_failover,
    "OP_INSTANCE_MOVE": _begin_failover,
}

_ENDS: dict[str, Effect] = {
    QUERY: _query_data,
    CREATE: _create,
    RENAME: _rename,
    "OP_INSTANCE_STARTUP": _start,
    "OP_INSTANCE_REBOOT": _start,
    "OP_INSTANCE_SHUTDOWN": _stop,
    "OP_INSTANCE_REMOVE": _remove,
    "OP_INSTANCE_SET_PARAMS": _set_parameters,
    "OP_INSTANCE_MIGRATE": _migrate,
    "OP_INSTANCE_FAILOVER": _failover,
    "OP_INSTANCE_MOVE": _failover,
}
