"""Two writers on one instance, stepped through every order in which they touch the database."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import Any

import pytest
from django.db import connection

from proj.inventory.models import Cluster, Instance, Transition
from proj.observation import Configuration, Evidence, Interval, Observation, Status
from proj.reconcile.apply import Context, Flapping, apply
from proj.reconcile.decide import Policy
from tests.reconcile.conftest import make_engine

pytestmark = pytest.mark.django_db(transaction=True)

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
STEPS = 4
BLOCKED = 0.05
"""Seconds after which a writer that was let go is taken to wait for the other's row lock."""


def observation(begin: float, word: str) -> Observation:
    status = {"running": Status.ACTIVE, "ERROR_down": Status.STOPPED}[word]
    start = NOON + timedelta(seconds=begin)
    interval = Interval(start, start + timedelta(seconds=1))
    return Observation("vm1", status, word, Configuration(), Evidence.JOB, interval, 7)


class Writer:
    """Applies one observation, one database statement at a time."""

    def __init__(self, cluster: Cluster, seen: Observation) -> None:
        self._cluster, self._seen = cluster, seen
        self._go, self._waits = threading.Semaphore(0), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.error: BaseException | None = None
        self._thread.start()

    def step(self) -> None:
        """Let the writer go on to its next statement, or until it waits for the other."""
        self._waits.clear()
        self._go.release()
        self._waits.wait(BLOCKED)

    def let_go(self) -> None:
        """Let the writer run on by itself."""
        for _ in range(100):
            self._go.release()

    def join(self) -> None:
        """Wait for the writer's end."""
        self._thread.join(10)
        assert not self._thread.is_alive()
        assert self.error is None, self.error

    def _run(self) -> None:
        policy = Policy()
        flapping = Flapping(changes=100, window=timedelta(minutes=1))
        try:
            with connection.execute_wrapper(self._pause):
                apply(self._cluster, "vm1", self._seen, Context(policy, flapping, NOON))
        except BaseException as error:
            self.error = error
        finally:
            self._waits.set()
            connection.close()

    def _pause(self, execute: Callable[..., Any], *statement: Any) -> Any:
        self._waits.set()
        self._go.acquire()
        return execute(*statement)


ORDERS = [
    "".join("A" if step in chosen else "B" for step in range(2 * STEPS))
    for chosen in combinations(range(2 * STEPS), STEPS)
]


@pytest.mark.parametrize("is_known", [True, False])
def test_in_every_order_the_newer_observation_wins_and_the_trail_has_no_gap(
    is_known: bool,
) -> None:
    if connection.vendor == "sqlite":
        pytest.skip("SQLite lets one writer in at a time: there is no order to step through")
    for order in ORDERS:
        cluster = make_engine(f"c{order}").cluster
        if is_known:
            Instance.objects.create(
                cluster=cluster, name="vm1", status="UNKNOWN", backend_status="ERROR_nodedown",
                observed_not_before=NOON, observed_not_after=NOON,
            )  # fmt: skip
        writers = {
            "A": Writer(cluster, observation(10, "running")),
            "B": Writer(cluster, observation(20, "ERROR_down")),
        }
        for letter in order:
            writers[letter].step()
        for writer in writers.values():
            writer.let_go()
        for writer in writers.values():
            writer.join()
        row = Instance.objects.get(cluster=cluster)
        assert (row.status, row.backend_status) == ("STOPPED", "ERROR_down"), order
        assert row.observed_not_before == NOON + timedelta(seconds=20), order
        trail = Transition.objects.filter(instance=row, field="status").order_by("id")
        states = [(change.before, change.after) for change in trail]
        first = "UNKNOWN" if is_known else None
        assert states in (
            [(first, "STOPPED")],
            [(first, "ACTIVE"), ("ACTIVE", "STOPPED")],
        ), order
        cluster.delete()
