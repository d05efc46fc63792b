import pytest

from proj.reconcile.brake import Limits, fingerprint, hold

LIMITS = Limits()


def names(count: int) -> list[str]:
    return [f"vm{number}" for number in range(count)]


@pytest.mark.parametrize(
    ("known", "deleted", "stopped", "held"),
    [
        (100, 20, 0, False),
        (100, 21, 0, True),
        (10, 3, 0, False),
        (10, 4, 0, True),
        (100, 0, 50, False),
        (100, 0, 51, True),
        (4, 0, 3, False),
        (4, 0, 4, True),
    ],
)
def test_a_mass_change_is_held_above_its_share_and_never_for_a_few(
    known: int, deleted: int, stopped: int, held: bool
) -> None:
    found = hold(
        known=known, listed=known, deleted=names(deleted), stopped=names(stopped), limits=LIMITS
    )
    assert (found is not None) is held


def test_an_empty_list_is_held_where_instances_are_known_and_not_where_there_are_none() -> None:
    assert hold(known=1, listed=0, deleted=["vm0"], stopped=[], limits=LIMITS)
    assert hold(known=0, listed=0, deleted=[], stopped=[], limits=LIMITS) is None


def test_the_fingerprint_tells_who_goes_where_in_any_order() -> None:
    assert fingerprint(["a", "b"], ["c"]) == fingerprint(["b", "a"], ["c"])
    assert fingerprint(["a", "b"], ["c"]) != fingerprint(["a"], ["b", "c"])
