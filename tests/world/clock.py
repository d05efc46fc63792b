"""The one clock of a test: it moves when it is told to, and a little with each reading."""

import heapq
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
TICK = timedelta(milliseconds=1)


class Clock:
    """What ``proj.clock.now`` is to the engine, and what makes things happen in the world.

    Real time goes on and never back; what is read may jump against it, as Redis' time may.
    """

    def __init__(self) -> None:
        self.real = BEGIN
        self._ahead = timedelta(0)
        self._eras = [(BEGIN, self._ahead)]
        self._due: list[tuple[datetime, int, Callable[[], object]]] = []
        self._numbers = count()

    def __call__(self) -> datetime:
        self._move(TICK)
        return self.peek()

    def peek(self) -> datetime:
        """Return the time without letting it pass."""
        return self.real + self._ahead

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self._move(timedelta(seconds=seconds))

    def jump(self, seconds: float) -> None:
        """Show another time from now on, without letting any pass."""
        self._ahead += timedelta(seconds=seconds)
        self._eras.append((self.real, self._ahead))

    def mend(self) -> None:
        """Show the real time again."""
        self.jump(-self._ahead.total_seconds())

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Have something happen when so much real time has passed."""
        moment = self.real + timedelta(seconds=seconds)
        heapq.heappush(self._due, (moment, next(self._numbers), action))

    def real_moments(self, reading: datetime) -> list[datetime]:
        """Return every real moment at which this time was shown: none, one, or several."""
        ends = [*(begin for begin, _ in self._eras[1:]), self.real]
        shown = (
            (reading - ahead, begin, end)
            for (begin, ahead), end in zip(self._eras, ends, strict=True)
        )
        return [moment for moment, begin, end in shown if begin <= moment <= end]

    def _move(self, by: timedelta) -> None:
        goal = self.real + by
        while self._due and self._due[0][0] <= goal:
            moment, _, action = heapq.heappop(self._due)
            self.real = max(self.real, moment)
            action()
        self.real = max(self.real, goal)
