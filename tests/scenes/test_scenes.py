"""The scenes that broke the first engine, each with what is right."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from proj.inventory.models import Cluster, Instance, Job, Question, Request, Transition
from proj.names import is_instance_name
from proj.reconcile import announce, holds, housekeeping, requests
from proj.reconcile.brake import Limits
from tests.scenes.conftest import Scene
from tests.world.faults import Fault

pytestmark = pytest.mark.django_db(transaction=True)

MakeScene = Callable[..., Scene]
BOUND = 60 + 2 * 10 + 20
"""PROOF_WITHIN, two looks at the fast pace, and the turns themselves."""


def test_01_a_crash_after_operations_that_came_and_went_while_the_worker_paused(
    scene: Scene,
) -> None:
    failover = scene.world.begin("FAILOVER", "vm1")
    scene.go_on(5)
    request = scene.ask("vm1")
    scene.world.finish(failover)
    scene.world.finish(scene.world.begin("REBOOT", "vm1"))
    scene.pause(30)
    scene.world.crash("vm1")
    scene.go_on(3)
    request.refresh_from_db()
    assert request.outcome != "in_sync"
    scene.go_on(30)
    assert scene.state("vm1") == "STOPPED ERROR_down"
    assert not Job.objects.filter(is_query=False).exists()
    assert not scene.problems()


def test_02_a_reading_that_dies_anywhere_is_made_good_by_the_next(scene: Scene) -> None:
    for place in range(1, 60):
        reboot = scene.world.begin("REBOOT", "vm1")
        scene.go_on(4)
        assert scene.row("vm1").status == "REBOOT"
        scene.world.finish(reboot)
        scene.engine.mortality.dies_at = place
        scene.engine.feed_now()
        died = scene.engine.mortality.is_dead
        scene.engine.mortality.dies_at = None
        scene.engine.messages.clear()
        scene.go_on(130 if died else 30)
        assert scene.state("vm1") == "ACTIVE running", place
        if not died:
            return
    raise AssertionError("the reading never came to its end")


def test_03_a_foreign_query_that_is_purged_while_open_holds_up_no_reading(scene: Scene) -> None:
    query = scene.world.others_ask("vm1", held=True)
    scene.go_on(5)
    scene.world.purge(query)
    scene.go_on(5)
    scene.world.begin("REBOOT", "web", seconds=30)
    scene.go_on(4)
    assert scene.row("web").status == "REBOOT"
    assert scene.engine.cluster.feed_after > query


def test_04_a_mass_stop_that_somebody_elses_query_shows_is_held_until_it_is_approved(
    make_scene: MakeScene,
) -> None:
    scene = make_scene(*(f"vm{number}" for number in range(10)), limits=Limits())
    scene.world.stop_all()
    scene.world.others_ask(seconds=0)
    scene.go_on(20)
    assert {scene.state(f"vm{number}") for number in range(10)} == {"ACTIVE running"}
    (hold,) = scene.holds()
    let_through = holds.approve(hold, scene.engine.tuning, at=scene.world.clock())
    assert len(let_through) == 10
    scene.go_on(90)
    assert {scene.state(f"vm{number}") for number in range(10)} == {"STOPPED ADMIN_down"}
    assert not scene.problems()


def test_05_a_plan_never_stands_in_for_a_real_request(scene: Scene) -> None:
    engine = scene.engine
    plan = requests.request_instance(
        engine.cluster, "vm1", tuning=engine.tuning, at=scene.world.clock(), plan=True
    )
    request = scene.ask("vm1")
    assert request.pk != plan.pk
    scene.world.crash("vm1")
    scene.go_on(5)
    request.refresh_from_db()
    assert (request.outcome, scene.state("vm1")) == ("reconciled", "STOPPED ERROR_down")
    scene.engine.plan()
    plan.refresh_from_db()
    assert plan.state == "closed"


def test_06_a_request_amid_a_look_is_served_by_a_list_that_began_after_it(scene: Scene) -> None:
    made: list[Request] = []

    def wish(method: str) -> None:
        if method == "look" and not made:
            scene.world.crash("vm1")
            made.append(scene.ask_all("sweep"))

    scene.world.touched = wish
    scene.engine.look_now()
    scene.world.touched = lambda _: None
    (request,) = made
    scene.engine.feed_now()
    request.refresh_from_db()
    assert request.state == "open"
    scene.go_on(60)
    request.refresh_from_db()
    assert request.outcome == "reconciled"
    assert scene.engine.cluster.looked_not_before > request.requested_at


def test_07_housekeeping_at_any_statement_of_a_look_closes_nothing_that_is_still_to_be_filled(
    scene: Scene,
) -> None:
    request = scene.ask_all("all")

    def keep(_: str) -> None:
        housekeeping.keep_house(scene.engine.context, keep=timedelta(hours=1))

    scene.world.touch = scene.world.touched = keep
    scene.world.crash("vm1")
    scene.go_on(60)
    request.refresh_from_db()
    assert (request.outcome, request.queried) == ("reconciled", 3)


@pytest.mark.parametrize("operation", ["REBOOT", "CREATE"])
def test_08_a_dead_name_stays_dead_until_something_shows_that_it_lives(
    scene: Scene, operation: str
) -> None:
    scene.world.remove("vm1")
    scene.go_on(90)
    assert scene.rows("vm1") == ["DELETED"]
    if operation == "CREATE":
        job = scene.world.begin_create("vm1", held=True)
    else:
        scene.world.create("vm1")
        job = scene.world.begin("REBOOT", "vm1", held=True)
        scene.world.remove("vm1")
    scene.go_on(30)
    assert scene.rows("vm1") == ["DELETED"]
    scene.world.finish(job, "canceled", leaving="before")
    scene.go_on(120)
    assert scene.rows("vm1") == ["DELETED"]
    assert not scene.problems()
    assert not Question.objects.exists()


def test_09_a_job_that_ends_does_not_acquit_a_wrong_node(scene: Scene) -> None:
    scene.world.wrong_node("vm1")
    scene.go_on(60)
    assert scene.state("vm1") == "ERROR ERROR_wrongnode"
    scene.world.finish(scene.world.begin("SET_PARAMS", "vm1", memory=2048))
    for _ in range(60):
        scene.go_on(1)
        assert scene.state("vm1") == "ERROR ERROR_wrongnode"
    assert scene.row("vm1").memory == 2048
    scene.world.right_node("vm1")
    scene.go_on(90)
    assert not scene.problems()


def test_10_what_no_query_job_can_answer_is_settled_by_two_lists(scene: Scene) -> None:
    reboot = scene.world.begin("REBOOT", "vm1")
    scene.go_on(4)
    assert scene.row("vm1").status == "REBOOT"
    scene.world.fail(Fault.SERVER_ERROR, "submit_query")
    scene.world.finish(reboot)
    scene.go_on(BOUND)
    assert scene.state("vm1") == "ACTIVE running"
    assert ("status", "REBOOT", "ACTIVE") in scene.transitions("vm1")


@pytest.mark.parametrize("load", ["nothing", "all", "requests"])
def test_11_one_query_behind_a_lock_holds_up_nobody_else(make_scene: MakeScene, load: str) -> None:
    scene = make_scene("web", "vm1", "vm11", "vm2", gone_after=300)
    scene.world.lock_instance("web")
    scene.world.crash("web")
    scene.go_on(15)
    if load == "all":
        scene.ask_all("all")
    scene.world.crash("vm11")
    for second in range(70):
        if load == "requests":
            for name in ("web", "vm1", "vm2", "nobody"):
                scene.ask(name)
        scene.go_on(1)
        if scene.state("vm11") == "STOPPED ERROR_down":
            assert second <= 65
            return
    raise AssertionError("the crash was not recorded after one look and one proof")


def test_12_a_job_id_that_comes_late_is_nobodys(scene: Scene) -> None:
    scene.world.crash("vm1")
    scene.engine.look_now()
    late: list[Question] = []

    def slow(method: str) -> None:
        if method == "submit_query" and not late:
            late.append(Question.objects.exclude(token="").get())
            scene.world.clock.wait(200)
            scene.world.touched = lambda _: None
            scene.go_on(30)

    scene.world.touched = slow
    scene.engine.ask()
    assert late
    assert scene.state("vm1") == "STOPPED ERROR_down"
    scene.world.start("vm1")
    scene.go_on(90)
    assert not scene.problems()


@pytest.mark.parametrize("ahead", [3600.0, 10 * 365 * 86400.0])
def test_13_a_clock_that_was_ahead_for_a_minute_blinds_nobody(scene: Scene, ahead: float) -> None:
    scene.world.clock.jump(ahead)
    scene.world.crash("vm1")
    scene.ask("vm11")
    scene.go_on(60)
    assert scene.state("vm1") == "STOPPED ERROR_down"
    scene.world.clock.jump(-ahead)
    scene.world.start("vm1")
    looks = scene.world.count("look", "look_unless")
    scene.go_on(90)
    assert scene.world.count("look", "look_unless") > looks
    assert scene.state("vm1") == "ACTIVE running"
    assert not scene.problems()


@pytest.mark.parametrize("is_seen", [True, False])
def test_14_a_creation_announced_as_typed_and_named_in_full_is_one_instance(
    scene: Scene, is_seen: bool
) -> None:
    scene.engine.announce("New", "CREATE")
    job = scene.world.begin_create("New", becomes="new.example.com")
    announced = Instance.objects.get(name="New")
    assert announced.status == "BUILD"
    if is_seen:
        scene.go_on(5)
        assert scene.row("new.example.com").status == "BUILD"
    scene.world.finish(job)
    scene.go_on(120)
    row = scene.row("new.example.com")
    assert (row.pk, row.status, row.api_id) == (announced.pk, "ACTIVE", announced.api_id)
    assert Instance.objects.filter(name__istartswith="new").count() == 1


def test_15_a_reader_behind_a_long_lock_fills_no_queue_and_confirms_the_others(
    make_scene: MakeScene,
) -> None:
    scene = make_scene(*(f"vm{number}" for number in range(8)))
    scene.world.faults.read_only = True
    for name in ("vm0", "vm1", "vm2"):
        scene.world.lock_instance(name)
        scene.world.crash(name)
    most = 0
    scene.go_on(20)
    request = scene.ask_all("sweep")
    for _ in range(60):
        scene.go_on(10, step=2)
        most = max(most, len([job for job in scene.world.our_jobs() if job.is_open]))
    assert most <= 3
    request.refresh_from_db()
    assert request.state == "closed"
    assert scene.state("vm1") == "STOPPED ERROR_down"
    scene.world.stop("vm7")
    # All seats are stuck: in PROOF_WITHIN and two looks, which come a little early or late.
    scene.go_on(60 + 2 * 66, step=2)
    assert scene.state("vm7") == "STOPPED ADMIN_down"


@pytest.mark.parametrize("fault", ["unfetchable", "hanging", "garbled"])
def test_16_one_foreign_result_that_cannot_be_had_holds_up_no_other(
    scene: Scene, fault: str
) -> None:
    bad = scene.world.others_ask("vm1", held=True)
    good = scene.world.others_ask("vm11", held=True)
    scene.go_on(5)
    getattr(scene.world.faults, fault).add(bad)
    scene.world.crash("vm11")
    scene.world.release(bad)
    scene.world.release(good)
    scene.go_on(10)
    assert scene.state("vm11") == "STOPPED ERROR_down"
    reads = scene.world.count("poll")
    scene.go_on(60)
    assert scene.world.count("poll") - reads < 5
    assert not scene.problems()


def test_17_a_migration_between_two_lists_is_never_a_wrong_node(scene: Scene) -> None:
    Cluster.objects.update(next_follow_at=None)
    for _ in range(5):
        scene.engine.feed_now()
        job = scene.world.begin("MIGRATE", "vm1")
        scene.world.wrong_node("vm1")
        scene.engine.look_now()
        scene.world.clock.wait(3)
        scene.engine.look_now()
        scene.engine.feed_now()
        scene.world.right_node("vm1")
        scene.world.finish(job)
        scene.go_on(30)
    words = Transition.objects.filter(field="backend_status").values_list("after", flat=True)
    assert "ERROR_wrongnode" not in words


def test_18_a_hold_holds_what_it_names_and_nothing_else(make_scene: MakeScene) -> None:
    scene = make_scene(*(f"vm{number}" for number in range(10)), limits=Limits())
    scene.world.stop(*(f"vm{number}" for number in range(6)))
    scene.go_on(70)
    (hold,) = scene.holds()
    assert len(holds.entries_of(hold)) == 6
    scene.world.change("vm9", memory=4096)
    scene.go_on(60)
    assert scene.row("vm9").memory == 4096
    assert scene.state("vm0") == "ACTIVE running"


def test_19_a_name_that_ganeti_completes_to_another_is_absent(make_scene: MakeScene) -> None:
    scene = make_scene("web", "web.example.org")
    scene.world.remove("web")
    asked = scene.world.count("submit_query")
    scene.go_on(90)
    assert scene.rows("web") == ["DELETED"]
    assert scene.rows("web.example.org") == ["ACTIVE"]
    assert scene.world.count("submit_query") - asked < 6
    assert not scene.problems()


def test_20_a_rename_keeps_id_and_history_and_a_new_one_has_its_own(scene: Scene) -> None:
    before = scene.row("vm1")
    gone = scene.row("vm11")
    scene.world.rename("vm1", "shop")
    scene.world.recreate("vm11")
    scene.go_on(120)
    row = scene.row("shop")
    assert (row.pk, row.api_id, str(row.api_id)) == (before.pk, before.api_id, row.uuid)
    assert [it for it in scene.transitions("shop") if it[0] == "name"] == [("name", "vm1", "shop")]
    assert scene.rows("vm11") == ["DELETED", "ACTIVE"]
    assert scene.row("vm11").api_id != gone.api_id
    assert not scene.problems()


@pytest.mark.parametrize("name", ["..", ".", "../info", "a/b", "", "-x", "x" * 256])
def test_21_a_name_that_is_a_path_is_refused_at_every_door(scene: Scene, name: str) -> None:
    assert not is_instance_name(name)
    with pytest.raises(ValueError, match="no name"):
        scene.ask(name)
    with pytest.raises(ValueError, match="no name"):
        announce.announce(
            scene.engine.cluster, name, action="CREATE", job_id=None,
            policy=scene.engine.policy, tuning=scene.engine.tuning, at=scene.world.clock(),
        )  # fmt: skip


def test_21_a_row_with_such_a_name_harms_nobody(scene: Scene) -> None:
    row = scene.row("vm1")
    row.pk, row.uuid, row.name, row.backend_status = None, None, "..", ""
    row.status = "BUILD"
    row.save(force_insert=True)
    scene.world.crash("vm11")
    scene.go_on(60)
    assert scene.state("vm11") == "STOPPED ERROR_down"


def test_22_a_host_whose_clock_is_set_back_an_hour_goes_on(scene: Scene) -> None:
    scene.world.clock.jump(-3600)
    scene.world.crash("vm1")
    scene.go_on(60)
    assert scene.state("vm1") == "STOPPED ERROR_down"
    assert not scene.problems()
