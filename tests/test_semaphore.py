"""The bound on requests at a time, over all workers."""

from contextlib import ExitStack

import pytest

import proj.semaphore
from proj.backend import Busy
from proj.semaphore import hold

pytestmark = pytest.mark.usefixtures("redis")


def take(count: int, limit: int) -> ExitStack:
    stack = ExitStack()
    for _ in range(count):
        stack.enter_context(hold("alpha", limit))
    return stack


def test_no_more_than_the_limit_and_nobody_waits() -> None:
    with take(4, 4), pytest.raises(Busy, match="4 requests are under way"), hold("alpha", 4):
        pass


def test_a_seat_is_free_again_after_its_request_even_if_that_failed() -> None:
    for _ in range(10):
        with pytest.raises(ZeroDivisionError), hold("alpha", 1):
            raise ZeroDivisionError


def test_each_cluster_has_seats_of_its_own() -> None:
    with take(1, 1), hold("beta", 1):
        pass


def test_the_seat_of_a_worker_that_died_is_free_when_its_lease_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proj.semaphore, "LEASE", 0)
    dead = hold("alpha", 1)
    dead.__enter__()
    with hold("alpha", 1):
        pass
