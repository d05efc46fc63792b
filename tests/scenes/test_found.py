"""Holes that a reader proved, each by what is right."""

from datetime import timedelta

import pytest

from proj.inventory.models import Cluster, Instance, Job, Request
from proj.reconcile import feed, holds
from proj.reconcile.brake import Limits
from tests.scenes.conftest import Scene
from tests.world.faults import Fault
from tests.world.world import World

pytestmark = pytest.mark.django_db(transaction=True)

BOUND = 60 + 2 * 10 + 20
LONG = 60 + 2 * 66 + 10
"""PROOF_WITHIN and two looks at the slowest pace."""


def test_what_cannot_be_settled_keeps_lists_from_settling_others(make_scene, monkeypatch) -> None:
    monkeypatch.setattr(feed, "SETTLED_AT_ONCE", 6)
    scene = make_scene(*(f"vm{number}" for number in range(10)), limits=Limits())
    scene.world.stop(*(f"vm{number}" for number in range(7)))
    scene.go_on(70)
    (hold,) = scene.holds()
    assert len(holds.entries_of(hold)) == 7
    scene.world.tag("vm9", "new")
    scene.go_on(600, step=2)
    assert scene.row("vm9").tags == ["new"]


def test_what_is_held_for_long_is_looked_at_no_more_often_than_all_else(make_scene) -> None:
    scene = make_scene(*(f"vm{number}" for number in range(10)), limits=Limits())
    scene.world.stop_all()
    scene.go_on(200)
    before = scene.world.count("look")
    scene.go_on(600)
    assert 8 <= scene.world.count("look") - before <= 13


@pytest.mark.parametrize("kind", ["all", "nobody"])
def test_a_request_ends_while_all_seats_are_stuck(make_scene, kind) -> None:
    scene = make_scene(*(f"vm{number}" for number in range(8)))
    scene.world.faults.read_only = True
    for name in ("vm0", "vm1", "vm2"):
        scene.world.lock_instance(name)
        scene.world.crash(name)
    scene.go_on(20)
    request = scene.ask_all("all") if kind == "all" else scene.ask("nobody")
    scene.go_on(1800, step=3)
    request.refresh_from_db()
    assert request.state == "closed"


def test_a_request_for_one_announced_whose_creation_is_queued_ends_and_is_no_loop(
    scene: Scene,
) -> None:
    scene.engine.announce("new", "CREATE")
    scene.world.begin_create("new", held=True)
    scene.go_on(100)
    finds = scene.world.count("find", "submit_query")
    request = scene.ask("new")
    scene.go_on(300)
    request.refresh_from_db()
    done = scene.world.count("find", "submit_query") - finds
    assert request.state == "closed"
    assert done < 30


def test_a_request_for_one_just_removed_does_not_flood_the_queue(scene: Scene) -> None:
    scene.engine.look_now()
    scene.go_on(3)
    next_look = scene.world.clock() + timedelta(seconds=60)
    Cluster.objects.update(next_look_at=next_look, pace=60)
    scene.world.remove("vm1")
    before = scene.world.count("submit_query")
    request = scene.ask("vm1")
    scene.go_on(120)
    request.refresh_from_db()
    done = scene.world.count("submit_query") - before
    assert done <= 8


@pytest.mark.parametrize("how", ["submit", "nodedown"])
def test_one_that_returns_is_recorded_by_lists_where_no_job_can_be_had(
    scene: Scene, how: str
) -> None:
    machine = scene.world.machine("vm1")
    scene.world.remove("vm1")
    scene.go_on(90)
    assert scene.rows("vm1") == ["DELETED"]
    if how == "submit":
        scene.world.fail(Fault.SERVER_ERROR, "submit_query")
    else:
        scene.world.node_down(machine.node)
    scene.world.create("vm1", node=machine.node, uuid=machine.uuid)
    scene.go_on(600, step=2)
    assert scene.rows("vm1") != ["DELETED"]


def test_a_job_is_not_on_one_that_gave_its_name_away_before_it_began(scene: Scene) -> None:
    job = scene.world.begin("REBOOT", "web", held=True)
    scene.go_on(5)
    other = scene.row("vm1").uuid
    scene.world.rename("web", "shop")
    scene.world.rename("vm1", "web")
    scene.go_on(120)
    assert scene.row("web").uuid == other
    # Ganeti finds out whom a name means as the job begins: it reboots the present web.
    scene.world.queue.jobs[job].begin.args[0][0].uuid = other
    scene.world.release(job)
    scene.world.crash("shop")
    for _ in range(20):
        scene.go_on(3)
        assert scene.row("shop").status in ("ACTIVE", "STOPPED")


def test_one_that_was_replaced_is_gone_although_its_name_is_being_created(
    scene: Scene,
) -> None:
    scene.world.remove("vm1")
    scene.world.begin_create("vm1")
    scene.go_on(600, step=2)
    assert scene.rows("vm1")[0] == "DELETED"


def test_all_reaches_others_while_a_node_with_many_is_locked(make_scene) -> None:
    world = World()
    for number in range(80):
        world.create(f"a{number:02}", node="node1", secondaries=())
    scene = make_scene(world=world)
    for number in range(3):
        world.create(f"b{number}", node="node2", secondaries=())
    scene.go_on(70)
    scene.world.faults.read_only = True
    scene.world.lock_node("node1")
    at = scene.world.clock()
    request = scene.ask_all("all")
    scene.go_on(600, step=3)
    request.refresh_from_db()
    others = list(
        Instance.objects.filter(name__startswith="b").values_list("confirmed_at", flat=True)
    )
    assert all(it and it > at for it in others)


@pytest.mark.parametrize("word", ["wrongnode", "nodedown"])
def test_wishes_that_keep_coming_are_answered(scene: Scene, word: str) -> None:
    if word == "wrongnode":
        scene.world.wrong_node("vm1")
    else:
        scene.world.node_down(scene.world.machine("vm1").node)
    scene.go_on(120)
    first = scene.ask("vm1")
    pks = set()
    for _ in range(150):
        pks.add(scene.ask("vm1").pk)
        scene.go_on(1)
    first.refresh_from_db()
    print(
        first.state,
        first.outcome,
        first.error,
        len(pks),
        Request.objects.filter(state="open").count(),
    )
    assert first.state == "closed"


def test_tags_are_recorded_although_one_is_asked_about_all_the_time(scene: Scene) -> None:
    scene.world.tag("vm1", "new")
    for _ in range(200):
        scene.ask("vm1")
        scene.go_on(1)
    assert scene.row("vm1").tags == ["new"]


def test_one_whom_nobody_can_find_keeps_no_other_waiting(scene: Scene) -> None:
    scene.go_on(60)
    scene.world.remove("vm1")
    scene.ask("vm1")
    scene.engine.ask()
    assert scene.world.our_jobs()
    scene.world.faults.unaskable.add("vm1")
    scene.go_on(5)
    at = scene.world.clock()
    request = scene.ask_all("all")
    scene.go_on(600, step=2)
    request.refresh_from_db()
    assert scene.row("web").confirmed_at > at


def test_requests_end_also_when_no_turn_was_taken_for_long(scene: Scene) -> None:
    scene.pause(700)
    plan = scene.ask_all("plan")
    sweep = scene.ask_all("sweep")
    for _ in range(60):
        scene.pause(10)
        scene.engine.housekeeping()
    plan.refresh_from_db()
    sweep.refresh_from_db()
    assert plan.state == "closed"


def test_a_static_query_does_not_date_the_state(scene: Scene) -> None:
    scene.world.node_hangs  # noqa: B018
    Cluster.objects.update(next_look_at=None)
    scene.engine.look_now()
    scene.engine.feed_now()
    scene.world.crash("vm1")
    crashed = scene.world.clock.peek()
    scene.world.change("vm1", memory=2048)
    scene.pause(2)
    scene.engine.feed_now()
    scene.world.others_ask("vm1", static=True, seconds=0)
    scene.pause(2)
    scene.engine.feed_now()
    row = scene.row("vm1")
    assert row.memory == 2048
    assert row.status != "ACTIVE" or row.observed_not_before <= crashed


def test_tags_that_lists_settle_do_not_date_a_state_that_they_deny(scene: Scene) -> None:
    scene.world.lock_instance("vm1")
    scene.world.crash("vm1")
    crashed = scene.world.clock.peek()
    for number in range(40):
        scene.world.tag("vm1", f"t{number}")
        scene.go_on(25)
        row = scene.row("vm1")
        if number == 0:
            print(row.status, row.tags, row.observed_not_before > crashed)
    assert row.status == "STOPPED"


def test_old_ganeti_stranger_is_adopted_by_lists(make_scene) -> None:
    world = World()
    world.faults.no_uuids = True
    world.create("web")
    scene = make_scene(world=world)
    scene.world.fail(Fault.SERVER_ERROR, "submit_query")
    scene.world.create("new")
    scene.go_on(LONG * 2, step=2)
    assert scene.rows("new") == ["ACTIVE"]


def test_a_crash_amid_a_stream_of_jobs_is_recorded_in_time(scene: Scene) -> None:
    scene.world.begin("ACTIVATE_DISKS", "vm1", seconds=25)
    for number in range(16):
        scene.world.begin("ACTIVATE_DISKS", "vm1", seconds=25)
        if number == 1:
            scene.world.crash("vm1")
        scene.go_on(25)
    assert scene.state("vm1") == "STOPPED ERROR_down"


def test_an_approval_amid_a_look_is_not_lost(make_scene, monkeypatch) -> None:
    scene = make_scene(*(f"vm{number}" for number in range(10)), limits=Limits())
    scene.world.stop_all()
    scene.go_on(20)
    (hold,) = scene.holds()
    digest = holds.brake.digest
    let: list = []

    def amid(entries):
        if not let:
            let.append(holds.approve(hold, scene.engine.tuning, at=scene.world.clock()))
        return digest(entries)

    monkeypatch.setattr(holds.brake, "digest", amid)
    scene.engine.look_now()
    assert len(let[0]) == 10
    scene.go_on(120)
    assert scene.state("vm0") == "STOPPED ADMIN_down"


def test_an_operation_is_not_shown_for_ever_while_the_queue_cannot_be_read(
    scene: Scene,
) -> None:
    reboot = scene.world.begin("REBOOT", "vm1")
    scene.go_on(4)
    assert scene.row("vm1").status == "REBOOT"
    scene.world.fail(Fault.SERVER_ERROR, "read_queue", "highest")
    scene.world.finish(reboot)
    scene.world.crash("vm1")
    request = scene.ask("vm1")
    scene.go_on(900, step=2)
    request.refresh_from_db()
    assert scene.state("vm1") == "STOPPED ERROR_down"


def test_a_plan_is_not_failed_because_all_requests_are_under_way(scene: Scene) -> None:
    scene.world.fail(Fault.BUSY, "look")
    plan = scene.ask_all("plan")
    scene.engine.plan()
    scene.world.mend()
    scene.engine.plan()
    plan.refresh_from_db()
    assert plan.outcome == "in_sync"


@pytest.mark.parametrize("kind", ["sweep", "plan"])
def test_a_user_who_may_only_list_has_a_sweep_and_a_plan(scene: Scene, kind: str) -> None:
    scene.world.fail(Fault.FORBIDDEN, "submit_query")
    scene.world.crash("vm1")
    scene.engine.look_now()
    request = scene.ask_all(kind)
    scene.engine.messages.clear()
    scene.engine.ask()
    if kind == "plan":
        scene.engine.plan()
    scene.go_on(LONG)
    request.refresh_from_db()
    assert request.outcome == "reconciled"


def test_the_sleep_of_a_disagreement_is_no_longer_than_promised_after_a_crash(
    scene: Scene,
) -> None:
    """Down at each list and up at each job, four times; then down for good."""
    world = scene.world

    def restart(method: str) -> None:
        if method == "submit_query":
            world.start("vm1")

    world.touch = restart
    for _ in range(1200):
        if world.machine("vm1").runs_on:
            world.crash("vm1")
        scene.go_on(1)
        told = scene.row("vm1").differs.get("state", {})
        if told.get("acquittals", 0) >= 4:
            break
    world.touch = lambda _: None
    world.crash("vm1")
    scene.go_on(LONG)
    assert scene.state("vm1") == "STOPPED ERROR_down"


def test_names_that_cannot_be_asked_about_keep_no_other_waiting(make_scene) -> None:
    names = [f"vm{number:02}" for number in range(14)]
    scene = make_scene(*names)
    scene.world.faults.unaskable |= set(names[:12])
    at = scene.world.clock()
    scene.ask_all("all")
    scene.go_on(300, step=2)
    assert scene.row("vm13").confirmed_at > at


def test_jobs_of_another_installation_hold_no_seats_of_ours(scene: Scene) -> None:
    scene.world.lock_instance("web")
    for _ in range(3):
        # Another installation of this service, with the same label.
        scene.world.queries.ours("web", 10)
    scene.go_on(5)
    request = scene.ask("nobody")
    scene.ask("vm1")
    scene.go_on(900, step=2)
    request.refresh_from_db()
    assert request.state == "closed"


def test_what_could_not_be_kept_is_not_said_to_be_in_sync(scene: Scene, monkeypatch) -> None:
    from proj.reconcile import look

    real = look.record

    def record(cluster, items, *args, **values):
        if any(item.name == "vm1" for item in items):
            raise ValueError("nobody can write it")
        return real(cluster, items, *args, **values)

    monkeypatch.setattr(look, "record", record)
    scene.world.crash("vm1")
    request = scene.ask_all("sweep")
    scene.go_on(120)
    request.refresh_from_db()
    assert request.outcome != "in_sync"


@pytest.mark.parametrize("how", ["look", "unreadable", "ask"])
def test_health_is_not_green_while_a_cluster_is_not_seen(
    scene: Scene, monkeypatch, how: str
) -> None:
    from proj import health

    if how == "look":
        scene.world.fail(Fault.SERVER_ERROR, "look")
    elif how == "unreadable":
        scene.world.faults.unreadable.add("vm1")
    else:
        scene.world.fail(Fault.FORBIDDEN, "submit_query")
    scene.world.crash("vm1")
    scene.go_on(900, step=2)
    monkeypatch.setattr(health, "now", scene.world.clock)
    found = list(health.problems())
    assert found


def test_a_reason_is_told_also_where_only_asking_fails(scene: Scene) -> None:
    """A reason is told also where ASK fails and LOOK does not."""
    scene.world.fail(Fault.SERVER_ERROR, "submit_query")
    request = scene.ask_all("all")
    scene.go_on(200)
    request.refresh_from_db()
    assert all(reason for _, reason in request.unconfirmed)


def test_a_wish_that_joins_a_blocked_one_has_time_of_its_own(scene: Scene) -> None:
    """A wish that joins a blocked one has time of its own."""
    scene.world.lock_instance("vm1")
    scene.world.crash("vm1")
    scene.world.fail(Fault.SERVER_ERROR, "look")
    for _ in range(200):
        last = scene.ask("vm1")
        scene.go_on(1)
        last.refresh_from_db()
        if last.state == "closed":
            assert last.closed_at - last.requested_at > timedelta(seconds=60)
            break


def test_mirrored_jobs_do_not_grow_while_the_queue_cannot_be_read(scene: Scene) -> None:
    """Without readings our ended jobs' rows are forgotten too."""
    scene.world.fail(Fault.SERVER_ERROR, "read_queue", "highest")
    for _ in range(100):
        scene.ask("vm1")
        scene.go_on(3)
    assert Job.objects.count() < 20
