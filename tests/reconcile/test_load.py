"""What a turn costs, and how often there is one."""

from datetime import timedelta
from itertools import pairwise

import pytest

from proj.inventory.models import Cluster, Instance, Question
from proj.reconcile import ask, look
from tests.fixtures.driven import statements
from tests.reconcile.conftest import Stage, make_stage
from tests.world.faults import Fault

pytestmark = pytest.mark.django_db(transaction=True)


def writes(said: list[str]) -> list[str]:
    """Return the tables that statements write to."""
    changing = [sql for sql in said if sql.startswith(("INSERT", "UPDATE", "DELETE"))]
    return [sql.replace('"', "").split("inventory_", 1)[1].split()[0] for sql in changing]


def look_counting(stage: Stage, *, is_full: bool = False) -> list[str]:
    """Take one look and one reading at rest, and return their statements."""
    stage.clock.wait(60)
    stage.engine.feed_now()
    if is_full:
        Cluster.objects.update(looks=0)
    with statements() as said:
        stage.engine.look_now()
        stage.engine.feed_now()
    return said


@pytest.mark.parametrize("is_full", [False, True])
def test_a_stable_look_costs_the_same_few_statements_at_any_size_and_writes_no_instance(
    is_full: bool,
) -> None:
    small = look_counting(make_stage(10, "small", max_in_flight=20), is_full=is_full)
    large = look_counting(make_stage(100, "large", max_in_flight=20), is_full=is_full)
    assert len(small) == len(large) <= 20
    # A look that compares lets go of holds, of which there are none.
    assert set(writes(large)) <= {"cluster", "hold"}


def test_at_rest_a_look_and_a_reading_are_one_request_each(ten: Stage) -> None:
    ten.clock.wait(60)
    before = ten.world.count()
    ten.engine.look_now()
    ten.engine.feed_now()
    methods = [it.method for it in ten.world.requests[before:] if it.method != "highest"]
    assert methods == ["look", "read_queue"]


def test_a_poll_keeps_all_answers_by_one_statement_of_each_kind(ten: Stage) -> None:
    for name in ("vm1", "vm2", "vm3"):
        ten.ask(name)
    token = ask.issue("alpha", ten.engine.context, ten.engine.told).token
    ten.clock.wait(1)
    assert token is not None
    with statements() as said:
        answered = ask.step("alpha", token, ten.engine.context, ten.engine.told).answered
    assert len(answered) == 3
    assert Question.objects.exclude(answer=None).count() == 3
    kept = [sql for sql in said if sql.startswith("UPDATE") and '"answer" =' in sql]
    assert len(kept) == 1


def test_many_answers_are_settled_by_one_task(ten: Stage) -> None:
    Cluster.objects.update(max_in_flight=10)
    ten.world.crash(*ten.world.names())
    for name in ten.world.names():
        ten.ask(name)
    ten.go_on(3)
    ten.world.requests.clear()
    assert set(ten.recorded().values()) == {"STOPPED ERROR_down"}


def test_a_row_that_changed_since_is_not_taken_for_stable(ten: Stage) -> None:
    ten.world.crash("vm3")
    assert ten.requery("vm3").outcome == "reconciled"
    assert ten.recorded()["vm3"] == "STOPPED ERROR_down"
    ten.world.start("vm3")
    ten.go_on(70)
    assert ten.recorded()["vm3"] == "ACTIVE running"


def test_the_pace_is_fast_while_things_change_and_slows_down_between_bounds(ten: Stage) -> None:
    paces = []
    for turn in range(6):
        (ten.world.crash, ten.world.start)[turn % 2]("vm3")
        ten.engine.look_now()
        paces.append(ten.engine.cluster.pace)
        ten.go_on(5)
    assert paces[-1] == ten.engine.tuning.look_period_min
    for _ in range(10):
        ten.clock.wait(60)
        ten.engine.feed_now()
        ten.engine.look_now()
        paces.append(ten.engine.cluster.pace)
    assert paces[-1] == ten.engine.tuning.look_period
    assert sorted(paces[6:]) == paces[6:]


def test_each_look_that_fails_doubles_the_wait_up_to_a_bound(ten: Stage) -> None:
    ten.world.fail(Fault.DOWN)
    pauses = []
    for _ in range(12):
        ten.engine.look_now()
        due = ten.engine.cluster.next_look_at
        assert due is not None
        pauses.append((due - ten.clock()).total_seconds())
    assert ten.engine.cluster.failures == 12
    assert 10 - 1 <= pauses[0] <= 10
    assert all(pause <= 300 for pause in pauses)
    assert pauses[-1] > 140


def test_each_query_that_fails_doubles_the_wait_of_its_instance_up_to_an_hour(ten: Stage) -> None:
    ten.world.faults.refusing.add("vm3")
    ten.world.change("vm3", memory=8)
    ten.engine.look_now()
    waits = []
    for attempt in range(1, 15):
        Question.objects.update(retry_at=None)
        ten.engine.ask()
        ten.clock.wait(1)
        ten.engine.deliver()
        ten.engine.messages.clear()
        Cluster.objects.update(await_until=None, await_token="", next_ask_at=None)
        question = Question.objects.get(name="vm3")
        assert (question.attempts, question.retry_at is not None) == (attempt, True)
        assert question.retry_at is not None
        waits.append((question.retry_at - ten.clock()).total_seconds())
    most = [min(2**number, 3600) for number in range(14)]
    assert all(limit / 2 - 1 <= wait <= limit for wait, limit in zip(waits, most, strict=True))


def test_a_disagreement_that_lasts_is_asked_about_rarer_and_rarer_and_is_shown(ten: Stage) -> None:
    known = ten.world.truth.machines[ten.row("vm3").uuid]
    told = ten.world.truth.told
    ten.world.truth.told = lambda machine: (  # type: ignore[method-assign]
        "running" if machine is known else told(machine)
    )
    listed = ten.world.truth.listed
    ten.world.truth.listed = lambda machine: (  # type: ignore[method-assign]
        "ERROR_up" if machine is known else listed(machine)
    )
    ten.go_on(1500, step=5)
    asked = [it.at for it in ten.world.requests if it.about == "vm3"][1:]
    apart = [(after - before).total_seconds() for before, after in pairwise(asked)]
    assert apart[0] < apart[1] < apart[2] < apart[3]
    # Never longer than a change may take to be recorded: what is denied may have become true.
    bound = ten.engine.tuning.bound.total_seconds()
    assert all(bound / 2 < it <= bound for it in apart[4:])
    assert len(asked) <= 15
    assert ten.row("vm3").differs["state"]["acquittals"] > 2


def test_the_audit_confirms_the_oldest_first(ten: Stage) -> None:
    Cluster.objects.update(jobs_per_hour=60)
    at = ten.clock()
    for number in range(10):
        Instance.objects.filter(name=f"vm{number}").update(
            audited_at=at - timedelta(hours=24 - number)
        )
    ten.go_on(300, step=5)
    assert ten.asked()[10:] == [f"vm{number}" for number in range(len(ten.asked()) - 10)]
    assert 4 <= len(ten.asked()) - 10 <= 6


def test_after_a_restart_the_clusters_are_not_looked_at_all_at_once() -> None:
    stages = [make_stage(name=f"c{number}") for number in range(20)]
    at = stages[0].clock()
    Cluster.objects.update(next_look_at=at - timedelta(hours=1))
    look.spread_herd(stages[0].engine.tuning, at=at)
    turns = set(Cluster.objects.values_list("next_look_at", flat=True))
    assert len(turns) == 20
    assert all(at <= turn <= at + timedelta(seconds=60) for turn in turns)
