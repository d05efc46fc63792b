"""How a worker dies: at any statement, before any request or after any answer.

Who is dead does nothing any more: every further statement and request of the turn fails too,
also those of its ``finally`` clauses, until the turn is left. What had been committed stays.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from django.db import connection

from tests.world.world import World

READS = ("SELECT", "SAVEPOINT", "RELEASE", "ROLLBACK", "PRAGMA", "BEGIN", "EXPLAIN")
ENDS = ("ROLLBACK", "RELEASE")
"""What the database does by itself for one that is gone."""


class Died(BaseException):
    """The worker was killed; no ``except Exception`` may see it."""


@dataclass
class Mortality:
    """Counts the places where a turn may die, and lets it die at one of them."""

    world: World
    dies_at: int | None = None
    """The place, from 0; None: never."""
    places: list[str] = field(default_factory=list)
    """Those that the present turn has passed."""
    is_dead: bool = False

    @contextmanager
    def living(self) -> Iterator[None]:
        """Live through one turn, or die in it."""
        self.places, self.is_dead = [], False
        touch, touched = self.world.touch, self.world.touched

        def before(method: str) -> None:
            touch(method)
            self._pass(f"before {method}")

        def after(method: str) -> None:
            touched(method)
            self._pass(f"after {method}")

        self.world.touch, self.world.touched = before, after
        try:
            with connection.execute_wrapper(self._execute):
                yield
                self._pass("the end")
        except Died:
            pass
        finally:
            self.world.touch, self.world.touched = touch, touched
            if self.is_dead:
                self.dies_at = None

    def _execute(
        self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any
    ) -> Any:
        word = sql.lstrip().split(None, 1)[0].upper()
        if self.is_dead and word not in ENDS:
            raise Died
        if word not in READS:
            self._pass(word)
        return execute(sql, params, many, context)

    def _pass(self, place: str) -> None:
        if self.is_dead:
            raise Died
        if self.dies_at is not None and len(self.places) == self.dies_at:
            self.is_dead = True
            raise Died
        self.places.append(place)
