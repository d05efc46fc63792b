"""What each opcode of Ganeti does to which instance."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from proj.backend import Work
from proj.ganeti.opcodes import OPERATIONS, READERS, work_of
from proj.observation import Status

INSTALLED = sorted(Path("/usr/share/ganeti").glob("*/ganeti/opcodes.py"))
LIST = """
import json, sys
sys.path.insert(0, sys.argv[1])
from ganeti import opcodes
codes = opcodes.OP_MAPPING.items()
print(json.dumps({code: [it[0] for it in op.GetAllParams()] for code, op in codes}))
"""


@pytest.fixture(scope="module")
def parameters() -> dict[str, list[str]]:
    """Ganeti's own list: what each of its opcodes can be given."""
    if not INSTALLED:
        pytest.skip("Debian's package ganeti is not installed: nothing to compare with")
    command = ["/usr/bin/python3", "-c", LIST, str(INSTALLED[-1].parents[1])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def works(code: str, **options: Any) -> list[Work]:
    return list(work_of({"OP_ID": code, "instance_name": "vm1"} | options))


def test_every_opcode_that_names_instances_is_work_or_reads_only(
    parameters: dict[str, list[str]],
) -> None:
    by_kind = {code for code, names in parameters.items() if {"kind", "name"} <= set(names)}
    by_name = {code for code, it in parameters.items() if {"instance_name", "instances"} & set(it)}
    assert by_kind | by_name == set(OPERATIONS) | READERS
    assert not set(OPERATIONS) & READERS


@pytest.mark.parametrize("code", sorted(READERS))
def test_what_reads_only_is_no_work(code: str) -> None:
    assert works(code) == []


@pytest.mark.parametrize("code", ["OP_QUERY", "OP_NODE_EVACUATE", "OP_GROUP_RENAME"])
def test_what_names_no_instance_is_no_work(code: str) -> None:
    assert list(work_of({"OP_ID": code, "node_name": "n1", "new_name": "g2"})) == []


@pytest.mark.parametrize(
    ("code", "options", "operation", "status"),
    [
        ("OP_INSTANCE_CREATE", {}, "CREATE", Status.BUILD),
        ("OP_INSTANCE_REBOOT", {"reboot_type": "soft"}, "REBOOT", Status.REBOOT),
        ("OP_INSTANCE_REBOOT", {"reboot_type": "hard"}, "REBOOT", Status.HARD_REBOOT),
        ("OP_INSTANCE_REBOOT", {"reboot_type": "full"}, "REBOOT", Status.HARD_REBOOT),
        ("OP_INSTANCE_REINSTALL", {}, "REINSTALL", Status.REBUILD),
        ("OP_INSTANCE_GROW_DISK", {}, "GROW_DISK", Status.RESIZE),
        ("OP_INSTANCE_SET_PARAMS", {"beparams": {"maxmem": 8}}, "SET_PARAMS", Status.RESIZE),
        ("OP_INSTANCE_SET_PARAMS", {"beparams": {"memory": 8}}, "SET_PARAMS", Status.RESIZE),
        ("OP_INSTANCE_SET_PARAMS", {"beparams": {"vcpus": 2}}, "SET_PARAMS", Status.RESIZE),
        ("OP_INSTANCE_SET_PARAMS", {"beparams": {"auto_balance": True}}, "SET_PARAMS", None),
        ("OP_INSTANCE_SET_PARAMS", {"hvparams": {}}, "SET_PARAMS", None),
        ("OP_INSTANCE_MIGRATE", {}, "MIGRATE", None),
        ("OP_BACKUP_EXPORT", {}, "EXPORT", None),
    ],
)
def test_an_operation_has_its_name_and_the_word_of_the_api_where_there_is_one(
    code: str, options: dict[str, Any], operation: str, status: Status | None
) -> None:
    assert works(code, **options) == [Work("vm1", operation, status)]


def test_an_opcode_of_a_later_ganeti_is_shown_by_its_own_name() -> None:
    assert works("OP_INSTANCE_SNAPSHOT") == [Work("vm1", "SNAPSHOT")]
    assert works("OP_DISK_CONVERT") == [Work("vm1", "DISK_CONVERT")]


def test_a_rename_works_on_both_names() -> None:
    assert works("OP_INSTANCE_RENAME", new_name="vm2") == [
        Work("vm1", "RENAME"),
        Work("vm2", "RENAME"),
    ]


def test_an_allocation_of_many_names_those_it_will_create() -> None:
    nested = [{"OP_ID": "OP_INSTANCE_CREATE", "instance_name": name} for name in ("vm1", "vm2")]
    assert list(work_of({"OP_ID": "OP_INSTANCE_MULTI_ALLOC", "instances": nested})) == [
        Work("vm1", "MULTI_ALLOC", Status.BUILD),
        Work("vm2", "MULTI_ALLOC", Status.BUILD),
    ]


def test_a_list_of_names_is_work_on_each() -> None:
    opcode = {"OP_ID": "OP_CLUSTER_REPAIR_DISK_SIZES", "instances": ["vm1", "vm2"]}
    assert [work.instance for work in work_of(opcode)] == ["vm1", "vm2"]


@pytest.mark.parametrize(("kind", "named"), [("instance", ["vm1"]), ("node", []), ("cluster", [])])
def test_tags_are_work_on_the_instance_that_they_are_for(kind: str, named: list[str]) -> None:
    opcode = {"OP_ID": "OP_TAGS_SET", "kind": kind, "name": "vm1", "tags": ["a"]}
    assert [work.instance for work in work_of(opcode)] == named


def test_a_name_that_no_instance_can_have_is_no_work() -> None:
    assert works("OP_INSTANCE_STARTUP", instance_name="../info") == []
