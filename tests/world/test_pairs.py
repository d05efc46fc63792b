"""Any two turns, interleaved: while one stands anywhere, another goes by, and all is well."""

import os
from collections.abc import Iterator
from itertools import product

import pytest
from django.db import connection
from pytest_django import DjangoDbBlocker

from proj.reconcile import turns
from tests.world import databases, meeting
from tests.world.meeting import Original

TURNS = (
    "look", "feed", "ask", "step", "settle", "request_instance", "request_sweep", "request_all",
    "approve", "announce", "housekeeping", "pause", "remove",
)  # fmt: skip
LOCKING = ("look", "feed", "step", "settle", "request_instance", "housekeeping")

on_postgres = pytest.mark.skipif(
    connection.vendor == "sqlite", reason="SQLite has one writer at a time"
)

EVERY = 1 if "PAIRS" in os.environ else 24
"""One of so many places is taken, others for each pair; all of them nightly: PAIRS=1."""


@pytest.fixture(scope="module")
def original(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[Original]:
    """A cluster in which every turn has something to do."""
    with django_db_blocker.unblock():
        yield Original()
        databases.clear()


@pytest.fixture(scope="module")
def places(original: Original) -> dict[str, int]:
    """At how many places each turn holds no transaction."""
    return {turn: len(meeting.places_of(original, turn)) for turn in FREE}


@pytest.fixture(scope="module")
def statements(original: Original) -> dict[str, int]:
    """How many statements each turn says within transactions."""
    return {turn: len(meeting.statements_of(original, turn)) for turn in LOCKING}


FREE = TURNS if connection.vendor == "sqlite" or EVERY == 1 else LOCKING
"""Where no transaction is open both databases do the same: PostgreSQL sees fewer by day."""


def some(places: int, number: int) -> list[int]:
    """Return the places that are taken of a pair, one at least."""
    return list(range(places))[number % EVERY :: EVERY] or [number % places]


def numbered(turns: tuple[str, ...]) -> list[tuple[str, str, int]]:
    """Return every ordered pair, with its number."""
    return [(*pair, number) for number, pair in enumerate(product(turns, repeat=2))]


@pytest.mark.parametrize(("first", "second", "number"), numbered(FREE))
def test_a_turn_may_go_by_wherever_another_holds_no_transaction(
    original: Original, places: dict[str, int], first: str, second: str, number: int
) -> None:
    for place in some(2 * places[first], number):
        meeting.meet(original, first, second, place // 2, late=bool(place % 2))


@pytest.mark.parametrize(("turn", "kind"), [("look", "look"), ("feed", "follow")])
def test_who_comes_back_when_the_turn_is_anothers_writes_nothing(
    original: Original, places: dict[str, int], turn: str, kind: turns.Kind
) -> None:
    for place in range(1, places[turn] - 1):
        written = meeting.written_by_one_who_comes_back(original, turn, kind, place)
        assert not written, (place, written)


@on_postgres
@pytest.mark.parametrize(("first", "second", "number"), numbered(LOCKING))
def test_a_turn_goes_by_or_waits_wherever_another_is_in_a_transaction(
    original: Original, statements: dict[str, int], first: str, second: str, number: int
) -> None:
    for place in some(statements[first], number):
        meeting.meet_inside(original, first, second, place)


@on_postgres
@pytest.mark.parametrize("turn", TURNS)
def test_a_turn_locks_the_cluster_before_questions_and_these_before_instances(
    original: Original, turn: str
) -> None:
    one = original.copy()
    with meeting.locks_in_order():
        getattr(one, turn)()
        one.check()
        one.end()
