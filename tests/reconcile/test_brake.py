"""What is too much at once, and what names it."""

import pytest

from proj.reconcile.brake import Entry, Limits, digest, is_braked, reason_to_hold


def gone(*numbers: int) -> list[Entry]:
    return [Entry(f"u{number}", f"vm{number}", "ACTIVE", "DELETED") for number in numbers]


def stopped(*numbers: int) -> list[Entry]:
    return [Entry(f"u{number}", f"vm{number}", "ACTIVE", "STOPPED") for number in numbers]


def why(entries: list[Entry], known: int, recent: list[Entry] | None = None, **how: bool) -> str:
    return reason_to_hold(entries, recent=recent or [], known=known, limits=Limits(), **how)


@pytest.mark.parametrize(
    ("number", "known", "is_held"),
    [(3, 3, False), (4, 20, False), (5, 20, True), (20, 100, False), (21, 100, True)],
)
def test_more_than_a_fifth_deleted_and_more_than_three_are_held(
    number: int, known: int, is_held: bool
) -> None:
    assert bool(why(gone(*range(number)), known)) is is_held


@pytest.mark.parametrize(("number", "known", "is_held"), [(50, 100, False), (51, 100, True)])
def test_more_than_half_stopped_are_held(number: int, known: int, is_held: bool) -> None:
    assert bool(why(stopped(*range(number)), known)) is is_held


def test_what_happened_just_now_counts_together_with_what_is_to_happen() -> None:
    assert not why(gone(1, 2), 20, gone(3, 4))
    reason = why(gone(1, 2), 20, gone(3, 4, 5))
    assert reason == "2 of 20 instances would become DELETED, 3 did just now"


def test_an_instance_counts_once_however_often_it_is_named() -> None:
    assert not why(gone(1, 2, 1, 2), 20, gone(1, 2))


def test_nothing_to_come_is_held_by_what_happened_just_now() -> None:
    assert not why([], 20, gone(*range(10)))


def test_an_empty_list_is_excused_by_no_small_number() -> None:
    assert why(gone(1), 1, is_list_empty=True)
    assert not why(gone(1), 1)


@pytest.mark.parametrize(
    ("before", "after", "counts"),
    [
        ("ACTIVE", "STOPPED", True), ("ERROR", "STOPPED", False), ("STOPPED", "DELETED", True),
        ("DELETED", "DELETED", False), ("ACTIVE", "UNKNOWN", False), ("STOPPED", "ACTIVE", False),
    ],
)  # fmt: skip
def test_only_what_takes_something_away_is_braked(before: str, after: str, counts: bool) -> None:
    assert is_braked(before, after) is counts


def test_the_same_content_in_any_order_has_the_same_digest_and_any_other_another() -> None:
    assert digest(gone(1, 2)) == digest(gone(2, 1, 1))
    assert len({digest(gone(1, 2)), digest(gone(1)), digest(stopped(1, 2))}) == 3
