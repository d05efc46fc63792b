"""A worker dies at each of its writes in turn, in a cluster where every turn has much to do."""

from collections.abc import Iterator

import pytest
from pytest_django import DjangoDbBlocker

from tests.world import databases
from tests.world.meeting import Original


@pytest.fixture(scope="module")
def original(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[Original]:
    """A cluster in which every turn has something to do."""
    with django_db_blocker.unblock():
        yield Original()
        databases.clear()


@pytest.mark.parametrize("turn", ["look", "feed", "step", "settle"])
def test_a_turn_may_die_at_every_write(original: Original, turn: str) -> None:
    whole = original.copy()
    getattr(whole, turn)()
    for place, what in enumerate(whole.engine.mortality.places):
        one = original.copy()
        one.engine.mortality.dies_at = place
        getattr(one, turn)()
        try:
            one.check()
            one.end()
        except AssertionError as error:
            raise AssertionError(f"died at {place}, {what}") from error
