"""Each condition of the decision is needed: where one is taken out, a row of the table fails."""

import ast
import copy
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from proj.reconcile import decide as room
from tests.reconcile import test_decide
from tests.reconcile.test_decide import TABLE, wrong


def check(case: test_decide.Case) -> None:
    """Fail where a row of the table is not as it ought to be."""
    assert not wrong(case)


CHECKS: list[Callable[[], object]] = [
    *(partial(check, case) for case in TABLE),
    test_decide.test_an_adopted_instance_is_one_event_and_a_changed_one_is_one_for_each_field,
    test_decide.test_what_sleeps_needs_no_job_before_its_time,
]

MOVED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
}  # fmt: skip
"""What a comparison becomes whose bound belongs to the other side."""


@dataclass(frozen=True)
class Damaged:
    """A function of the decision in which one condition is not as it was."""

    owner: str
    """The class whose property it is; "" for a function of the module."""
    function: ast.FunctionDef
    title: str

    def takes_effect(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put it in the place of the one that is whole."""
        module = ast.Module([ast.fix_missing_locations(self.function)], [])
        made: dict[str, Any] = {}
        exec(compile(module, self.title, "exec"), room.__dict__, made)
        owner = getattr(room, self.owner) if self.owner else room
        monkeypatch.setattr(owner, self.function.name, made[self.function.name])


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield every function and property of the decision, with its class."""
    tree = ast.parse(inspect.getsource(room))
    for owner in (tree, *(it for it in tree.body if isinstance(it, ast.ClassDef))):
        for it in owner.body:
            if isinstance(it, ast.FunctionDef):
                yield getattr(owner, "name", ""), it


def damages(node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Yield a node without each of its conditions, and with each bound moved."""
    if isinstance(node, ast.BoolOp):
        for place, operand in enumerate(node.values):
            left = [it for at, it in enumerate(node.values) if at != place]
            text = f"without {ast.unparse(operand)}"
            yield (left[0] if len(left) == 1 else ast.BoolOp(node.op, left)), text
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            if type(operator) in MOVED:
                moved = copy.deepcopy(node)
                moved.ops[place] = MOVED[type(operator)]()
                yield moved, ast.unparse(moved)
        yield ast.Constant(True), f"{ast.unparse(node)} is always so"
        yield ast.Constant(False), f"{ast.unparse(node)} is never so"
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield ast.Constant(True), f"{ast.unparse(node)} is always so"
        yield ast.Constant(False), f"{ast.unparse(node)} is never so"
    if isinstance(node, ast.If | ast.IfExp):
        for value in (True, False):
            made = copy.deepcopy(node)
            made.test = ast.Constant(value)
            yield made, f"if {ast.unparse(node.test)} is always {value}"


class Replace(ast.NodeTransformer):
    """Puts one node in the place of another."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self._old, self._new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        """Return the node, or what comes in its place."""
        if node is self._old:
            return ast.copy_location(self._new, node)
        return self.generic_visit(node)


def all_damaged() -> Iterator[Damaged]:
    """Yield each function with each of its conditions damaged in turn."""
    for owner, function in functions():
        places = len(list(ast.walk(function)))
        for place in range(places):
            node = list(ast.walk(function))[place]
            for number, (_, text) in enumerate(damages(node)):
                made = copy.deepcopy(function)
                old = list(ast.walk(made))[place]
                new = list(damages(old))[number][0]
                line = getattr(old, "lineno", 0)
                damaged = Replace(old, new).visit(made)
                assert isinstance(damaged, ast.FunctionDef)
                yield Damaged(owner, damaged, f"{function.name}, line {line}: {text}")


@pytest.mark.parametrize("it", all_damaged(), ids=lambda it: it.title)
def test_a_condition_that_is_taken_out_is_noticed(
    it: Damaged, monkeypatch: pytest.MonkeyPatch
) -> None:
    it.takes_effect(monkeypatch)
    assert any(fails(check) for check in CHECKS), f"nobody noticed: {it.title}"


def fails(check: Callable[[], object]) -> bool:
    """Whether a check fails."""
    try:
        check()
    except Exception:
        return True
    return False
