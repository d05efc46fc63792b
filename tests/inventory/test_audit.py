"""The sentence by which an operator learns whether the audit budget is enough."""

from datetime import timedelta

from proj.inventory.audit import Round, audit_round

DAY = timedelta(hours=24)


def round_of(instances: int, jobs_per_hour: int) -> Round:
    return audit_round(instances, jobs_per_hour=jobs_per_hour, confirm_max_age=DAY)


def test_a_budget_that_just_suffices_keeps_up() -> None:
    assert round_of(240, 10).hours == 24
    assert round_of(240, 10).keeps_up
    assert str(round_of(240, 10)) == "each is confirmed by a job at least every 24 h"


def test_a_budget_that_is_too_small_is_said_with_what_it_gives_and_what_to_raise() -> None:
    assert not round_of(2100, 10).keeps_up
    assert str(round_of(2100, 10)) == (
        "10 jobs an hour confirm each only every 210 h, not every 24 h:"
        " raise one: manage.py cluster set NAME --jobs-per-hour N or --confirm-hours H"
    )


def test_a_budget_of_nothing_never_keeps_up() -> None:
    assert not round_of(1, 0).keeps_up
    assert str(round_of(1, 0)) == (
        "no instance is ever confirmed by turns:"
        " raise it: manage.py cluster set NAME --jobs-per-hour N"
    )
