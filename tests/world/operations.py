"""What each of Ganeti's jobs does to an instance: as it begins, and as it ends well."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from proj.observation import Status
from tests.world.truth import Machine, Truth

Effect = Callable[[Truth, Machine, Mapping[str, Any]], None]


def nothing(truth: Truth, machine: Machine, values: Mapping[str, Any]) -> None:
    """Leave all as it is."""


def wanted_up(truth: Truth, machine: Machine, values: Mapping[str, Any]) -> None:
    """A list sees ERROR_down until it runs."""
    machine.admin = "up"
    machine.stopped_inside = False


def started(truth: Truth, machine: Machine, values: Mapping[str, Any]) -> None:
    wanted_up(truth, machine, values)
    machine.runs_on = machine.node


def wanted_down(truth: Truth, machine: Machine, values: Mapping[str, Any]) -> None:
    """A list sees ERROR_up until it has gone down."""
    machine.admin = "down"


def stopped(truth: Truth, machine: Machine, values: Mapping[str, Any]) -> None:
    machine.admin = "down"
    machine.runs_on = None
    machine.stopped_inside = False


def halted(truth: Truth, machine: Machine, values: Mapping[str, Any]) -> None:
    """It is down for now, and wanted as before."""
    machine.runs_on = None


def leaving(truth: Truth, machine: Machine, values: Mapping[str, Any]) -> None:
    """It already runs where its primary node is to be."""
    if machine.runs_on is not None and machine.secondaries:
        machine.runs_on = machine.secondaries[0]


def moved(truth: Truth, machine: Machine, values: Mapping[str, Any]) -> None:
    """The primary node and the secondary have changed places, or it has another node."""
    if machine.secondaries:
        first, *others = machine.secondaries
        machine.node, machine.secondaries = first, (machine.node, *others)
    machine.node = values.get("node", machine.node)
    machine.runs_on = machine.node if machine.admin == "up" else None


def changed(truth: Truth, machine: Machine, values: Mapping[str, Any]) -> None:
    """Its configuration is another; moving its name's node does not move what runs."""
    for name, value in values.items():
        setattr(machine, name, value)


def renamed(truth: Truth, machine: Machine, values: Mapping[str, Any]) -> None:
    machine.name = values["new_name"]


def removed(truth: Truth, machine: Machine, values: Mapping[str, Any]) -> None:
    truth.machines.pop(machine.uuid, None)


@dataclass(frozen=True, slots=True)
class Operation:
    """One of Ganeti's opcodes."""

    begin: Effect = nothing
    end: Effect = nothing
    status: Status | None = None
    takes_nodes: bool = False
    """It locks the nodes too, and so waits for who has locked one."""


OPERATIONS: Mapping[str, Operation] = {
    "CREATE": Operation(wanted_up, started, Status.BUILD, takes_nodes=True),
    "REMOVE": Operation(stopped, removed),
    "RENAME": Operation(nothing, renamed),
    "STARTUP": Operation(wanted_up, started),
    "SHUTDOWN": Operation(wanted_down, stopped),
    "REBOOT": Operation(halted, started, Status.REBOOT),
    "HARD_REBOOT": Operation(halted, started, Status.HARD_REBOOT),
    "REINSTALL": Operation(nothing, changed, Status.REBUILD),
    "SET_PARAMS": Operation(nothing, changed),
    "RESIZE": Operation(nothing, changed, Status.RESIZE),
    "GROW_DISK": Operation(nothing, changed, Status.RESIZE, takes_nodes=True),
    "REPLACE_DISKS": Operation(nothing, changed, takes_nodes=True),
    "RECREATE_DISKS": Operation(nothing, changed, takes_nodes=True),
    "ACTIVATE_DISKS": Operation(),
    "DEACTIVATE_DISKS": Operation(),
    "TAGS_SET": Operation(nothing, changed),
    "TAGS_DEL": Operation(nothing, changed),
    "EXPORT": Operation(takes_nodes=True),
    "MIGRATE": Operation(leaving, moved, takes_nodes=True),
    "FAILOVER": Operation(halted, moved, takes_nodes=True),
    "MOVE": Operation(halted, moved, takes_nodes=True),
    "CHANGE_GROUP": Operation(halted, moved, takes_nodes=True),
}

SHOWN_AS: Mapping[str, str] = {"HARD_REBOOT": "REBOOT", "RESIZE": "SET_PARAMS"}
"""The opcode of what only its parameters tell apart."""
