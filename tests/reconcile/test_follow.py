"""The job queue: what others began, what ended, and what they asked."""

from dataclasses import replace
from datetime import timedelta

import pytest

from proj.backend import QueuedJob, Work
from proj.inventory.models import Cluster, Instance, Job, Pass, Query, Transition
from proj.observation import JobEnd
from proj.reconcile.operations import operation_started
from tests.reconcile.conftest import Engine


@pytest.fixture
def following(ten: Engine) -> Engine:
    """An engine that knows ten running instances, and its place in the queue."""
    ten.clock.wait(2)
    ten.follow()
    ten.clock.wait(2)
    return ten


def come_to_rest(engine: Engine) -> None:
    """Follow the queue and carry out what it asks for, without any look."""
    before = engine.backend.looks
    engine.follow()
    for _ in range(5):
        engine.step()
        engine.clock.wait(0.3)
    assert engine.backend.looks == before


@pytest.mark.parametrize(
    ("operation", "status", "task_state"),
    [
        ("REBOOT", "REBOOT", "REBOOT"),
        ("REINSTALL", "REBUILD", "REINSTALL"),
        ("SHUTDOWN", "ACTIVE", "SHUTDOWN"),
        ("STARTUP", "ACTIVE", "STARTUP"),
        ("MIGRATE", "ACTIVE", "MIGRATE"),
        ("FAILOVER", "ACTIVE", "FAILOVER"),
        ("REMOVE", "ACTIVE", "REMOVE"),
    ],
)
@pytest.mark.parametrize("running", [False, True])
def test_an_open_job_is_mirrored_as_a_status_or_beside_it(
    following: Engine, operation: str, status: str, task_state: str, running: bool
) -> None:
    job_id = following.backend.begin("vm3", operation, running=running)
    following.follow()
    row = Instance.objects.get(name="vm3")
    assert (row.status, row.task_state, row.operation_job_id) == (status, task_state, job_id)


def test_a_job_that_ended_has_its_instance_asked_at_once(following: Engine) -> None:
    job_id = following.backend.begin("vm3", "SHUTDOWN")
    following.follow()
    following.backend.truth["vm3"] = "ADMIN_down"
    following.backend.finish(job_id)
    come_to_rest(following)
    assert following.recorded()["vm3"] == "STOPPED ADMIN_down"
    row = Instance.objects.get(name="vm3")
    assert (row.task_state, row.operation) == ("", "")
    change = Transition.objects.get(instance=row, field="status", after="STOPPED")
    assert (change.rule, change.source) == ("operation-ended", "follow")
    assert not Job.objects.exists()


@pytest.mark.parametrize("end", [JobEnd.FAILED, JobEnd.SUCCESS])
def test_a_job_that_began_and_ended_between_two_readings_is_noticed(
    following: Engine, end: JobEnd
) -> None:
    job_id = following.backend.begin("vm3", "SHUTDOWN")
    following.backend.finish(job_id, end)
    following.backend.truth["vm3"] = "ADMIN_down"
    come_to_rest(following)
    assert following.recorded()["vm3"] == "STOPPED ADMIN_down"


def test_a_new_instance_is_a_build_and_then_what_its_job_made_of_it(following: Engine) -> None:
    job_id = following.backend.begin("new", "CREATE")
    following.follow()
    assert following.recorded()["new"] == "BUILD"
    following.backend.truth["new"] = "running"
    following.backend.finish(job_id)
    come_to_rest(following)
    assert following.recorded()["new"] == "ACTIVE running"


def test_a_removed_instance_is_deleted_on_the_word_of_its_job_and_a_404(following: Engine) -> None:
    job_id = following.backend.begin("vm3", "REMOVE")
    del following.backend.truth["vm3"]
    following.backend.finish(job_id)
    come_to_rest(following)
    assert following.recorded()["vm3"] == "DELETED"


def test_a_second_job_that_ends_before_the_first_was_settled_counts_too(following: Engine) -> None:
    first = following.backend.begin("vm3", "SHUTDOWN")
    following.backend.finish(first)
    following.follow()
    following.clock.wait(2)
    second = following.backend.begin("vm3", "STARTUP")
    following.backend.finish(second)
    following.backend.truth["vm3"] = "ERROR_down"
    come_to_rest(following)
    assert following.recorded()["vm3"] == "STOPPED ERROR_down"
    assert Instance.objects.get(name="vm3").operation == ""


def test_what_somebody_else_asked_is_reconciled_without_a_job_of_ours(following: Engine) -> None:
    following.backend.truth["vm3"] = "ERROR_down"
    asked = len(following.backend.jobs)
    job_id = following.backend.info("vm3")
    come_to_rest(following)
    assert following.recorded()["vm3"] == "STOPPED ERROR_down"
    assert len(following.backend.jobs) == asked
    change = Transition.objects.get(instance__name="vm3", field="status", after="STOPPED")
    assert (change.rule, change.job_id) == ("job-convicts", job_id)
    assert not Pass.objects.exclude(state="closed").exists()


def test_a_static_query_of_somebody_else_changes_no_state(following: Engine) -> None:
    following.backend.truth["vm3"] = "ERROR_down"
    following.backend.info("vm3", static=True)
    come_to_rest(following)
    assert following.recorded()["vm3"] == "ACTIVE running"


def test_one_reply_about_all_confirms_those_that_agree_and_corrects_the_others(
    following: Engine,
) -> None:
    following.backend.truth["vm3"] = "ERROR_down"
    Instance.objects.update(confirmed_at=following.clock() - timedelta(days=2))
    following.backend.info(*following.backend.truth)
    come_to_rest(following)
    assert following.recorded()["vm3"] == "STOPPED ERROR_down"
    recently = following.clock() - timedelta(minutes=1)
    assert Instance.objects.filter(confirmed_at__gt=recently).count() == 10
    assert set(Transition.objects.values_list("instance__name", flat=True).distinct()) == {
        *following.backend.truth
    }
    assert Transition.objects.exclude(rule="adopted").count() == 2


def test_a_reply_that_may_be_older_than_what_is_recorded_is_asked_again(following: Engine) -> None:
    following.backend.truth["vm3"] = "ERROR_down"
    job_id = following.backend.info("vm3", open=True)
    following.backend.queue[job_id] = QueuedJob(job_id, True, None, is_query=True)
    following.follow()
    following.clock.wait(2)
    following.ask("vm3")
    following.step()
    following.step()
    assert following.recorded()["vm3"] == "STOPPED ERROR_down"
    following.backend.foreign[job_id] = (["vm3"], False)
    following.backend.truth["vm3"] = "running"
    asked = len(following.backend.jobs)
    following.backend.finish(job_id)
    come_to_rest(following)
    assert list(following.backend.jobs.values())[asked:] == ["vm3"]
    assert following.recorded()["vm3"] == "ACTIVE running"


def test_the_feed_goes_on_where_it_was_after_a_restart(following: Engine) -> None:
    job_id = following.backend.begin("vm3", "SHUTDOWN")
    following.follow()
    following.backend.truth["vm3"] = "ADMIN_down"
    following.backend.finish(job_id)
    following.clock.wait(3600)
    following.cluster = Cluster.objects.get()
    come_to_rest(following)
    assert following.recorded()["vm3"] == "STOPPED ADMIN_down"


def test_ids_that_jump_are_followed(following: Engine) -> None:
    following.backend.newest += 100_000
    job_id = following.backend.begin("vm3", "REBOOT")
    following.follow()
    assert Instance.objects.get(name="vm3").operation_job_id == job_id
    assert Cluster.objects.get().feed_after == job_id


def test_ids_that_went_back_are_noticed_by_the_next_job_of_ours(following: Engine) -> None:
    following.backend.newest = 0
    following.backend.queue.clear()
    following.backend.jobs.clear()
    following.ask("vm1")
    following.step()
    assert Cluster.objects.get().feed_after is None
    following.step()
    following.backend.begin("vm3", "REBOOT")
    following.follow()
    assert following.recorded()["vm3"] == "REBOOT running"


def test_a_job_that_vanished_has_its_instance_asked(following: Engine) -> None:
    job_id = following.backend.begin("vm3", "SHUTDOWN")
    following.follow()
    following.backend.truth["vm3"] = "ADMIN_down"
    following.backend.finish(job_id, JobEnd.LOST)
    come_to_rest(following)
    assert following.recorded()["vm3"] == "STOPPED ADMIN_down"


def test_a_queue_of_ten_thousand_jobs_is_one_request_a_turn_and_none_is_forgotten(
    following: Engine,
) -> None:
    queue, first = following.backend.queue, following.backend.newest + 1
    for number in range(first, first + 10_000):
        end = JobEnd.SUCCESS if number % 2 else None
        work = (Work(f"stranger{number}", "MODIFY"),)
        queue[number] = QueuedJob(number, True, end, work, is_query=False)
    following.backend.newest += 10_000
    before = following.backend.feeds
    following.follow()
    assert following.backend.feeds == before + 1
    assert Job.objects.count() == 5_000
    assert not Query.objects.filter(state="pending").exists()
    last = max(number for number in queue if queue[number].end is None)
    following.backend.finish(last)
    for _ in range(5_000 // 200 + 1):
        following.clock.wait(2)
        following.follow()
    assert not Job.objects.filter(job_id=last).exists()


def test_a_queue_that_cannot_be_read_is_left_alone_longer_and_longer(following: Engine) -> None:
    following.backend.is_down = True
    pauses = []
    for _ in range(6):
        following.follow()
        assert following.cluster.next_follow_at is not None
        pauses.append((following.cluster.next_follow_at - following.clock()).total_seconds())
    assert pauses[-1] > 8 * pauses[0]
    assert following.cluster.follow_failures == 6
    following.backend.is_down = False
    following.follow()
    assert following.cluster.follow_failures == 0
    assert following.cluster.next_look_at is not None
    assert following.cluster.next_look_at <= following.clock()


def announce(engine: Engine, name: str, action: str, job_id: int | None) -> None:
    operation_started(
        engine.cluster, name, action=action, job_id=job_id,
        policy=engine.policy, tuning=engine.tuning, at=engine.clock(),
    )  # fmt: skip


@pytest.mark.parametrize("has_id", [True, False])
def test_an_announced_operation_shows_at_once_and_ends_by_its_job(
    following: Engine, has_id: bool
) -> None:
    announced = following.backend.newest + 1
    announce(following, "vm3", "REBOOT", announced if has_id else None)
    assert following.recorded()["vm3"] == "REBOOT running"
    following.run(Pass.Kind.ALL)
    assert following.recorded()["vm3"] == "REBOOT running"
    following.backend.newest = announced - 1
    job_id = following.backend.begin("vm3", "REBOOT")
    following.follow()
    assert following.recorded()["vm3"] == "REBOOT running"
    following.backend.finish(job_id)
    come_to_rest(following)
    assert following.recorded()["vm3"] == "ACTIVE running"


def test_an_announced_job_that_ended_before_it_was_announced_is_settled(following: Engine) -> None:
    job_id = following.backend.begin("vm3", "REBOOT")
    following.backend.finish(job_id)
    come_to_rest(following)
    announce(following, "vm3", "REBOOT", job_id)
    assert following.recorded()["vm3"] == "REBOOT running"
    come_to_rest(following)
    assert following.recorded()["vm3"] == "ACTIVE running"


def test_an_announced_build_is_shown_even_where_strangers_are_only_reported(
    following: Engine,
) -> None:
    following.policy = replace(following.policy, adopt=False)
    announce(following, "new", "CREATE", None)
    assert following.recorded()["new"] == "BUILD"


def test_an_operation_that_nobody_knows_is_refused(following: Engine) -> None:
    with pytest.raises(ValueError, match="'DANCE' is no operation"):
        announce(following, "vm3", "DANCE", None)
