"""Which questions a list ends, and which it does not."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from proj.inventory.models import Cluster, Priority, Question
from proj.reconcile import questions
from proj.reconcile.questions import Wanted
from tests.reconcile.conftest import Stage


def want(stage: Stage, name: str) -> None:
    """Want evidence about an instance, or about nobody, that is set aside for long."""
    at = stage.clock()
    known = {row["name"]: row["uuid"] for row in stage.rows()}
    wanted = [Wanted(known.get(name), name, at)]
    questions.ask(stage.engine.cluster, wanted, Priority.SUSPECT, at=at)
    later = at + timedelta(minutes=30)
    # It was asked at once for the last list that said the same.
    Question.objects.update(attempts=5, retry_at=later, overridden_at=at)


def list_and_read(stage: Stage) -> None:
    # In full, also where the list is as it was.
    Cluster.objects.update(agreed_digest="")
    stage.engine.look_now()
    stage.engine.feed_now()


@pytest.mark.parametrize("name", ["vm3", "nobody"])
def test_what_is_set_aside_for_long_ends_as_a_list_agrees_or_has_nobody(
    ten: Stage, name: str
) -> None:
    want(ten, name)
    list_and_read(ten)
    assert ten.questions() == []


def all_are_wished(stage: Stage) -> None:
    stage.ask_all("all")


def it_differs(stage: Stage) -> None:
    stage.world.crash("vm3")
    # The next list is not the first that says so, from which on evidence is wanted.
    stage.engine.look_now()


def it_is_asked_soon(stage: Stage) -> None:
    Question.objects.update(retry_at=stage.clock() + timedelta(seconds=10))


@pytest.mark.parametrize("so", [all_are_wished, it_differs, it_is_asked_soon])
def test_a_question_about_one_that_is_recorded_stays_where(
    ten: Stage, so: Callable[[Stage], None]
) -> None:
    want(ten, "vm3")
    so(ten)
    list_and_read(ten)
    assert ten.questions() == ["vm3"]


def test_a_question_about_nobody_stays_while_it_is_being_asked(ten: Stage) -> None:
    want(ten, "nobody")
    Question.objects.update(token="somebody", claimed_at=ten.clock())
    list_and_read(ten)
    assert ten.questions() == ["nobody"]


def test_a_question_about_nobody_stays_while_a_wish_waits_for_its_answer(ten: Stage) -> None:
    ten.ask("nobody")
    want(ten, "nobody")
    list_and_read(ten)
    # It is not one that was made anew, which would be asked at once.
    assert Question.objects.get().attempts == 5


def test_who_was_created_after_the_last_list_is_asked_about(ten: Stage) -> None:
    ten.engine.look_now()
    ten.world.finish(ten.world.begin_create("new"))
    ten.engine.feed_now()
    assert ten.questions() == ["new"]
