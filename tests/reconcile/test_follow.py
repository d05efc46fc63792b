"""The job queue: what others began, what ended, what they asked, and what was announced."""

from datetime import timedelta

import pytest

from proj.backend import JobState
from proj.inventory.models import Cluster, Instance, Job, Question, Transition
from tests.reconcile.conftest import Stage
from tests.world.faults import Fault


def come_to_rest(stage: Stage, seconds: float = 10) -> None:
    """Go on without any look."""
    before = stage.world.count("look")
    for _ in range(round(seconds)):
        Cluster.objects.update(next_look_at=stage.clock() + timedelta(minutes=5))
        stage.go_on(1)
    assert stage.world.count("look") == before


STATUS = {
    "REBOOT": "REBOOT", "REINSTALL": "REBUILD", "GROW_DISK": "RESIZE", "SHUTDOWN": "ACTIVE",
    "STARTUP": "ACTIVE", "MIGRATE": "ACTIVE", "FAILOVER": "ACTIVE", "REMOVE": "ACTIVE",
}  # fmt: skip


@pytest.mark.parametrize("operation", STATUS)
@pytest.mark.parametrize("is_running", [False, True])
def test_an_open_job_is_mirrored_and_shown_as_a_status_once_it_runs(
    ten: Stage, operation: str, is_running: bool
) -> None:
    job_id = ten.world.begin(operation, "vm3", held=not is_running)
    ten.engine.feed_now()
    job = Job.objects.get(job_id=job_id)
    assert (job.names, job.uuids) == (["vm3"], [ten.row("vm3").uuid])
    assert job.state == (JobState.RUNNING if is_running else JobState.QUEUED)
    assert (job.running_since is not None) is is_running
    assert ten.row("vm3").status == (STATUS[operation] if is_running else "ACTIVE")


def test_a_job_that_ended_has_its_instance_asked_at_once(ten: Stage) -> None:
    job = ten.world.begin("SHUTDOWN", "vm3")
    ten.engine.feed_now()
    ten.world.finish(job)
    come_to_rest(ten)
    assert ten.recorded()["vm3"] == "STOPPED ADMIN_down"
    assert ten.trail("vm3")[-1][2] == "job-convicts"
    assert not Job.objects.exists()


@pytest.mark.parametrize("end", ["error", "success", "canceled"])
def test_jobs_that_began_and_ended_between_two_readings_are_noticed(ten: Stage, end: str) -> None:
    first = ten.world.begin("SHUTDOWN", "vm3")
    ten.world.finish(first, end, leaving="done")
    second = ten.world.begin("STARTUP", "vm3")
    ten.world.finish(second, end, leaving="half")
    come_to_rest(ten)
    assert ten.recorded()["vm3"] == "STOPPED ERROR_down"


def test_what_was_asked_before_a_job_ended_is_asked_again(ten: Stage) -> None:
    ten.ask("vm3")
    ten.engine.ask()
    ten.clock.wait(1)
    ten.engine.take(ten.engine.messages.pop())
    ten.world.finish(ten.world.begin("SHUTDOWN", "vm3"))
    ten.engine.feed_now()
    ten.engine.deliver()
    assert ten.recorded()["vm3"] == "ACTIVE running"
    assert ten.questions() == ["vm3"]
    come_to_rest(ten)
    assert ten.recorded()["vm3"] == "STOPPED ADMIN_down"


def test_a_new_instance_is_a_build_and_then_what_its_job_made_of_it(ten: Stage) -> None:
    job = ten.world.begin_create("new")
    ten.engine.feed_now()
    assert ten.recorded()["new"] == "BUILD"
    ten.world.finish(job)
    come_to_rest(ten)
    assert ten.recorded()["new"] == "ACTIVE running"
    assert ten.row("new").uuid == ten.world.machine("new").uuid


def test_a_removed_instance_is_deleted_by_proof_after_its_job(ten: Stage) -> None:
    ten.world.finish(ten.world.begin("REMOVE", "vm3"))
    come_to_rest(ten)
    assert ten.recorded()["vm3"] == "ACTIVE running"
    Cluster.objects.update(next_look_at=None)
    ten.go_on(40)
    assert ten.trail("vm3")[-1] == ("ACTIVE", "DELETED", "gone")


def test_what_somebody_else_asked_is_recorded_without_a_job_of_ours(ten: Stage) -> None:
    ten.go_on(5)
    ten.world.crash("vm3")
    job_id = ten.world.others_ask("vm3", seconds=1)
    come_to_rest(ten)
    assert ten.recorded()["vm3"] == "STOPPED ERROR_down"
    assert ten.asked()[10:] == []
    change = Transition.objects.get(instance__name="vm3", field="status", after="STOPPED")
    assert (change.rule, change.source, change.job_id) == ("job-convicts", "foreign_job", job_id)
    assert not Job.objects.exists()


def test_a_static_query_of_somebody_else_changes_no_state(ten: Stage) -> None:
    ten.go_on(5)
    ten.world.crash("vm3")
    ten.world.change("vm3", memory=77)
    ten.world.others_ask("vm3", static=True, seconds=1)
    come_to_rest(ten)
    assert (ten.recorded()["vm3"], ten.row("vm3").memory) == ("ACTIVE running", 77)


def test_one_reply_about_all_confirms_those_that_agree_and_corrects_the_others(ten: Stage) -> None:
    ten.go_on(5)
    ten.world.crash("vm3")
    before = ten.clock()
    ten.world.others_ask(seconds=1)
    come_to_rest(ten)
    assert ten.recorded()["vm3"] == "STOPPED ERROR_down"
    assert Instance.objects.filter(confirmed_at__gt=before - timedelta(seconds=5)).count() == 10
    assert set(
        Transition.objects.exclude(rule="adopted").values_list("instance__name", flat=True)
    ) == {"vm3"}


def test_a_reply_that_overlaps_what_is_recorded_and_differs_is_asked_again(ten: Stage) -> None:
    ten.go_on(5)
    foreign = ten.world.others_ask("vm3", held=True, seconds=0)
    ten.go_on(5)
    ten.world.crash("vm3")
    ten.requery("vm3")
    ten.world.start("vm3")
    ten.world.release(foreign)
    asked = len(ten.asked())
    come_to_rest(ten)
    assert ten.asked()[asked:] == ["vm3"]
    assert ten.recorded()["vm3"] == "ACTIVE running"


def test_the_feed_goes_on_where_it_was_after_a_restart(ten: Stage) -> None:
    job = ten.world.begin("SHUTDOWN", "vm3")
    ten.engine.feed_now()
    ten.world.finish(job)
    ten.clock.wait(300)
    ten.engine.restart()
    come_to_rest(ten)
    assert ten.recorded()["vm3"] == "STOPPED ADMIN_down"


def test_ids_that_began_anew_are_noticed(ten: Stage) -> None:
    assert ten.engine.cluster.feed_after >= 10
    ten.world.renumber()
    for _ in range(10):
        ten.clock.wait(2)
        ten.engine.feed_now()
    assert ten.engine.cluster.feed_after < 10
    ten.world.begin("REBOOT", "vm3")
    ten.engine.feed_now()
    assert ten.recorded()["vm3"] == "REBOOT running"


@pytest.mark.parametrize("forget", ["purge", "archive"])
def test_a_job_that_the_queue_forgets_while_it_is_mirrored_has_its_instance_asked(
    ten: Stage, forget: str
) -> None:
    job = ten.world.begin("SHUTDOWN", "vm3")
    ten.engine.feed_now()
    ten.world.finish(job)
    getattr(ten.world, forget)(job)
    come_to_rest(ten)
    assert ten.recorded()["vm3"] == "STOPPED ADMIN_down"
    come_to_rest(ten, 70)
    assert not Job.objects.exists()


def test_a_job_whose_id_shows_late_is_not_passed_by(ten: Stage) -> None:
    late = ten.world.begin("SHUTDOWN", "vm3", hidden=True)
    ten.world.begin("REBOOT", "vm4")
    ten.engine.feed_now()
    assert ten.engine.cluster.feed_after < late
    ten.clock.wait(20)
    ten.world.show(late)
    ten.world.finish(late)
    come_to_rest(ten)
    assert ten.recorded()["vm3"] == "STOPPED ADMIN_down"


def test_an_id_that_never_shows_is_passed_by_after_a_while(ten: Stage) -> None:
    never = ten.world.begin("SHUTDOWN", "vm3", hidden=True)
    ten.world.begin("REBOOT", "vm4", seconds=1)
    for _ in range(50):
        ten.clock.wait(2)
        ten.engine.feed_now()
    assert ten.engine.cluster.feed_after > never


def test_a_queue_of_thousands_of_jobs_is_a_request_or_two_a_turn_and_none_is_forgotten(
    ten: Stage,
) -> None:
    numbers = [ten.world.begin("SET_PARAMS", "vm3", held=True) for _ in range(2_000)]
    before = ten.world.count()
    ten.engine.feed_now()
    assert ten.world.count() - before <= 2
    assert Job.objects.count() == 2_000
    ten.world.finish(numbers[-1], "canceled")
    for _ in range(12):
        ten.clock.wait(2)
        ten.engine.feed_now()
    assert not Job.objects.filter(job_id=numbers[-1]).exists()
    assert Job.objects.count() == 1_999


def test_a_queue_that_cannot_be_read_is_left_alone_longer_and_longer(ten: Stage) -> None:
    ten.world.fail(Fault.DOWN)
    pauses = []
    for _ in range(6):
        ten.engine.feed_now()
        due = ten.engine.cluster.next_follow_at
        assert due is not None
        pauses.append((due - ten.clock()).total_seconds())
    assert pauses[-1] > 8 * pauses[0]
    assert ten.engine.cluster.follow_failures == 6
    ten.world.mend()
    ten.engine.feed_now()
    assert ten.engine.cluster.follow_failures == 0
    assert ten.engine.cluster.next_look_at <= ten.clock()


def test_a_row_of_the_queue_that_cannot_be_read_is_counted_and_harms_no_other(ten: Stage) -> None:
    ten.world.spoil_row(ten.world.begin("REBOOT", "vm3"))
    ten.world.begin("REBOOT", "vm4")
    ten.engine.feed_now()
    assert ten.engine.cluster.unreadable_jobs == 1
    assert ten.recorded()["vm4"] == "REBOOT running"


# What a host system announces


@pytest.mark.parametrize("has_id", [True, False])
def test_an_announced_operation_shows_at_once_and_ends_by_its_job(ten: Stage, has_id: bool) -> None:
    job_id = ten.world.queue.newest + 1
    ten.engine.announce("vm3", "REBOOT", job_id if has_id else None)
    assert ten.recorded()["vm3"] == "REBOOT running"
    job = ten.world.begin("REBOOT", "vm3")
    assert job == job_id
    ten.go_on(5)
    assert ten.recorded()["vm3"] == "REBOOT running"
    ten.world.finish(job)
    ten.go_on(20)
    assert ten.recorded()["vm3"] == "ACTIVE running"
    assert not Job.objects.exists()


@pytest.mark.parametrize("has_id", [True, False])
def test_an_announced_operation_that_never_comes_ends_within_the_bound(
    ten: Stage, has_id: bool
) -> None:
    ten.engine.announce("vm3", "REBOOT", 4711 if has_id else None)
    ten.go_on(30)
    ten.go_on(120)
    assert ten.recorded()["vm3"] == "ACTIVE running"
    assert not Job.objects.exists()


def test_a_job_that_ended_before_it_was_announced_is_settled(ten: Stage) -> None:
    job = ten.world.begin("REBOOT", "vm3")
    ten.world.finish(job)
    ten.go_on(10)
    ten.engine.announce("vm3", "REBOOT", job)
    ten.go_on(120)
    assert ten.recorded()["vm3"] == "ACTIVE running"
    assert not Job.objects.exists()


def test_an_announced_build_is_shown_even_where_strangers_are_only_reported(ten: Stage) -> None:
    Cluster.objects.update(unknown="report")
    ten.engine.announce("new", "CREATE")
    assert ten.recorded()["new"] == "BUILD"


def test_an_operation_that_nobody_knows_is_refused(ten: Stage) -> None:
    ten.engine.announce("vm3", "DANCE")
    assert not Job.objects.exists()
    assert not Question.objects.exists()
