"""Promises about the code itself: who may write a state, and what may be asked of Ganeti."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WRITES = {"create", "update", "update_or_create", "get_or_create", "bulk_create", "bulk_update"}
NOT_A_STATE = {"ask_failures", "ask_after"}
READS = {"GetVersion", "Query", "GetInstanceInfo", "GetInstance", "GetJobs"}
TAKES_BACK_ITS_OWN = {"CancelJob"}


def calls(folder: str) -> Iterator[tuple[Path, ast.Call, str]]:
    """Yield every call of a method, with the source of what it is called on."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                yield path.relative_to(ROOT), node, ast.unparse(node.func.value)


def test_only_apply_writes_the_state_of_an_instance() -> None:
    writers = set()
    for folder in ("proj", "tasks"):
        for path, call, on in calls(folder):
            assert isinstance(call.func, ast.Attribute)
            names = {keyword.arg for keyword in call.keywords}
            if call.func.attr in WRITES and "Instance.objects" in on and names - NOT_A_STATE:
                writers.add(str(path))
    assert writers == {"proj/reconcile/apply.py"}


def test_nothing_is_asked_of_ganeti_but_what_reads() -> None:
    asked = {
        call.func.attr
        for _, call, on in calls("proj/ganeti")
        if isinstance(call.func, ast.Attribute) and on == "client"
    }
    assert asked == READS | TAKES_BACK_ITS_OWN
