"""Ganeti's opcodes: which work on instances, what each does, and the API's word for it."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from proj.backend import Work
from proj.ganeti.values import printable, shown
from proj.names import is_instance_name
from proj.observation import Status

QUERY = "OP_INSTANCE_QUERY_DATA"

OPERATIONS: Mapping[str, tuple[str, Status | None]] = {
    "OP_BACKUP_EXPORT": ("EXPORT", None),
    "OP_CLUSTER_REPAIR_DISK_SIZES": ("REPAIR_DISK_SIZES", None),
    "OP_INSTANCE_ACTIVATE_DISKS": ("ACTIVATE_DISKS", None),
    "OP_INSTANCE_CHANGE_GROUP": ("CHANGE_GROUP", None),
    "OP_INSTANCE_CREATE": ("CREATE", Status.BUILD),
    "OP_INSTANCE_DEACTIVATE_DISKS": ("DEACTIVATE_DISKS", None),
    "OP_INSTANCE_FAILOVER": ("FAILOVER", None),
    "OP_INSTANCE_GROW_DISK": ("GROW_DISK", Status.RESIZE),
    "OP_INSTANCE_MIGRATE": ("MIGRATE", None),
    "OP_INSTANCE_MOVE": ("MOVE", None),
    "OP_INSTANCE_MULTI_ALLOC": ("MULTI_ALLOC", Status.BUILD),
    "OP_INSTANCE_REBOOT": ("REBOOT", Status.REBOOT),
    "OP_INSTANCE_RECREATE_DISKS": ("RECREATE_DISKS", None),
    "OP_INSTANCE_REINSTALL": ("REINSTALL", Status.REBUILD),
    "OP_INSTANCE_REMOVE": ("REMOVE", None),
    "OP_INSTANCE_RENAME": ("RENAME", None),
    "OP_INSTANCE_REPLACE_DISKS": ("REPLACE_DISKS", None),
    "OP_INSTANCE_SET_PARAMS": ("SET_PARAMS", None),
    "OP_INSTANCE_SHUTDOWN": ("SHUTDOWN", None),
    "OP_INSTANCE_STARTUP": ("STARTUP", None),
    "OP_TAGS_DEL": ("TAGS_DEL", None),
    "OP_TAGS_SET": ("TAGS_SET", None),
}
"""Every opcode that changes an instance: what it does, and the API's word where it has one."""

READERS = frozenset(
    {
        QUERY,
        "OP_BACKUP_PREPARE",
        "OP_BACKUP_REMOVE",
        "OP_INSTANCE_CONSOLE",
        "OP_TAGS_GET",
        "OP_TEST_ALLOCATOR",
    }
)
"""Opcodes that name an instance and leave it as it is."""

_NAMES = ("instance_name", "new_name")
_PREFIX = re.compile(r"^OP_(INSTANCE_)?")
_HARD = ("hard", "full")
_SIZES = frozenset({"maxmem", "minmem", "memory", "vcpus"})


def work_of(opcode: Mapping[str, Any]) -> Iterator[Work]:
    """Tell what one opcode of a job does, and to which instances.

    An opcode that is not in the table is shown by its own name. Evacuations name nodes only:
    Ganeti submits jobs for the instances, and those name them.

    Raises:
        KeyError, TypeError, ValueError: it is no opcode.
    """
    code = opcode["OP_ID"]
    if code in READERS:
        return
    operation, status = OPERATIONS.get(code, (printable(_PREFIX.sub("", code))[:30], None))
    match operation:
        case "REBOOT" if opcode.get("reboot_type") in _HARD:
            status = Status.HARD_REBOOT
        case "SET_PARAMS" if not _SIZES.isdisjoint(opcode.get("beparams") or ()):
            status = Status.RESIZE
    for name in _instances_of(opcode):
        yield Work(name, operation, status)


def _instances_of(opcode: Mapping[str, Any]) -> Iterator[str]:
    named = []
    if "instance_name" in opcode:
        named = [opcode[key] for key in _NAMES if key in opcode]
    elif opcode.get("kind") == "instance":
        named = [opcode.get("name")]
    for item in opcode.get("instances") or ():
        named.append(item["instance_name"] if isinstance(item, Mapping) else item)
    for name in named:
        if not isinstance(name, str):
            raise ValueError(f"{shown(name)} is no name of an instance")
        # Anybody may submit any name: one that no instance can have is no work on any.
        if is_instance_name(name):
            yield name
