"""What the engine promises beside the scenes, each shown on a whole cluster."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from proj.inventory.models import Cluster, Instance, Question, Request, Transition
from proj.observation import CONFIGURATION_FIELDS
from proj.reconcile import requests
from tests.scenes.conftest import Scene
from tests.world.faults import Fault
from tests.world.world import World

pytestmark = pytest.mark.django_db(transaction=True)

MakeScene = Callable[..., Scene]


def test_twenty_changes_mark_an_instance_as_flapping_and_do_not_flood_its_history(
    scene: Scene,
) -> None:
    for _ in range(20):
        scene.world.crash("vm1")
        scene.ask("vm1")
        scene.go_on(2)
        scene.world.start("vm1")
        scene.ask("vm1")
        scene.go_on(2)
    assert scene.row("vm1").flapping_since is not None
    of_status = Transition.objects.filter(instance__name="vm1", field="status")
    assert of_status.count() < 16
    assert sum(of_status.values_list("folded", flat=True)) > 20


def test_a_hundred_requests_for_one_instance_are_at_most_two_jobs(scene: Scene) -> None:
    before = scene.world.count("submit_query")
    for _ in range(100):
        scene.ask("vm1")
    scene.go_on(5)
    assert scene.world.count("submit_query") - before <= 2
    assert not Request.objects.filter(state="open").exists()


def test_the_audit_asks_within_its_hourly_budget_and_never_twice_before_everybody(
    make_scene: MakeScene,
) -> None:
    scene = make_scene(*(f"vm{number}" for number in range(12)))
    Cluster.objects.update(jobs_per_hour=60, confirm_max_age=timedelta(minutes=1))
    before = scene.world.count("submit_query")
    scene.go_on(1200, step=2)
    assert 15 <= scene.world.count("submit_query") - before <= 22
    assert not Question.objects.exists()


@pytest.mark.parametrize("fault", [Fault.DOWN, Fault.GARBAGE, Fault.CUT, Fault.SERVER_ERROR])
def test_a_request_that_fails_says_nothing_about_any_instance(scene: Scene, fault: Fault) -> None:
    before = list(Instance.objects.values())
    scene.world.fail(fault)
    request = scene.ask_all("sweep")
    scene.go_on(200, step=2)
    request.refresh_from_db()
    assert (request.outcome, list(Instance.objects.values())) == ("failed", before)
    assert Cluster.objects.get().failures > 2


def test_a_failing_cluster_is_asked_rarer_and_rarer_also_by_processes_that_begin_anew(
    scene: Scene,
) -> None:
    scene.world.fail(Fault.DOWN)
    scene.go_on(60)
    early = len(scene.world.requests)
    scene.go_on(600, step=2)
    scene.engine.restart()
    late = len(scene.world.requests)
    scene.go_on(60)
    assert len(scene.world.requests) - late < (early / 2)


def test_a_wrong_credential_ends_a_request_at_once_and_says_so(scene: Scene) -> None:
    scene.world.fail(Fault.UNAUTHORIZED)
    request = scene.ask_all("sweep")
    scene.go_on(3)
    request.refresh_from_db()
    assert (request.outcome, request.error) == ("failed", "401")


def test_an_instance_that_nobody_knows_is_said_to_be_unknown(scene: Scene) -> None:
    request = scene.ask("nobody")
    scene.go_on(5)
    request.refresh_from_db()
    assert request.outcome == "failed"
    assert "neither Ganeti nor the database knows nobody" in request.error


def test_above_the_limit_of_open_requests_one_is_refused(scene: Scene) -> None:
    scene.engine.tuning = type(scene.engine.tuning)(open_requests=2)
    for name in ("a", "b"):
        scene.ask(name)
    with pytest.raises(requests.TooMany):
        scene.ask("c")


@pytest.mark.parametrize("field", [*CONFIGURATION_FIELDS, "name"])
def test_no_field_makes_list_and_job_disagree_for_ever(scene: Scene, field: str) -> None:
    changed = {
        "memory": 77, "vcpus": 7, "disks": (5,), "nics": (), "os": "other", "tags": ("a", "b"),
    }  # fmt: skip
    if field == "name":
        scene.world.rename("vm1", "shop")
    elif field == "nodes":
        scene.world.move("vm1", "node1")
    else:
        scene.world.change("vm1", **{field: changed[field]})
    scene.go_on(120)
    assert not scene.problems()
    asked = scene.world.count("submit_query")
    scene.go_on(300, step=2)
    assert scene.world.count("submit_query") - asked <= 25


def test_what_others_ask_about_many_is_applied_without_a_question(
    make_scene: MakeScene,
) -> None:
    world = World()
    world.create_many(150)
    names = world.names()
    scene = make_scene(world=world)
    scene.world.crash(names[0])
    asked = scene.world.count("submit_query")
    scene.world.others_ask(seconds=0)
    scene.go_on(6)
    assert scene.state(names[0]) == "STOPPED ERROR_down"
    assert scene.world.count("submit_query") - asked <= 4


def test_a_worker_of_another_version_takes_no_turn(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proj.inventory.schema.is_same_at", lambda _: False)
    looks = scene.world.count("look", "look_unless")
    scene.world.crash("vm1")
    scene.go_on(60)
    assert scene.world.count("look", "look_unless") == looks
    assert scene.state("vm1") == "ACTIVE running"


def test_a_restored_database_is_looked_at_anew_by_processes_that_live(scene: Scene) -> None:
    from proj.inventory.models import Installation, new_generation

    scene.world.crash("vm1")
    scene.go_on(60)
    Instance.objects.filter(name="vm1").update(status="ACTIVE", backend_status="running")
    Installation.objects.update(generation=new_generation())
    epoch = scene.engine.cluster.epoch
    scene.go_on(30)
    assert scene.engine.cluster.epoch == epoch + 1
    assert scene.state("vm1") == "STOPPED ERROR_down"


def test_an_announcement_of_which_no_job_comes_is_over_in_time(scene: Scene) -> None:
    scene.engine.announce("vm1", "REBOOT")
    for _ in range(6):
        scene.ask("vm1")
        scene.go_on(9)
    assert scene.state("vm1") == "REBOOT running"
    scene.go_on(30)
    assert scene.state("vm1") == "ACTIVE running"
    assert not scene.problems()


def test_a_job_that_tells_no_tags_confirms_none(scene: Scene) -> None:
    scene.world.tag("vm1", "a")
    scene.engine.look_now()
    request = scene.ask("vm1")
    for _ in range(60):
        scene.go_on(1)
        request.refresh_from_db()
        if request.state == "closed":
            break
    assert (request.outcome, scene.row("vm1").tags) == ("reconciled", ["a"])


def test_a_result_that_breaks_each_poll_keeps_no_other_waiting(scene: Scene) -> None:
    scene.world.change("vm1", memory=2048)
    scene.engine.look_now()
    scene.engine.ask()
    (job,) = scene.world.our_jobs()
    scene.world.faults.unfetchable.add(job.number)
    scene.world.crash("web")
    scene.engine.look_now()
    scene.go_on(10)
    assert scene.state("web") == "STOPPED ERROR_down"
    scene.go_on(BOUND)
    assert not scene.problems()


BOUND = 60 + 2 * 10 + 20
"""PROOF_WITHIN, two looks at the fast pace, and the turns themselves."""
