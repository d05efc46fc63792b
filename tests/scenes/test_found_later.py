"""Holes found by reading, and by a third reader, each by what is right."""

from datetime import timedelta

import pytest

from proj.inventory.models import Cluster, Hold, Instance, Question
from proj.reconcile import holds, questions, rows
from proj.reconcile.brake import Limits
from tests.scenes.conftest import Scene
from tests.world.faults import Fault

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_stranger_that_the_newest_list_lacks_is_not_adopted(scene: Scene) -> None:
    scene.world.fail(Fault.SERVER_ERROR, "submit_query")
    scene.world.create("new")
    for _ in range(2):
        scene.engine.look_now()
        scene.pause(scene.engine.tuning.proof_within + 1)
    scene.world.remove("new")
    scene.engine.look_now()
    scene.engine.feed_now()
    assert not Instance.objects.filter(name="new").exists()


def test_one_that_is_renamed_after_an_approval_counts_no_second_time(make_scene) -> None:
    scene = make_scene(*(f"vm{number}" for number in range(10)), limits=Limits())
    stopped = [f"vm{number}" for number in range(6)]
    scene.world.crash(*stopped)
    scene.engine.look_now()
    (hold,) = scene.holds()
    holds.approve(hold, scene.engine.tuning, at=scene.world.clock())
    scene.go_on(20)
    for name in stopped:
        scene.world.rename(name, f"{name}-kept")
    scene.go_on(60)
    scene.world.crash("vm8", "vm9")
    scene.engine.look_now()
    scene.go_on(20)
    assert scene.holds() == []
    assert scene.state("vm9") == "STOPPED ERROR_down"


def test_holds_that_nobody_can_approve_any_more_do_not_pile_up(make_scene) -> None:
    scene = make_scene(*(f"vm{number}" for number in range(10)), limits=Limits())
    scene.world.crash(*(f"vm{number}" for number in range(6)))
    scene.go_on(20)
    for number in (6, 7, 8):
        scene.world.crash(f"vm{number}")
        scene.go_on(60)
    assert Hold.objects.count() == 4
    scene.go_on(scene.engine.tuning.hold_for + 60, step=30)
    assert Hold.objects.count() == 1


def test_questions_that_no_list_ends_keep_none_of_nobody_alive(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "ENDED_AT_ONCE", 2)
    cluster, at = scene.engine.cluster, scene.world.clock()
    scene.world.fail(Fault.SERVER_ERROR, "submit_query", "find")
    for place, name in enumerate(("web", "vm1", "vm11", "nobody")):
        Question.objects.create(
            cluster=cluster, name=name, epoch=cluster.epoch, priority=20, wanted_since=at,
            uuid=scene.row(name).uuid if name != "nobody" else None, newer_than=at,
            attempts=9 - place, retry_at=at + timedelta(seconds=30),
        )  # fmt: skip
    Cluster.objects.update(looks=0)
    scene.engine.look_now()
    for _ in range(3):
        scene.pause(2)
        scene.engine.feed_now()
    assert not Question.objects.filter(name="nobody").exists()


def test_what_a_job_made_stale_stays_so_when_the_clock_goes_back_a_little(scene: Scene) -> None:
    cluster, row = scene.engine.cluster, scene.row("vm1")
    ended = scene.world.clock()
    row.stale_before = ended
    scene.world.clock.jump(-3)
    assert rows.stale_before_of(row, cluster, at=scene.world.clock()) == ended


def test_a_name_that_was_announced_in_other_letters_is_the_one_that_a_list_shows(
    scene: Scene,
) -> None:
    scene.engine.announce("NEW", "CREATE")
    scene.world.create("new")
    scene.engine.look_now()
    scene.go_on(90)
    assert scene.rows("new") == ["ACTIVE"]
    assert scene.rows("NEW") == []
