"""Promises about the code itself: who may write a state, and what may be asked of Ganeti."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from proj.reconcile.decide import Rule

ROOT = Path(__file__).resolve().parents[1]
WRITES = {"create", "update", "update_or_create", "get_or_create", "bulk_create", "bulk_update"}
READS = {
    "GetVersion", "Query", "GetInstanceInfo", "GetInstance", "GetInstances", "GetJobs",
    "GetJobStatus",
}  # fmt: skip
TAKES_BACK_ITS_OWN = {"CancelJob"}


def calls(folder: str) -> Iterator[tuple[Path, ast.Call, str]]:
    """Yield every call of a method, with the source of what it is called on."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                yield path.relative_to(ROOT), node, ast.unparse(node.func.value)


STATE = {"status", "backend_status", "memory", "vcpus", "disks", "nics", "nodes", "os", "tags"}


def test_only_one_module_writes_the_state_of_an_instance_and_feed_begins_a_build() -> None:
    writers = set()
    for folder in ("proj", "tasks"):
        for path, call, on in calls(folder):
            assert isinstance(call.func, ast.Attribute)
            names = {keyword.arg for keyword in call.keywords}
            if call.func.attr in WRITES and "Instance.objects" in on and names & STATE:
                writers.add(str(path))
    assert writers == {"proj/reconcile/feed.py"}
    statements = {str(path) for path, call, on in calls("proj") if on == "statements"
                  and call.args and ast.unparse(call.args[0]) == "Instance"}  # fmt: skip
    assert statements == {"proj/reconcile/record.py"}


def test_nothing_is_asked_of_ganeti_but_what_reads() -> None:
    asked = {
        call.func.attr
        for _, call, on in calls("proj/ganeti")
        if isinstance(call.func, ast.Attribute) and on == "client"
    }
    assert asked == READS | TAKES_BACK_ITS_OWN


def functions_of(path: Path) -> set[str]:
    """Return the names of a file's functions."""
    return {it.name for it in ast.parse(path.read_text()).body if isinstance(it, ast.FunctionDef)}


def rows_of(document: str) -> Iterator[list[str]]:
    """Yield the cells of every row of the tables of a document."""
    for line in (ROOT / "docs" / document).read_text().splitlines():
        if line.startswith("| "):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def test_every_test_that_is_said_to_hold_a_rule_exists() -> None:
    named = set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs/rules.md").read_text()))
    missing = {f"{file}::{name}" for file, name in named if name not in functions_of(ROOT / file)}
    assert len(named) > 50
    assert not missing


def test_every_rule_of_truth_is_held_by_a_test() -> None:
    held = {rule for rule, _, tests in rows_of("rules.md") if "::test_" in tests}
    assert {f"T{number}" for number in range(1, 39)} <= held


def test_every_rule_of_the_decision_is_explained() -> None:
    explained = {name for rules, *_ in rows_of("decisions.md") for name in rules.split(", ")}
    assert explained == {"rule", *Rule}
