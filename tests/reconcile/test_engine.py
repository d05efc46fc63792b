"""The engine turn by turn: what a change comes to, and what a request is answered."""

from collections.abc import Sequence
from datetime import timedelta

import pytest
from django.db import IntegrityError, transaction

from proj.cli.waiting import wait_for
from proj.inventory.models import Cluster, Instance, Question, Request, Transition
from proj.reconcile import announce, ask, holds, requests
from proj.reconcile.brake import Limits
from tests.reconcile.conftest import Stage, make_stage
from tests.world import engine as world_engine
from tests.world.faults import Fault

BRAKE = Limits()


# What changes


def test_every_instance_is_adopted_by_a_job(ten: Stage) -> None:
    assert sorted(ten.asked()) == sorted(ten.world.names())
    assert not Instance.objects.filter(confirmed_at=None).exists()
    assert ten.trail("vm3") == [(None, "ACTIVE", "adopted")]


def test_a_suspect_is_asked_and_nobody_else(ten: Stage) -> None:
    ten.world.crash("vm3")
    done = ten.run()
    assert (done.outcome, done.suspects, done.listed) == ("reconciled", 1, 10)
    assert ten.asked()[10:] == ["vm3"]
    assert ten.recorded()["vm3"] == "STOPPED ERROR_down"


def test_configuration_is_corrected_field_by_field(ten: Stage) -> None:
    ten.world.change("vm3", memory=8, vcpus=2)
    ten.run()
    assert ten.trail("vm3", "memory")[-1] == (1024, 8, "job-convicts")
    assert ten.trail("vm3", "vcpus")[-1] == (1, 2, "job-convicts")
    assert ten.recorded()["vm3"] == "ACTIVE running"


def test_tags_are_settled_by_lists_and_take_no_job(ten: Stage) -> None:
    ten.world.tag("vm3", "a")
    ten.go_on(70)
    assert ten.trail("vm3", "tags")[-1] == ([], ["a"], "two-lists-agree")
    assert ten.asked()[10:] == []


def test_a_wrong_node_is_recorded_by_two_lists_without_any_job(ten: Stage) -> None:
    ten.world.wrong_node("vm3")
    assert ten.run().outcome == "reconciled"
    assert ten.recorded()["vm3"] == "ERROR ERROR_wrongnode"
    assert ten.asked()[10:] == []
    assert ten.run("all").outcome == "in_sync"
    assert ten.recorded()["vm3"] == "ERROR ERROR_wrongnode"
    ten.world.crash("vm3")
    ten.run()
    assert ten.recorded()["vm3"] == "STOPPED ERROR_down"


def test_gone_is_proven_by_two_lists_and_a_404(ten: Stage) -> None:
    ten.world.remove("vm3")
    assert ten.run().outcome == "reconciled"
    assert ten.trail("vm3")[-1] == ("ACTIVE", "DELETED", "gone")


def test_an_instance_missing_from_the_lists_but_known_by_name_stays(ten: Stage) -> None:
    ten.world.faults.missing.add("vm3")
    ten.go_on(200, step=2)
    assert ten.recorded()["vm3"] == "ACTIVE running"


def test_a_failed_look_says_nothing_about_any_instance(ten: Stage) -> None:
    ten.world.fail(Fault.DOWN)
    done = ten.run()
    assert (done.outcome, done.error.startswith("not confirmed")) == ("failed", True)
    assert "nothing listens" in done.error
    assert ten.engine.cluster.failures > 0
    assert ten.recorded() == dict.fromkeys(ten.world.names(), "ACTIVE running")
    ten.world.mend()
    ten.go_on(300, step=2)
    assert ten.engine.cluster.failures == 0


def test_what_is_unknown_to_us_is_only_reported_where_the_operator_says_so(ten: Stage) -> None:
    Cluster.objects.update(unknown="report")
    ten.world.create("new")
    ten.go_on(100)
    assert "new" not in ten.recorded()
    assert [finding["instance"] for finding in ten.engine.cluster.findings] == ["new"]


def test_a_plan_names_the_changes_and_writes_nothing(ten: Stage) -> None:
    before = ten.rows()
    ten.world.crash("vm3")
    ten.world.create("new")
    found = {(it["instance"], it["field"], it["to"]) for it in ten.plan()}
    assert found == {
        ("vm3", "status", "STOPPED"), ("vm3", "backend_status", "ERROR_down"),
        ("new", "status", "ACTIVE"),
    }  # fmt: skip
    assert ten.rows() == before
    assert not Question.objects.exists()


# The brake


@pytest.fixture
def braked(ten: Stage) -> Stage:
    """Ten instances, and a brake."""
    ten.tune(limits=BRAKE)
    return ten


@pytest.mark.parametrize("survivors", [0, 6])
def test_a_mass_deletion_is_held_until_it_is_approved(braked: Stage, survivors: int) -> None:
    braked.world.remove(*(f"vm{number}" for number in range(survivors, 10)))
    held = braked.run()
    assert held.outcome == "held"
    assert set(braked.recorded().values()) == {"ACTIVE running"}
    (hold,) = braked.held()
    assert f"approve {hold.pk}" in held.error
    braked.approve()
    braked.go_on(60)
    assert list(braked.recorded().values()).count("DELETED") == 10 - survivors


def test_an_approval_lets_through_what_was_seen_and_nothing_else(braked: Stage) -> None:
    braked.tune(limits=Limits(stopped_share=0.2, at_least=2))
    braked.world.stop(*(f"vm{number}" for number in range(6)))
    braked.go_on(70)
    (seen,) = braked.held()
    braked.world.start("vm0")
    braked.world.stop("vm6", "vm7", "vm8")
    braked.go_on(70)
    (now,) = braked.held()
    assert now.pk != seen.pk
    holds.approve(seen, braked.engine.tuning, at=braked.clock())
    braked.go_on(70)
    stopped = {name for name, state in braked.recorded().items() if "STOPPED" in state}
    assert stopped == {f"vm{number}" for number in range(1, 6)}


def test_a_hold_that_no_look_has_found_for_an_hour_cannot_be_approved(braked: Stage) -> None:
    braked.world.stop_all()
    braked.go_on(70)
    (hold,) = braked.held()
    braked.world.start(*braked.world.names())
    braked.go_on(70)
    assert not braked.held()
    braked.tune(hold_for=60)
    with pytest.raises(holds.CannotBeApproved, match="over"):
        holds.approve(hold, braked.engine.tuning, at=braked.clock())


def test_a_mass_stop_is_held_and_a_mass_unknown_passes(braked: Stage) -> None:
    braked.world.crash(*braked.world.names())
    assert braked.run().outcome == "held"
    braked.world.node_down(*braked.world.truth.nodes)
    braked.go_on(100)
    assert set(braked.recorded().values()) == {"UNKNOWN ERROR_nodedown"}


def test_a_mass_stop_that_only_the_jobs_see_is_held_too(braked: Stage) -> None:
    braked.ask_all("all")
    braked.engine.look_now()
    braked.world.crash(*braked.world.names())
    for _ in range(30):
        braked.engine.ask()
        braked.engine.deliver()
        braked.clock.wait(0.5)
    stopped = [state for state in braked.recorded().values() if state == "STOPPED ERROR_down"]
    assert 0 < len(stopped) <= 5
    braked.go_on(70)
    assert len(braked.held()) == 1


def test_a_request_of_which_some_is_held_ends_however_often_the_house_is_kept(
    braked: Stage,
) -> None:
    braked.world.remove(*(f"vm{number}" for number in range(5)))
    request = braked.ask_all()
    for _ in range(200):
        braked.go_on(1)
        world_engine.Engine.housekeeping(braked.engine)
    request.refresh_from_db()
    assert (request.outcome, len(request.unconfirmed)) == ("held", 5)


# Seats and shares


def test_never_more_jobs_in_flight_than_the_cluster_allows(ten: Stage) -> None:
    ten.world.queries.seconds = 1000
    ten.ask_all("all")
    for name in ten.world.names():
        ten.ask(name)
    for _ in range(60):
        ten.go_on(1)
        assert len(ten.world.our_jobs()) <= 3
    assert len(ten.world.our_jobs()) == 3


def test_a_name_about_which_every_request_fails_holds_up_no_other(ten: Stage) -> None:
    ten.world.faults.unaskable = {"vm0"}
    ten.world.crash("vm1")
    for name in ("vm0", "vm1"):
        ten.ask(name)
    ten.go_on(20)
    assert ten.recorded()["vm1"] == "STOPPED ERROR_down"
    waiting = Question.objects.get(name="vm0")
    assert (waiting.attempts > 0, waiting.error) == (True, "vm0: 500")


def test_on_demand_work_overtakes_the_rest(ten: Stage) -> None:
    ten.ask_all("all")
    ten.engine.look_now()
    ten.ask("vm9")
    ten.engine.ask()
    assert "vm9" in ten.asked()[10:13]


def test_under_a_flood_on_demand_a_suspect_and_the_audit_keep_their_turns(ten: Stage) -> None:
    Instance.objects.update(audited_at=ten.clock() - timedelta(days=2))
    ten.world.crash("vm9")
    ten.engine.look_now()
    for turn in range(60):
        ten.ask(f"vm{turn % 8}")
        ten.go_on(1)
    assert ten.recorded()["vm9"] == "STOPPED ERROR_down"
    assert Instance.objects.get(name="vm8").audited_at > ten.clock() - timedelta(minutes=2)


def test_nobody_is_asked_about_who_would_wait_for_a_job_that_runs(ten: Stage) -> None:
    job = ten.world.begin("SET_PARAMS", "vm3")
    ten.go_on(5)
    ten.ask("vm3")
    ten.go_on(30)
    assert ten.asked()[10:] == []
    ten.world.finish(job)
    ten.go_on(10)
    assert set(ten.asked()[10:]) == {"vm3"}


# What gets lost


def test_a_claim_whose_worker_died_before_it_had_a_job_is_made_good(ten: Stage) -> None:
    ten.ask("vm3")
    Question.objects.update(token="0123456789abcdef", claimed_at=ten.clock())
    ten.go_on(60)
    assert ten.asked()[10:] == []
    ten.go_on(60)
    assert ten.asked()[10:] == ["vm3"]


def test_a_wish_amid_a_job_that_has_not_begun_is_served_by_it(ten: Stage) -> None:
    lock = ten.world.lock_instance("vm3")
    ten.ask("vm3")
    ten.go_on(2)
    ten.world.crash("vm3")
    later = ten.ask("vm3")
    ten.go_on(2)
    ten.world.finish(lock)
    closed = ten.until_closed(later)
    assert ten.asked()[10:] == ["vm3"]
    assert closed.outcome == "reconciled"
    assert ten.row("vm3").observed_not_before >= later.requested_at


def test_a_wish_amid_a_job_that_has_begun_is_served_by_another(ten: Stage) -> None:
    ten.world.queries.seconds = 5
    ten.ask("vm3")
    ten.go_on(2)
    later = ten.ask("vm3")
    assert ten.until_closed(later).outcome == "in_sync"
    assert ten.asked()[10:] == ["vm3", "vm3"]


def test_answers_are_settled_before_the_next_job_is_issued(ten: Stage) -> None:
    Cluster.objects.update(max_in_flight=1)
    ten.ask("vm3")
    ten.ask("vm4")
    ten.engine.ask()
    ten.clock.wait(1)
    told: list[list[str]] = []

    def tell(answered: Sequence[ask.Answered]) -> None:
        told.append([it.instance for it in answered])
        assert ten.asked()[10:] == ["vm3"]

    token = ten.engine.cluster.await_token
    left = ask.step("alpha", token, ten.engine.context, tell)
    assert (told, left.answered) == ([["vm3"]], [])
    assert ten.asked()[10:] == ["vm3", "vm4"]


def test_a_job_that_does_not_end_is_cancelled_and_its_instance_asked_later(ten: Stage) -> None:
    ten.tune(query_timeout=30)
    lock = ten.world.lock_instance("vm3")
    asked = ten.ask("vm3")
    ten.go_on(2)
    (first,) = ten.world.our_jobs()
    while first.is_open:
        ten.go_on(1)
    (question,) = Question.objects.filter(name="vm3")
    assert (first.word, question.attempts) == ("canceled", 1)
    assert "did not end in 30 s" in question.error
    assert question.retry_at is not None
    assert not ten.world.harm
    ten.world.finish(lock)
    assert ten.until_closed(asked).outcome == "in_sync"


def test_an_answer_whose_task_was_lost_is_settled_later(ten: Stage) -> None:
    ten.world.crash("vm3")
    asked = ten.ask("vm3")
    ten.engine.ask()
    ten.clock.wait(1)
    ten.engine.take(ten.engine.messages.pop())
    ten.engine.messages.clear()
    assert Question.objects.exclude(answer=None).count() == 1
    assert ten.recorded()["vm3"] == "ACTIVE running"
    ten.go_on(60)
    asked.refresh_from_db()
    assert asked.outcome == "reconciled"
    assert ten.recorded()["vm3"] == "STOPPED ERROR_down"


def test_an_answer_that_nobody_can_read_is_set_aside_and_harms_no_other(ten: Stage) -> None:
    ten.world.crash("vm3", "vm4")
    for name in ("vm3", "vm4"):
        ten.ask(name)
    ten.engine.ask()
    ten.clock.wait(1)
    ten.engine.take(ten.engine.messages.pop())
    Question.objects.filter(name="vm3").update(answer={"nonsense": 1})
    ten.engine.deliver()
    assert ten.recorded()["vm4"] == "STOPPED ERROR_down"
    assert ten.engine.cluster.set_aside == 1
    assert Question.objects.get(name="vm3").attempts == 1
    ten.go_on(60)
    assert ten.recorded()["vm3"] == "STOPPED ERROR_down"


def test_a_message_that_comes_twice_does_nothing_twice(ten: Stage) -> None:
    ten.world.crash("vm3")
    ten.ask("vm3")
    ten.engine.ask()
    ten.clock.wait(1)
    ten.engine.take(ten.engine.messages.pop())
    settle = next(it for it in ten.engine.messages if it.turn == "settle")
    for _ in range(3):
        ten.engine.take(settle)
    assert len(ten.trail("vm3")) == 2


def test_of_two_chains_the_one_that_is_not_the_clusters_ends(ten: Stage) -> None:
    ten.world.queries.seconds = 100
    ten.ask("vm3")
    assert ask.issue("alpha", ten.engine.context, ten.engine.told).token is not None
    ten.ask("vm4")
    second = ask.issue("alpha", ten.engine.context, ten.engine.told)
    assert second.token is None
    assert ask.step("alpha", "0123456789abcdef", ten.engine.context, ten.engine.told).token is None
    assert ten.asked()[10:] == ["vm3", "vm4"]


def test_a_chain_polls_often_while_jobs_are_issued_and_seldom_while_all_wait(ten: Stage) -> None:
    ten.world.queries.seconds = 1000
    ten.ask("vm3")
    token = ask.issue("alpha", ten.engine.context, ten.engine.told).token
    assert token is not None

    def rest() -> float:
        return ask.step("alpha", token, ten.engine.context, ten.engine.told).pause

    tuning = ten.engine.tuning
    assert rest() == tuning.poll_interval_min
    ten.clock.wait(4)
    assert rest() == pytest.approx(0.5, abs=0.01)
    ten.clock.wait(15)
    assert rest() == tuning.poll_interval_max
    ten.ask("vm4")
    assert rest() == tuning.poll_interval_min


def test_however_many_jobs_are_in_flight_one_request_awaits_them(ten: Stage) -> None:
    ten.world.queries.seconds = 1000
    for name in ("vm1", "vm2", "vm3"):
        ten.ask(name)
    token = ask.issue("alpha", ten.engine.context, ten.engine.told).token
    assert token is not None
    before = ten.world.count()
    ask.step("alpha", token, ten.engine.context, ten.engine.told)
    assert [it.method for it in ten.world.requests[before:]] == ["poll"]
    assert len(ten.world.requests[-1].about) == 3  # type: ignore[arg-type]


def test_a_request_goes_on_over_a_master_that_moves(ten: Stage) -> None:
    ten.world.crash("vm3")
    ten.world.queries.seconds = 1000
    asked = ten.ask("vm3")
    ten.engine.ask()
    ten.world.queries.seconds = 0.3
    ten.world.move_master()
    assert ten.until_closed(asked).outcome == "reconciled"
    assert ten.recorded()["vm3"] == "STOPPED ERROR_down"


# Requests


def test_a_request_for_what_waits_already_joins_it(ten: Stage) -> None:
    one, other = ten.ask_all("all"), ten.ask_all("all")
    assert one.pk == other.pk
    ten.engine.look_now()
    assert ten.ask_all("all").pk != one.pk
    assert ten.ask("vm3").pk == ten.ask("vm3").pk


def test_a_request_overrides_a_backoff_once_within_the_bound_of_proof(ten: Stage) -> None:
    ten.world.faults.refusing.add("vm3")
    ten.ask("vm3")
    ten.go_on(200, step=2)
    asked = len(ten.asked())
    for _ in range(5):
        ten.ask("vm3")
        ten.go_on(1)
    assert len(ten.asked()) <= asked + 2


def test_a_flood_on_demand_puts_off_nothing_that_only_lists_tell(ten: Stage) -> None:
    ten.world.change("vm3", tags=("a",))
    for _ in range(60 + 2 * 66):
        ten.ask("vm3")
        ten.go_on(1)
    assert Instance.objects.get(name="vm3").tags == ["a"]


def test_one_that_could_not_be_asked_for_long_is_gone_in_the_usual_time(ten: Stage) -> None:
    ten.ask("vm3")
    soon = ten.clock() + timedelta(minutes=30)
    Question.objects.update(attempts=11, retry_at=soon)
    ten.world.remove("vm3")
    ten.go_on(60 + 2 * 66)
    assert ten.recorded()["vm3"] == "DELETED"


def test_who_wishes_anything_of_a_cluster_that_is_removed_meanwhile_is_told_so(ten: Stage) -> None:
    wished, cluster = ten.ask("vm3"), ten.engine.cluster
    Cluster.objects.all().delete()
    with pytest.raises(requests.Removed, match="alpha was removed meanwhile"):
        wait_for([wished], timeout=10)
    with pytest.raises(requests.Removed):
        requests.request_instance(cluster, "vm3", tuning=ten.engine.tuning, at=ten.clock())
    with pytest.raises(requests.Removed):
        announce.announce(
            cluster, "vm3", action="REBOOT", job_id=None,
            policy=ten.engine.policy, tuning=ten.engine.tuning, at=ten.clock(),
        )  # fmt: skip


def test_a_request_says_what_was_not_confirmed_and_why(ten: Stage) -> None:
    ten.world.faults.refusing.add("vm3")
    done = ten.run("all")
    assert done.outcome == "failed"
    ((name, reason),) = done.unconfirmed
    assert (name, "KeyError" in reason) == ("vm3", True)
    assert done.queried == 9


def test_old_requests_are_forgotten_and_what_they_changed_is_not(ten: Stage) -> None:
    ten.world.crash("vm3")
    ten.run()
    kept, number = Transition.objects.count(), Request.objects.count()
    requests.forget(ten.engine.cluster, before=ten.clock())
    assert (number, Request.objects.count()) == (2, 0)
    assert Transition.objects.count() == kept


# The database


@pytest.mark.parametrize("status", ["SHUTOFF", "", "active"])
def test_the_database_refuses_a_status_that_is_not_of_the_api(ten: Stage, status: str) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        Instance.objects.filter(name="vm3").update(status=status)


def test_the_database_refuses_a_uuid_twice_in_a_cluster_and_not_a_name(ten: Stage) -> None:
    row = ten.row("vm3")
    row.pk = None
    with pytest.raises(IntegrityError), transaction.atomic():
        row.save()
    row.uuid = "ffffffff-0000-4000-8000-000000000000"
    row.save()
    assert Instance.objects.filter(name="vm3").count() == 2


@pytest.mark.django_db(transaction=True)
def test_twins_in_two_clusters_are_two_instances() -> None:
    one, other = make_stage(1, "one"), make_stage(1, "other")
    assert one.row("vm0").uuid == other.row("vm0").uuid
    one.world.crash("vm0")
    one.run()
    other.go_on(60)
    assert one.recorded() == {"vm0": "STOPPED ERROR_down"}
    assert other.recorded() == {"vm0": "ACTIVE running"}
