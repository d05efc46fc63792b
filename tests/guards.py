"""Take out each guard of the turns, one at a time, and see whether the tests notice.

A guard is marked in ``proj/reconcile/`` at the end of its line: ``# guard`` for a statement or for
one side of a condition, ``# guard: NAME`` for the keyword or key of this name. Each is taken out
of the code in memory, and tests run until one of them fails. The conditions of ``decide()`` have a
test of their own, test_guards.py.

    python -m tests.guards [--only TEXT] [--tests PATH ...]
"""

import argparse
import ast
import inspect
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from importlib import import_module
from pathlib import Path
from types import CodeType

import pytest
from _pytest.runner import runtestprotocol

ROOT = Path(__file__).parents[1]
ROOM = Path("proj/reconcile")
TESTS = (
    "tests/reconcile",
    "tests/scenes",
    "tests/world/test_pairs.py",
    "tests/world/test_dying.py",
)
FIRST = (
    "tests/reconcile/test_late.py",
    "tests/reconcile/test_needless.py",
    "tests/reconcile/test_writers.py",
    "tests/reconcile/test_follow.py::test_what_somebody_else_asked",
    "tests/reconcile/test_engine.py::test_a_hold_that_no_look",
    "tests/reconcile/test_engine.py::test_of_two_chains",
    "tests/scenes/test_promises.py::test_a_worker_of_another_version",
    "tests/scenes/test_found_later.py::test_a_stranger",
    "tests/scenes/test_found_again.py::test_a_stranger_amid",
    "tests/scenes/test_found.py::test_all_reaches_others",
    "tests/world/test_pairs.py::test_who_comes_back",
)
"""Of them, those that notice what is marked today: the others are for what is marked next."""
OTHERS = ("tests/reconcile/test_decide.py", "tests/reconcile/test_guards.py")
"""They run nothing that is marked."""
MARK = re.compile(r"# guard(?:: (?P<name>\w+))?$")


@dataclass(frozen=True, slots=True)
class Guard:
    """A line that is marked, and the name that the mark gives."""

    path: Path
    line: int
    name: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}{f' {self.name}' if self.name else ''}"


def guards() -> Iterator[Guard]:
    """Yield every guard that is marked."""
    for path in sorted((ROOT / ROOM).glob("*.py")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if found := MARK.search(line):
                yield Guard(path.relative_to(ROOT), number, found["name"] or "")


class Without(ast.NodeTransformer):
    """Leaves out what a guard marks: the one thing on its line that can be left out."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self.is_done = False

    def _is_it(self, node: ast.AST) -> bool:
        return not self.is_done and getattr(node, "lineno", 0) == self._guard.line

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        """Leave out a whole statement: it is as if it never came to that."""
        if self._is_it(node) and not self._guard.name:
            self.is_done = True
            return node.orelse or ast.copy_location(ast.Pass(), node)
        return self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        """Leave out one side of a condition."""
        marked = [it for it in node.values if self._is_it(it)]
        if self._guard.name or len(marked) != 1:
            return self.generic_visit(node)
        self.is_done = True
        node.values.remove(marked[0])
        return node.values[0] if len(node.values) == 1 else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Leave out a keyword."""
        for it in node.keywords:
            is_named = bool(self._guard.name) and self._guard.name in ast.unparse(it)
            if is_named and self._is_it(it.value):
                self.is_done = True
                node.keywords.remove(it)
                return node
        return self.generic_visit(node)

    def visit_Dict(self, node: ast.Dict) -> ast.AST:
        """Leave out a key."""
        for place, key in enumerate(node.keys):
            if key is None or not self._guard.name or not self._is_it(key):
                continue
            if self._guard.name in ast.unparse(key):
                self.is_done = True
                del node.keys[place], node.values[place]
                return node
        return self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        """Leave out the condition of a comprehension."""
        marked = [it for it in node.ifs if self._is_it(it) and not self._guard.name]
        if marked:
            self.is_done = True
            node.ifs.remove(marked[0])
            return node
        return self.generic_visit(node)


def without(guard: Guard) -> ast.Module:
    """Return the module without a guard."""
    change = Without(guard)
    changed = change.visit(ast.parse((ROOT / guard.path).read_text()))
    if not change.is_done:
        raise SystemExit(f"{guard}: nothing on this line can be left out")
    assert isinstance(changed, ast.Module)
    return ast.fix_missing_locations(changed)


def owners(tree: ast.Module, line: int) -> list[str]:
    """Return the name of the function that has a line, after that of its class if it has one."""
    names: list[str] = []
    body: list[ast.stmt] = tree.body
    while not names or body:
        (it,) = [it for it in body if it.lineno <= line <= (it.end_lineno or line)]
        assert isinstance(it, ast.ClassDef | ast.FunctionDef)
        names.append(it.name)
        body = it.body if isinstance(it, ast.ClassDef) else []
    return names


@contextmanager
def taken_out(guard: Guard) -> Iterator[None]:
    """Have every call of the function go without a guard, whoever has imported it before."""
    tree = without(guard)
    names = owners(ast.parse((ROOT / guard.path).read_text()), guard.line)
    module = import_module(".".join(guard.path.with_suffix("").parts))
    function = inspect.unwrap(reduce(getattr, names, module))
    code = compile(tree, str(guard.path), "exec", dont_inherit=True)
    for name in names:
        (code,) = [it for it in code.co_consts if isinstance(it, CodeType) and it.co_name == name]
    whole, function.__code__ = function.__code__, code
    try:
        yield
    finally:
        function.__code__ = whole


@dataclass(eq=False)
class Loop:
    """In place of pytest's own: for each guard the tests run until one of them fails."""

    guards: list[Guard]
    unnoticed: list[Guard] = field(default_factory=list)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=rank)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        writer = session.config.get_terminal_writer()
        for guard in self.guards:
            with taken_out(guard):
                test = first_to_fail(session)
            if test is not None and fails(session, test):
                raise pytest.UsageError(f"{test.nodeid} fails with every guard in its place")
            noticed = test.nodeid if test else "NOBODY NOTICES"
            writer.write(f"{guard}: {noticed}\n", flush=True)
            if test is None:
                self.unnoticed.append(guard)
        return True


def rank(test: pytest.Item) -> int:
    """Return how late a test runs."""
    places = [place for place, it in enumerate(FIRST) if test.nodeid.startswith(it)]
    return min(places, default=len(FIRST))


def first_to_fail(session: pytest.Session) -> pytest.Item | None:
    """Run tests until one fails, and return it; None where none does."""
    following = [*session.items[1:], None]
    return next(
        (it for it, then in zip(session.items, following, strict=True) if fails(session, it, then)),
        None,
    )


def fails(session: pytest.Session, test: pytest.Item, then: pytest.Item | None = None) -> bool:
    """Run a test, with the one in mind that follows; what the session has set up stays."""
    after: pytest.Item = then or session  # type: ignore[assignment]
    is_failed = any(it.failed for it in runtestprotocol(test, nextitem=after, log=False))
    if is_failed:
        session._setupstate.teardown_exact(session)  # type: ignore[arg-type]
    return is_failed


def main() -> None:
    """Try every guard; fails where one is not missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.guards")
    parser.add_argument("--only", default="", help="guards whose place has this text")
    parser.add_argument("--tests", nargs="*", default=list(TESTS))
    options = parser.parse_args()
    loop = Loop([it for it in guards() if options.only in str(it)])
    ignored = [f"--ignore={it}" for it in OTHERS]
    failed = pytest.main(["-q", "-p", "no:cacheprovider", *ignored, *options.tests], [loop])
    print(f"{len(loop.guards)} guards, {len(loop.unnoticed)} that nobody misses")
    sys.exit(bool(failed or loop.unnoticed))


if __name__ == "__main__":
    main()
