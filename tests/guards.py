"""Take out each guard of the turns, one at a time, and see whether the tests notice.

A guard is marked in ``proj/reconcile/`` at the end of its line: ``# guard`` for a statement or for
one side of a condition, ``# guard: NAME`` for the keyword or key of this name. Each is taken out
in a copy of the project, in which the tests of the decision, of the pairs, of death and of the
scenes run until one of them fails. The conditions of ``decide()`` have a test of their own,
test_guards.py.

    python -m tests.guards [--only TEXT] [--tests PATH ...]
"""

import argparse
import ast
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOM = Path("proj/reconcile")
TESTS = (
    "tests/reconcile",
    "tests/scenes",
    "tests/world/test_pairs.py",
    "tests/world/test_dying.py",
)
LEFT = ("proj", "tasks", "tests", "manage.py", "beat_schedule.py", "pyproject.toml", "README.md",
        "docs", "Makefile", "Procfile", "requirements", "deploy")  # fmt: skip
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

    def visit_If(self, node: ast.If) -> ast.AST:
        """Leave out a whole statement, unless it has another branch."""
        if self._is_it(node) and not self._guard.name and not node.orelse:
            self.is_done = True
            return ast.copy_location(ast.Pass(), node)
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


def without(guard: Guard) -> str:
    """Return the module's text without a guard."""
    tree = ast.parse((ROOT / guard.path).read_text())
    change = Without(guard)
    changed = ast.fix_missing_locations(change.visit(tree))
    if not change.is_done:
        raise SystemExit(f"{guard}: nothing on this line can be left out")
    return ast.unparse(changed)


def is_noticed(guard: Guard, folder: Path, tests: list[str]) -> str:
    """Return the test that fails without a guard, or nothing."""
    (folder / guard.path).write_text(without(guard))
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "2", *tests]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    shutil.copy(ROOT / guard.path, folder / guard.path)
    failed = [it for it in done.stdout.splitlines() if it.startswith(("FAILED", "ERROR"))]
    return (failed or ["an error"])[0] if done.returncode else ""


def main() -> None:
    """Try every guard; fails where one is not missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.guards")
    parser.add_argument("--only", default="", help="guards whose place has this text")
    parser.add_argument("--tests", nargs="*", default=list(TESTS))
    options = parser.parse_args()
    found = [it for it in guards() if options.only in str(it)]
    unnoticed = []
    with tempfile.TemporaryDirectory() as name:
        for it in LEFT:
            whole = ROOT / it
            if whole.is_dir():
                shutil.copytree(whole, Path(name) / it)
            else:
                shutil.copy(whole, Path(name) / it)
        for guard in found:
            test = is_noticed(guard, Path(name), options.tests)
            print(f"{guard}: {test[:150] or 'NOBODY NOTICES'}", flush=True)
            if not test:
                unnoticed.append(guard)
    print(f"{len(found)} guards, {len(unnoticed)} that nobody misses")
    sys.exit(bool(unnoticed))


if __name__ == "__main__":
    main()
