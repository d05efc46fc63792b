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


@pytest.fixture
def held_again(make_scene) -> Scene:
    """Six of ten stop, which is approved and written; they start; and the same six stop again."""
    names = [f"vm{n}" for n in range(10)]
    scene = make_scene(*names, limits=Limits())
    six = names[:6]
    scene.world.stop(*six)
    scene.go_on(20)
    (hold,) = scene.holds()
    holds.approve(hold, scene.engine.tuning, at=scene.world.clock())
    scene.go_on(120)
    assert scene.state("vm0") == "STOPPED ADMIN_down"
    scene.world.start(*six)
    scene.go_on(700)
    assert scene.state("vm0") == "ACTIVE running"
    scene.world.stop(*six)
    scene.go_on(90)
    assert scene.state("vm0") == "ACTIVE running"
    return scene


def test_the_same_mass_change_again_is_shown_to_the_operator(held_again: Scene) -> None:
    assert held_again.holds()


def test_the_same_mass_change_again_ends_requests(held_again: Scene) -> None:
    request = held_again.ask_all("sweep")
    held_again.go_on(200)
    request.refresh_from_db()
    assert request.outcome == "held"


def test_the_same_mass_change_again_passes_by_nobody_s_approval(held_again: Scene) -> None:
    for n in range(6):
        held_again.ask(f"vm{n}")
        held_again.go_on(5)
    found = [held_again.row(f"vm{n}").status for n in range(6)]
    assert set(found) == {"ACTIVE"}


def test_the_same_mass_change_again_is_no_storm_of_looks(held_again: Scene) -> None:
    before = held_again.world.count("look")
    held_again.go_on(120)
    done = held_again.world.count("look") - before
    assert done <= 13


def test_a_query_of_others_that_was_passed_by_the_gap_is_no_evidence_of_now(scene: Scene) -> None:
    w = scene.world
    scene.go_on(30)
    job = w.others_ask("vm1", seconds=400)
    w.hide(job)
    w.others_ask("web", seconds=0)
    scene.go_on(70)
    w.crash("vm1")
    crashed = w.clock.peek()
    scene.go_on(70)
    assert scene.state("vm1") == "STOPPED ERROR_down"
    w.show(job)
    scene.go_on(20)
    w.finish(job)
    bad = []
    for _ in range(40):
        scene.go_on(0.5, step=0.5)
        row = scene.row("vm1")
        if row.status == "ACTIVE" and row.observed_not_before > crashed:
            bad.append((row.backend_status, row.observed_not_before.isoformat()))
    assert not bad


@pytest.mark.usefixtures("redis")
def test_places_dated_by_a_clock_that_was_ahead_are_free(monkeypatch) -> None:
    from proj import semaphore
    from proj.clock import server

    now, _ = server().time()
    # Four workers died amid their requests, while Redis' clock was a day ahead.
    key = "requests:gamma"
    server().zadd(key, {f"dead{n}": now + 86400 + semaphore.LEASE for n in range(4)})
    server().expire(key, 86400 + semaphore.LEASE)
    try:
        with semaphore.hold("gamma", 4):
            pass
    finally:
        server().delete(key)


@pytest.mark.parametrize("was_approved", [False, True])
def test_what_was_approved_once_counts_as_it_changes_again(make_scene, was_approved) -> None:
    """One each 20 s, six of ten: the sixth is held, whether or not the six were approved before."""
    names = [f"vm{n}" for n in range(10)]
    scene = make_scene(*names, limits=Limits())
    if was_approved:
        scene.world.stop(*names[:6])
        scene.go_on(20)
        (hold,) = scene.holds()
        holds.approve(hold, scene.engine.tuning, at=scene.world.clock())
        scene.go_on(60)
        scene.world.start(*names[:6])
    scene.go_on(700, step=2)
    for name in names[:6]:
        scene.world.stop(name)
        scene.engine.look_now()
        scene.go_on(20, step=2)
    found = [scene.row(name).status for name in names[:6]]
    assert "ACTIVE" in found
    assert scene.holds()


def test_lists_without_uuids_prove_nobody_gone_who_has_one(scene: Scene) -> None:
    scene.world.faults.no_uuids = True
    scene.go_on(180, step=2)
    assert scene.rows("web") == ["ACTIVE"]
