"""The engine step by step: what a pass does to the rows."""

from dataclasses import replace
from datetime import timedelta

import pytest
from django.db import IntegrityError, transaction

from proj.inventory.models import Instance, Pass, Query, Transition
from proj.observation import Configuration, JobEnd
from proj.reconcile import chain, passes
from proj.reconcile.chain import Stepper
from tests.reconcile.conftest import Engine


def test_every_instance_is_adopted_by_a_job(ten: Engine) -> None:
    assert ten.recorded() == dict.fromkeys(ten.backend.truth, "ACTIVE running")
    assert len(ten.backend.jobs) == 10
    assert Instance.objects.filter(confirmed_at=None).count() == 0


def test_a_suspect_is_asked_and_nobody_else(ten: Engine) -> None:
    ten.backend.truth["vm3"] = "ERROR_down"
    done = ten.run()
    assert (done.outcome, done.suspects, done.listed) == ("reconciled", 1, 10)
    assert list(ten.backend.jobs.values())[10:] == ["vm3"]
    assert ten.recorded()["vm3"] == "STOPPED ERROR_down"


def test_configuration_is_corrected_field_by_field(ten: Engine) -> None:
    ten.backend.configuration["vm3"] = Configuration(memory=8, vcpus=2)
    ten.run()
    fields = Transition.objects.filter(instance__name="vm3", rule="job-convicts")
    assert {(it.field, it.before, it.after) for it in fields} == {
        ("memory", 4, 8),
        ("vcpus", None, 2),
    }
    assert ten.recorded()["vm3"] == "ACTIVE running"


def test_a_wrong_node_is_recorded_by_two_lists_within_one_pass(ten: Engine) -> None:
    ten.backend.truth["vm3"] = "ERROR_wrongnode"
    assert ten.run().outcome == "reconciled"
    assert ten.recorded()["vm3"] == "ERROR ERROR_wrongnode"
    assert ten.run(Pass.Kind.ALL).outcome == "in_sync"
    assert ten.recorded()["vm3"] == "ERROR ERROR_wrongnode"
    ten.backend.truth["vm3"] = "ERROR_down"
    ten.run()
    assert ten.recorded()["vm3"] == "STOPPED ERROR_down"


def test_gone_is_proven_by_two_lists_and_a_404_within_one_pass(ten: Engine) -> None:
    del ten.backend.truth["vm3"]
    assert ten.run().outcome == "reconciled"
    assert ten.recorded()["vm3"] == "DELETED"
    assert Transition.objects.get(instance__name="vm3", after="DELETED").rule == "gone"


def test_an_instance_missing_from_the_lists_but_known_by_name_stays(ten: Engine) -> None:
    ten.backend.hidden = {"vm3"}
    ten.run()
    assert ten.recorded()["vm3"] == "ACTIVE running"


def test_a_failed_look_says_nothing_about_any_instance(ten: Engine) -> None:
    ten.backend.is_down = True
    done = ten.run()
    assert (done.outcome, done.error) == ("failed", "nothing listens")
    assert ten.recorded() == dict.fromkeys(ten.backend.truth, "ACTIVE running")
    ten.cluster.refresh_from_db()
    assert ten.cluster.failures == 3
    ten.backend.is_down = False
    ten.run()
    ten.cluster.refresh_from_db()
    assert ten.cluster.failures == 0


@pytest.mark.parametrize("survivors", [0, 6])
def test_a_mass_deletion_is_held_until_it_is_approved(ten: Engine, survivors: int) -> None:
    ten.backend.truth = {f"vm{number}": "running" for number in range(survivors)}
    held = ten.run()
    assert held.outcome == "held"
    assert ten.recorded() == {f"vm{n}": "ACTIVE running" for n in range(10)}
    assert f"approve {held.pk}" in held.error
    assert ten.run(approved=held.fingerprint).outcome == "reconciled"
    assert list(ten.recorded().values()).count("DELETED") == 10 - survivors


def test_an_approval_is_refused_when_the_world_has_moved(ten: Engine) -> None:
    everything = ten.backend.truth
    ten.backend.truth = {"vm0": "running"}
    held = ten.run()
    ten.backend.truth = {"vm1": "running"}
    again = ten.run(approved=held.fingerprint)
    assert (again.outcome, again.fingerprint == held.fingerprint) == ("held", False)
    assert set(ten.recorded().values()) == {"ACTIVE running"}
    ten.backend.truth = everything
    assert ten.run().outcome == "in_sync"


def test_a_mass_stop_is_held_and_a_mass_unknown_passes(ten: Engine) -> None:
    ten.backend.truth = dict.fromkeys(ten.backend.truth, "ERROR_down")
    assert ten.run().outcome == "held"
    ten.backend.truth = dict.fromkeys(ten.backend.truth, "ERROR_nodedown")
    assert ten.run().outcome == "reconciled"
    assert set(ten.recorded().values()) == {"UNKNOWN ERROR_nodedown"}


def test_a_mass_stop_that_only_the_jobs_see_is_held_too(ten: Engine) -> None:
    requested = passes.request(ten.cluster, kind=Pass.Kind.ALL, at=ten.clock())
    ten.look()
    ten.backend.truth = dict.fromkeys(ten.backend.truth, "ERROR_down")
    for _ in range(20):
        ten.step()
    requested.refresh_from_db()
    assert requested.outcome == "held"
    assert list(ten.recorded().values()).count("STOPPED ERROR_down") == 5


def test_a_plan_names_the_changes_and_writes_nothing(ten: Engine) -> None:
    before = list(Instance.objects.order_by("pk").values())
    ten.backend.truth["vm3"] = "ERROR_down"
    ten.backend.truth["new"] = "running"
    done = ten.run(plan=True)
    changes = {(c["instance"], c["field"], c["to"], c["rule"]) for c in passes.changes_of(done)}
    assert changes == {
        ("vm3", "status", "STOPPED", "job-convicts"),
        ("vm3", "backend_status", "ERROR_down", "job-convicts"),
        ("new", "status", "ACTIVE", "adopted"),
    }
    assert list(Instance.objects.order_by("pk").values()) == before


def test_what_is_unknown_to_us_is_only_reported_where_the_operator_says_so(ten: Engine) -> None:
    ten.policy = replace(ten.policy, adopt=False)
    ten.backend.truth["new"] = "running"
    done = ten.run()
    assert "new" not in ten.recorded()
    assert [finding["instance"] for finding in done.findings] == ["new"]


def test_an_open_job_shows_as_its_transitional_state_and_ends_by_its_own_evidence(
    ten: Engine,
) -> None:
    job_id = ten.backend.begin("vm3", "REBOOT")
    ten.follow()
    assert ten.recorded()["vm3"] == "REBOOT running"
    ten.run(Pass.Kind.ALL)
    assert ten.recorded()["vm3"] == "REBOOT running"
    ten.backend.finish(job_id)
    ten.clock.wait(5)
    ten.run()
    assert ten.recorded()["vm3"] == "ACTIVE running"
    assert Instance.objects.get(name="vm3").task_state == ""


@pytest.mark.parametrize("end", [JobEnd.FAILED, JobEnd.LOST])
def test_a_build_ends_as_error_only_when_its_job_failed(engine: Engine, end: JobEnd) -> None:
    job_id = engine.backend.begin("vm1", "CREATE", running=False)
    engine.run()
    assert engine.recorded() == {"vm1": "BUILD"}
    engine.backend.finish(job_id, end)
    engine.clock.wait(5)
    engine.look()
    engine.run()
    engine.run()
    expected = "ERROR" if end is JobEnd.FAILED else "DELETED"
    rules = Transition.objects.filter(instance__name="vm1", field="status")
    assert expected in set(rules.values_list("after", flat=True))


def test_never_more_jobs_in_flight_than_the_cluster_allows(ten: Engine) -> None:
    passes.request(ten.cluster, kind=Pass.Kind.ALL, at=ten.clock())
    ten.look()
    ten.step()
    in_flight = Query.objects.filter(state__in=Query.IN_FLIGHT)
    assert in_flight.count() == 3
    for name in ("vm7", "vm8", "vm9"):
        ten.ask(name)
    chain.submit_only(Stepper(ten.cluster, ten.backend, ten.tuning, ten.clock, lambda _: None))
    assert in_flight.count() == 3


def test_a_hundred_requests_for_one_instance_are_at_most_two_jobs(ten: Engine) -> None:
    asked = {ten.ask("vm3").pk for _ in range(50)}
    ten.step()
    asked |= {ten.ask("vm3").pk for _ in range(50)}
    ten.settle()
    assert len(asked) == 2
    assert list(ten.backend.jobs.values())[10:] == ["vm3", "vm3"]


def test_an_instance_that_cannot_be_asked_by_name_holds_up_no_other(ten: Engine) -> None:
    ten.backend.unaskable = {"vm0"}
    ten.backend.truth["vm1"] = "ERROR_down"
    del ten.backend.truth["vm0"]
    for name in ("vm0", "vm1"):
        ten.ask(name)
    ten.step()
    ten.step()
    assert ten.recorded()["vm1"] == "STOPPED ERROR_down"
    ten.settle()
    given_up = Query.objects.get(instance="vm0", pass_of__kind=Pass.Kind.REQUERY)
    assert (given_up.state, given_up.error) == (Query.State.FAILED, "500 Internal Server Error")


def test_a_name_that_cannot_be_asked_for_holds_up_no_other(ten: Engine) -> None:
    ten.backend.unaskable = {"vm0"}
    asked = ten.ask("vm0")
    Query.objects.filter(pass_of=asked).update(by_name=True)
    ten.ask("vm1")
    ten.step()
    ten.step()
    assert Query.objects.get(instance="vm1", lane=Query.Lane.ON_DEMAND).job_id is not None
    waiting = Query.objects.get(pass_of=asked)
    assert (waiting.state, waiting.attempts) == (Query.State.PENDING, 1)


def test_a_chain_polls_often_while_jobs_end_and_seldom_while_none_does(ten: Engine) -> None:
    ten.backend.is_stuck = True
    ten.ask("vm3")
    ten.step()

    def rest() -> float | None:
        return chain.pause(ten.cluster, ten.tuning, at=ten.clock())

    assert rest() == ten.tuning.poll_interval_min
    ten.clock.wait(4)
    assert rest() == pytest.approx(0.5, abs=0.01)
    ten.clock.wait(100)
    assert rest() == ten.tuning.poll_interval_max
    ten.ask("vm4")
    ten.step()
    assert rest() == ten.tuning.poll_interval_min


def test_on_demand_work_overtakes_the_rest(ten: Engine) -> None:
    passes.request(ten.cluster, kind=Pass.Kind.ALL, at=ten.clock())
    ten.look()
    ten.ask("vm9")
    ten.step()
    in_flight = Query.objects.filter(state__in=Query.IN_FLIGHT)
    assert "vm9" in set(in_flight.values_list("instance", flat=True))


def test_a_query_whose_worker_died_before_it_had_a_job_is_issued_again(ten: Engine) -> None:
    ten.ask("vm3")
    Query.objects.filter(instance="vm3", state="pending").update(
        state="submitting", submitted_at=ten.clock()
    )
    ten.step()
    assert len(ten.backend.jobs) == 10
    ten.clock.wait(100)
    ten.settle()
    assert list(ten.backend.jobs.values())[10:] == ["vm3"]


def test_a_job_that_does_not_end_is_cancelled_and_its_instance_asked_later(ten: Engine) -> None:
    asked = ten.ask("vm3")
    ten.backend.is_stuck = True
    ten.step()
    ten.clock.wait(400)
    ten.step()
    asked.refresh_from_db()
    assert (asked.outcome, "did not end in time" in asked.error) == ("failed", True)
    assert ten.backend.cancelled == [ten.backend.newest]
    row = Instance.objects.get(name="vm3")
    assert row.ask_after is not None
    assert row.ask_after > ten.clock.peek()


def test_an_answer_whose_task_was_lost_is_reconciled_later(ten: Engine) -> None:
    ten.backend.truth["vm3"] = "ERROR_down"
    asked = ten.ask("vm3")
    dropped: list[int] = []
    for _ in range(2):
        ten.step_losing(dropped)
    assert dropped
    assert ten.recorded()["vm3"] == "ACTIVE running"
    ten.clock.wait(40)
    ten.step()
    asked.refresh_from_db()
    assert asked.outcome == "reconciled"
    assert ten.recorded()["vm3"] == "STOPPED ERROR_down"


def test_an_answer_that_no_task_can_reconcile_is_given_up_and_asked_again_later(
    ten: Engine,
) -> None:
    asked = ten.ask("vm3")
    for _ in range(10):
        ten.step_losing()
        ten.clock.wait(40)
    asked.refresh_from_db()
    assert (asked.outcome, "reconcile task fails" in asked.error) == ("failed", True)
    row = Instance.objects.get(name="vm3")
    assert row.ask_failures == 1
    assert row.ask_after is not None


def test_an_instance_that_does_not_exist_is_asked_and_changes_nothing(ten: Engine) -> None:
    asked = ten.ask("nobody")
    ten.settle()
    asked.refresh_from_db()
    assert asked.outcome == "in_sync"
    assert "nobody" not in ten.recorded()


def test_a_flapping_instance_is_marked_and_its_changes_are_folded(ten: Engine) -> None:
    for turn in range(30):
        ten.backend.truth["vm3"] = ("running", "ERROR_down")[turn % 2]
        ten.ask("vm3")
        ten.settle()
    row = Instance.objects.get(name="vm3")
    assert row.flapping_since is not None
    changes = Transition.objects.filter(instance=row, field="status")
    assert changes.count() <= 12
    assert sum(1 + change.folded for change in changes) == 30
    ten.clock.wait(700)
    ten.run()
    row.refresh_from_db()
    assert row.flapping_since is None, "it has come to rest"


def test_old_passes_are_forgotten_and_what_they_changed_is_not(ten: Engine) -> None:
    ten.clock.wait(1000)
    ten.backend.truth["vm3"] = "ERROR_down"
    ten.run()
    kept = Transition.objects.count()
    assert passes.prune(before=ten.clock.peek() - timedelta(seconds=500)) == 1
    assert (Pass.objects.count(), Query.objects.count()) == (1, 1)
    assert Transition.objects.count() == kept


def test_a_request_for_what_waits_already_joins_it(ten: Engine) -> None:
    one, other = (passes.request(ten.cluster, kind=Pass.Kind.ALL, at=ten.clock()) for _ in range(2))
    assert one == other
    ten.look()
    assert passes.request(ten.cluster, kind=Pass.Kind.ALL, at=ten.clock()) != one


@pytest.mark.parametrize("status", ["SHUTOFF", "", "active"])
def test_the_database_refuses_a_status_that_is_not_of_the_api(ten: Engine, status: str) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        Instance.objects.filter(name="vm3").update(status=status)


def test_the_database_refuses_a_name_twice_in_a_cluster(ten: Engine) -> None:
    row = Instance.objects.get(name="vm3")
    row.pk = None
    with pytest.raises(IntegrityError), transaction.atomic():
        row.save()
