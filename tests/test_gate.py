"""The bound on requests at a time, over all workers."""

from contextlib import ExitStack

import pytest

import proj.gate
from proj.backend import Busy
from proj.gate import seat

pytestmark = pytest.mark.usefixtures("redis")


def take(count: int, limit: int) -> ExitStack:
    stack = ExitStack()
    for _ in range(count):
        stack.enter_context(seat("alpha", limit))
    return stack


def test_no_more_than_the_limit_and_nobody_waits() -> None:
    with take(4, 4), pytest.raises(Busy, match="4 requests are under way"), seat("alpha", 4):
        pass


def test_a_seat_is_free_again_after_its_request_even_if_that_failed() -> None:
    for _ in range(10):
        with pytest.raises(ZeroDivisionError), seat("alpha", 1):
            raise ZeroDivisionError


def test_each_cluster_has_seats_of_its_own() -> None:
    with take(1, 1), seat("beta", 1):
        pass


def test_the_seat_of_a_worker_that_died_is_free_when_its_lease_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proj.gate, "LEASE", 0)
    dead = seat("alpha", 1)
    dead.__enter__()
    with seat("alpha", 1):
        pass
