"""Holes that a second reader proved, each by what is right."""

from datetime import timedelta

import pytest

from proj.inventory.models import Cluster, Instance, Job
from tests.scenes.conftest import Scene
from tests.world.faults import Fault
from tests.world.world import World

pytestmark = pytest.mark.django_db(transaction=True)


def test_tags_that_lists_settle_date_no_state_back(scene: Scene) -> None:
    scene.world.tag("vm1", "new")
    scene.engine.look_now()
    scene.pause(2)
    scene.engine.look_now()
    scene.pause(0.5)
    scene.world.crash("vm1")
    crashed = scene.world.clock.peek()
    scene.ask("vm1")
    scene.engine.ask()
    for _ in range(5):
        scene.pause(0.2)
        scene.engine.deliver()
    assert scene.state("vm1") == "STOPPED ERROR_down"
    scene.engine.feed_now()
    row = scene.row("vm1")
    assert row.tags == ["new"]
    assert row.observed_not_after >= crashed


def test_one_that_returns_amid_a_migration_is_no_wrong_node(scene: Scene) -> None:
    machine = scene.world.machine("vm1")
    scene.world.remove("vm1")
    scene.go_on(90)
    assert scene.rows("vm1") == ["DELETED"]
    scene.world.create("vm1", node=machine.node, uuid=machine.uuid)
    job = scene.world.begin("MIGRATE", "vm1", seconds=60)
    scene.pause(0.5)
    scene.engine.feed_now()
    scene.pause(0.5)
    scene.engine.look_now()
    scene.pause(2.5)
    scene.engine.look_now()
    scene.engine.feed_now()
    assert scene.rows("vm1") == ["DELETED"]
    scene.world.finish(job)
    scene.pause(0.5)
    scene.engine.feed_now()
    assert "ERROR" not in str(scene.transitions("vm1"))


def test_one_that_is_renamed_before_a_migration_is_no_wrong_node(scene: Scene) -> None:
    scene.world.fail(Fault.SERVER_ERROR, "submit_query")
    scene.world.rename("vm1", "shop")
    job = scene.world.begin("MIGRATE", "shop", seconds=60)
    scene.pause(0.5)
    scene.engine.feed_now()
    scene.pause(0.5)
    scene.engine.look_now()
    scene.pause(2.5)
    scene.engine.look_now()
    scene.engine.feed_now()
    scene.world.finish(job)
    scene.pause(0.5)
    scene.engine.feed_now()
    assert scene.state("vm1") == "ACTIVE running"


def test_a_queued_creation_has_not_failed_while_the_queue_cannot_be_read(scene: Scene) -> None:
    scene.engine.announce("new", "CREATE")
    scene.world.begin_create("new", held=True)
    scene.go_on(10)
    assert scene.rows("new") == ["BUILD"]
    scene.world.fail(Fault.SERVER_ERROR, "read_queue", "highest")
    scene.go_on(300, step=2)
    assert scene.rows("new") == ["BUILD"]


def test_a_wish_by_the_name_that_was_announced_is_answered_under_the_full_one(scene: Scene) -> None:
    scene.engine.announce("New", "CREATE")
    request = scene.ask("New")
    scene.world.create("new.example.com")
    scene.engine.look_now()
    scene.go_on(180)
    request.refresh_from_db()
    assert request.outcome in ("reconciled", "in_sync")


def test_a_job_that_a_slow_reading_shows_is_believed(scene: Scene) -> None:
    scene.world.begin("MIGRATE", "vm1", held=False, seconds=5000)
    scene.go_on(4)
    scene.world.faults.latency = 62
    for _ in range(8):
        scene.go_on(1)
    assert scene.state("vm1") == "ACTIVE running"


@pytest.mark.parametrize("how", ["busy", "bug"])
def test_health_names_a_cluster_whose_looks_never_succeed(scene: Scene, monkeypatch, how) -> None:
    from proj import health
    from proj.reconcile import look

    if how == "busy":
        scene.world.fail(Fault.BUSY, "look")
    else:

        def bad(*_, **__):
            raise ValueError("a list that nobody thought of")

        monkeypatch.setattr(look, "compare", bad)
        other = scene.engine.cluster
        other.pk, other.name = None, "beta"
        other.next_look_at = scene.world.clock() + timedelta(seconds=1000)
        other.save(force_insert=True)
    scene.world.crash("vm1")
    for _ in range(450):
        try:
            scene.go_on(2, step=2)
        except ValueError:
            scene.pause(2)
            scene.engine.feed()
    monkeypatch.setattr(health, "now", scene.world.clock)
    at = scene.world.clock()
    if how == "bug":
        Cluster.objects.filter(name="beta").update(
            next_look_at=at,
            looked_not_after=at,
            read_not_after=at,
            looked_not_before=at,
            read_not_before=at,
        )
    found = list(health.problems())
    assert any("alpha" in it for it in found)


def test_a_stranger_amid_a_migration_is_not_adopted_on_a_wrong_node(scene: Scene) -> None:
    scene.world.create("new")
    job = scene.world.begin("MIGRATE", "new", seconds=60)
    scene.pause(0.5)
    scene.engine.feed_now()
    scene.engine.look_now()
    scene.pause(2.5)
    scene.engine.look_now()
    scene.engine.feed_now()
    assert scene.rows("new") == []
    scene.world.finish(job)
    scene.pause(0.5)
    scene.engine.feed_now()
    assert scene.rows("new") in ([], ["ACTIVE"])


@pytest.mark.parametrize("blocked", [True, False])
def test_a_sweep_is_not_in_sync_before_one_that_returned_is_recorded(scene: Scene, blocked) -> None:
    machine = scene.world.machine("vm1")
    scene.world.remove("vm1")
    scene.go_on(90)
    assert scene.rows("vm1") == ["DELETED"]
    if blocked:
        scene.world.lock_instance("web")
        scene.world.lock_node(machine.node)
    scene.world.create("vm1", node=machine.node, uuid=machine.uuid)
    request = scene.ask_all("sweep")
    for _ in range(100):
        scene.go_on(1)
        request.refresh_from_db()
        if request.state == "closed":
            break
    row = Instance.objects.get(uuid=machine.uuid)
    assert row.status == "ACTIVE" or request.outcome != "in_sync"


@pytest.mark.parametrize("after", [100, 700])
def test_jobs_that_were_given_up_leave_a_seat_for_other_nodes(make_scene, after) -> None:
    world = World()
    for number in range(8):
        world.create(f"a{number}", node="node1", secondaries=())
    for number in range(3):
        world.create(f"b{number}", node="node2", secondaries=())
    scene = make_scene(world=world)
    scene.world.faults.read_only = True
    scene.world.lock_node("node1")
    scene.world.crash(*(f"a{number}" for number in range(8)))
    for _ in range(after // 4):
        scene.go_on(4, step=4)
        if _ % 15 == 0:
            for number in range(8):
                scene.ask(f"a{number}")
    at = scene.world.clock()
    request = scene.ask_all("all")
    scene.ask("b0")
    scene.go_on(600, step=3)
    request.refresh_from_db()
    assert scene.row("b0").confirmed_at > at


def test_an_approval_ends_as_nothing_differs_any_more(make_scene) -> None:
    from proj.reconcile import holds
    from proj.reconcile.brake import Limits

    names = [f"vm{number}" for number in range(10)]
    scene = make_scene(*names, limits=Limits())
    scene.world.stop_all()
    scene.go_on(20)
    (hold,) = scene.holds()
    scene.world.start(*names)
    holds.approve(hold, scene.engine.tuning, at=scene.world.clock())
    scene.go_on(1800, step=3)
    assert not scene.problems()
    scene.world.stop_all()
    scene.go_on(90)
    assert {row.status for row in Instance.objects.all()} == {"ACTIVE"}


@pytest.mark.parametrize("seen", [100, 5])
def test_requests_that_wait_keep_none_open_that_is_confirmed(make_scene, monkeypatch, seen) -> None:
    from proj.reconcile import requests

    monkeypatch.setattr(requests, "SEEN_TO_AT_ONCE", seen)
    world = World()
    for number in range(8):
        world.create(f"a{number}", node="node1", secondaries=())
    world.create("b0", node="node2", secondaries=())
    scene = make_scene(world=world)
    scene.world.lock_node("node1")
    scene.world.crash(*(f"a{number}" for number in range(8)))
    for number in range(8):
        scene.ask(f"a{number}")
    scene.go_on(3)
    request = scene.ask("b0")
    second = 0
    while second < 300:
        second += 1
        scene.go_on(1)
        request.refresh_from_db()
        if request.state == "closed":
            break
    assert second < 15


def test_an_answer_about_the_announced_name_makes_no_second_instance(scene: Scene) -> None:
    scene.engine.announce("New", "CREATE")
    scene.world.create("new.example.com")
    scene.ask("New")
    scene.engine.ask()
    scene.pause(0.5)
    scene.engine.deliver()
    scene.pause(0.5)
    scene.engine.deliver()
    scene.go_on(200, step=2)
    assert len(Instance.objects.exclude(name__in=["web", "vm1", "vm11"])) == 1


def test_queries_of_others_do_not_pile_up(scene: Scene) -> None:
    counts = []
    for second in range(90):
        for _ in range(20):
            scene.world.others_ask("web", seconds=0)
        scene.go_on(1.5, step=1.5)
        scene.world.archive_ended()
        if second % 15 == 14:
            counts.append(Job.objects.count())
    assert counts[-1] < 400


@pytest.mark.parametrize("how", ["unreadable", "down"])
@pytest.mark.parametrize("kind", ["sweep", "instance"])
def test_wishes_that_keep_coming_keep_no_other_open(scene: Scene, how, kind) -> None:
    if how == "unreadable":
        scene.world.faults.unreadable.add("vm1")
    else:
        scene.world.fail(Fault.SERVER_ERROR)
    ask = (lambda: scene.ask_all("sweep")) if kind == "sweep" else (lambda: scene.ask("vm1"))
    first = ask()
    pks = {first.pk}
    for _ in range(60):
        scene.go_on(30, step=3)
        pks.add(ask().pk)
        first.refresh_from_db()
        if first.state == "closed":
            break
    assert first.state == "closed"


def test_a_wish_amid_flapping_names_what_it_changed(scene: Scene) -> None:
    for number in range(14):
        (scene.world.stop if number % 2 == 0 else scene.world.start)("vm1")
        scene.ask("vm1")
        scene.go_on(6)
    before = scene.state("vm1")
    scene.world.stop("vm1")
    request = scene.ask("vm1")
    scene.go_on(10)
    request.refresh_from_db()
    assert before == scene.state("vm1") or request.outcome == "reconciled"


def test_announcements_do_not_pile_up_while_the_queue_cannot_be_read(scene: Scene) -> None:
    scene.world.fail(Fault.SERVER_ERROR, "read_queue", "highest")
    counts = []
    for number in range(400):
        scene.engine.announce("vm1", "REBOOT", 100_000 + number)
        scene.go_on(1)
        if number % 100 == 99:
            counts.append(Job.objects.count())
    assert counts[-1] < 200


def test_a_stranger_that_was_listed_before_the_first_reading_is_adopted_by_lists(
    scene: Scene,
) -> None:
    scene.world.fail(Fault.SERVER_ERROR, "submit_query")
    Cluster.objects.update(followed_since=None, read_not_before=None, read_not_after=None)
    scene.world.create("new")
    scene.engine.look_now()
    scene.go_on(120, step=2)
    assert scene.rows("new") == ["ACTIVE"]
