"""Who comes late writes nothing that is not true: answers, readings, claims, and whole turns."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction

from proj.backend import JobState
from proj.inventory.models import Cluster, Instance, Job, Question, Request
from proj.observation import Configuration, Interval, Observation, Status
from proj.reconcile import confirmed, requests, turns
from proj.reconcile.brake import Limits
from proj.reconcile.decide import Answer
from proj.reconcile.record import Item, record
from tests.reconcile.conftest import Stage
from tests.world.faults import Fault


@contextmanager
def before(statement: str, happens: Callable[[], object]) -> Iterator[None]:
    """Let something happen before the first statement that is like this."""
    waiting = [happens]

    def execute(run: Callable[..., Any], sql: str, *rest: Any) -> Any:
        if waiting and re.search(statement, sql):
            waiting.pop()()
        return run(sql, *rest)

    with connection.execute_wrapper(execute):
        yield
    assert not waiting, f"there was no {statement}"


GIVEN_BACK = {"token": "", "claimed_at": None, "job_id": None}
"""What another worker leaves of a question that it takes for lost."""


def answer(stage: Stage, name: str, word: str, interval: Interval, **values: str | None) -> Item:
    """Return what a query job about an instance that is recorded may tell."""
    told = {"uuid": stage.row(name).uuid} | values
    seen = Observation(name, Status.STOPPED, word, Configuration(), interval, 77, **told)
    return Item(Answer(seen), stage.row(name).uuid, name, "job", 77)


def write(stage: Stage, item: Item) -> None:
    """Record a piece of evidence, as a turn does."""
    engine = stage.engine
    with transaction.atomic():
        record(engine.cluster, [item], engine.policy, engine.tuning, now=stage.clock)


# Questions that are another's by now


def test_an_answer_is_not_kept_in_a_question_that_was_given_back_while_it_was_awaited(
    ten: Stage,
) -> None:
    ten.world.crash("vm3")
    ten.ask("vm3")
    ten.engine.ask()
    ten.clock.wait(1)

    def give_back(method: str) -> None:
        if method == "poll":
            Question.objects.update(**GIVEN_BACK)

    ten.world.touched = give_back
    ten.engine.take(ten.engine.messages.pop())
    ten.world.touched = lambda _: None
    # Nobody takes up an answer in a question that nobody holds, and nobody asks it again.
    assert Question.objects.get().answer is None
    ten.engine.messages.clear()
    ten.go_on(30)
    assert ten.recorded()["vm3"] == "STOPPED ERROR_down"


def test_a_job_is_not_noted_in_a_question_that_was_given_back_while_it_was_submitted(
    ten: Stage,
) -> None:
    ten.ask("vm3")

    def give_back(method: str) -> None:
        if method == "submit_query":
            Question.objects.update(**GIVEN_BACK)

    ten.world.touched = give_back
    ten.engine.ask()
    # Whoever claims it next would take the job for one of its own, and date its answer too late.
    assert Question.objects.get().job_id is None
    assert Job.objects.get().is_ours


def test_an_answer_from_before_it_was_wanted_ends_no_question(ten: Stage) -> None:
    ten.ask("vm3")
    ten.engine.ask()
    ten.clock.wait(1)
    ten.engine.take(ten.engine.messages.pop())
    ten.world.crash("vm3")
    ten.engine.look_now()
    # Until the next list nobody else asks.
    Cluster.objects.update(next_look_at=ten.clock() + timedelta(minutes=1))
    ten.go_on(5)
    assert ten.recorded()["vm3"] == "STOPPED ERROR_down"


def test_a_submission_that_fails_late_gives_back_nobody_elses_claim(ten: Stage) -> None:
    ten.world.faults.unaskable = {"vm3"}
    ten.ask("vm3")

    def claim(method: str) -> None:
        if method == "submit_query":
            Question.objects.update(token="another", job_id=4711)

    ten.world.touched = claim
    ten.engine.ask()
    question = Question.objects.get()
    assert (question.token, question.job_id, question.attempts) == ("another", 4711, 0)


def test_a_poll_that_comes_late_dates_no_claim_of_another(ten: Stage) -> None:
    lock = ten.world.lock_instance("vm3")
    ten.ask("vm3")
    ten.go_on(2)
    ten.ask("vm3")

    def claim(method: str) -> None:
        if method == "poll":
            Question.objects.update(token="another")

    ten.world.touched = claim
    ten.engine.step(ten.engine.cluster.await_token)
    assert Question.objects.get().unstarted_at is None
    ten.world.touched = None
    ten.world.finish(lock)


def test_who_takes_up_an_answer_that_was_lost_dates_no_claim_of_another(ten: Stage) -> None:
    ten.ask("vm3")
    ten.engine.ask()
    ten.clock.wait(1)
    ten.engine.take(ten.engine.messages.pop())
    ten.engine.messages.clear()
    begun = ten.clock()
    ten.clock.wait(60)

    def claim_anew() -> None:
        Question.objects.update(token="another", job_id=4711, answer=None, claimed_at=begun)

    with before('UPDATE "inventory_question"', claim_anew):
        ten.engine.ask()
    # What job 4711 told is dated by it.
    assert Question.objects.get().claimed_at == begun


def test_what_is_asked_as_a_chain_ends_does_not_wait_for_the_next_one(ten: Stage) -> None:
    ten.ask("vm3")
    ten.engine.ask()
    ten.clock.wait(1)
    with before('UPDATE "inventory_cluster" SET "next_ask_at"', lambda: ten.ask("vm4")):
        ten.engine.take(ten.engine.messages.pop())
    assert ten.engine.cluster.next_ask_at <= ten.clock()


def test_a_request_that_has_ended_does_not_end_anew(ten: Stage) -> None:
    wished = ten.ask_all()
    ten.engine.look_now()
    cluster = ten.engine.cluster
    with before(
        'UPDATE "inventory_request"', lambda: requests.refuse(cluster, "401", at=ten.clock())
    ):
        ten.engine.feed_now()
    wished.refresh_from_db()
    assert (wished.outcome, wished.error) == (Request.Outcome.FAILED, "401")


# Readings and lists


def test_a_job_of_ours_that_was_issued_amid_a_reading_keeps_its_seat(ten: Stage) -> None:
    ten.world.queries.seconds = 1000
    ten.ask("vm3")

    def issue(method: str) -> None:
        if method == "read_queue":
            ten.world.touched = lambda _: None
            ten.engine.ask()

    ten.engine.restart()
    ten.world.touched = issue
    ten.engine.feed_now()
    (job,) = ten.world.our_jobs()
    assert Job.objects.get(job_id=job.number).state == JobState.QUEUED


def test_before_the_queue_was_read_in_an_epoch_nothing_is_issued(ten: Stage) -> None:
    Cluster.objects.update(read_not_before=None, read_not_after=None)
    ten.ask("vm3")
    asked = ten.asked()
    ten.engine.ask()
    assert ten.asked() == asked
    ten.go_on(8)
    assert ten.asked() == [*asked, "vm3"]


@pytest.mark.parametrize("is_amid", [True, False])
def test_a_stranger_is_not_adopted_from_lists_amid_a_job_that_no_reading_has_shown(
    ten: Stage, is_amid: bool
) -> None:
    """The job began amid the reading, or is of a queue that began anew since."""
    ten.world.create("new")
    ten.engine.feed_now()
    ten.engine.look_now()

    def list_amid_a_migration(method: str = "read_queue") -> None:
        if method != "read_queue":
            return
        ten.world.touched = lambda _: None
        ten.world.migrate("new", seconds=60)
        for _ in range(2):
            ten.clock.wait(1)
            ten.engine.look_now()

    if is_amid:
        ten.world.touched = list_amid_a_migration
    else:
        list_amid_a_migration()
        ten.world.renumber()
        ten.engine.restart()
    ten.engine.feed_now()
    assert "new" not in ten.recorded()


def test_a_stranger_that_a_job_may_tell_of_is_adopted_from_lists_only_in_the_end(
    ten: Stage,
) -> None:
    ten.world.fail(Fault.SERVER_ERROR, "submit_query")
    ten.world.create("new")
    for _ in range(2):
        ten.clock.wait(5)
        ten.engine.look_now()
    ten.engine.feed_now()
    assert "new" not in ten.recorded()
    ten.clock.wait(ten.engine.tuning.proof_within)
    ten.engine.look_now()
    ten.engine.feed_now()
    assert ten.recorded()["new"] == "ACTIVE running"


def test_a_list_from_before_the_queue_was_followed_confirms_nobody(ten: Stage) -> None:
    wished = ten.ask_all()
    ten.engine.look_now()
    ten.world.renumber()
    ten.engine.restart()
    ten.engine.feed_now()
    wished.refresh_from_db()
    assert wished.state == Request.State.OPEN
    cluster, since = ten.engine.cluster, wished.requested_at
    assert confirmed.list_since(cluster, since, at=ten.clock()) is None
    ten.engine.look_now()
    ten.engine.feed_now()
    wished.refresh_from_db()
    assert wished.outcome == Request.Outcome.IN_SYNC


def test_a_list_confirms_nobody_before_the_queue_was_read_after_it(ten: Stage) -> None:
    ten.engine.feed_now()
    wished = ten.ask_all()
    ten.engine.look_now()
    ten.engine.kept_at = None
    ten.engine.housekeeping()
    wished.refresh_from_db()
    assert wished.state == Request.State.OPEN


def test_a_list_does_not_serve_a_request_that_was_made_after_it_began(ten: Stage) -> None:
    ten.ask_all()

    def wish(method: str) -> None:
        ten.world.touched = lambda _: None
        ten.ask_all()

    ten.world.touched = wish
    ten.engine.look_now()
    first, second = Request.objects.filter(kind="sweep").order_by("pk")
    assert first.scoped_at is not None
    assert second.scoped_at is None


def test_an_answer_from_after_a_jobs_end_is_believed_although_a_list_began_before_it(
    ten: Stage,
) -> None:
    job = ten.world.begin("MIGRATE", "vm3")
    ten.engine.feed_now()

    def answer_amid() -> None:
        ten.world.faults.latency = 0
        ten.world.finish(job)
        ten.world.crash("vm3")
        ten.engine.feed_now()
        ten.engine.ask()
        ten.clock.wait(1)
        ten.engine.take(next(it for it in ten.engine.messages if it.turn == "step"))

    ten.world.faults.latency = 20
    ten.clock.after(15, answer_amid)
    ten.world.right_node("vm3")
    Cluster.objects.update(agreed_digest="")
    ten.engine.look_now()
    (answered,) = Question.objects.exclude(answer=None)
    ten.engine.settle(answered.pk)
    assert ten.recorded()["vm3"] == "STOPPED ERROR_down"


# Evidence


def test_an_answer_that_ends_later_than_now_changes_nothing(ten: Stage) -> None:
    at = ten.clock()
    write(ten, answer(ten, "vm3", "ERROR_down", Interval(at, at + timedelta(minutes=1))))
    assert ten.recorded()["vm3"] == "ACTIVE running"


def test_an_answer_that_tells_no_uuid_says_nothing_of_one_who_has_one(ten: Stage) -> None:
    ten.world.faults.missing.add("vm3")
    ten.engine.look_now()
    ten.clock.wait(ten.engine.tuning.gone_after + 1)
    ten.engine.look_now()
    begun = ten.clock()
    write(ten, answer(ten, "vm3", "ERROR_down", Interval(begun, ten.clock()), uuid=None))
    assert ten.recorded()["vm3"] == "ACTIVE running"


@pytest.mark.parametrize("status", ["ACTIVE", "DELETED"])
@pytest.mark.parametrize("how", ["ahead", "of another epoch"])
def test_an_answer_that_another_clock_dated_serves_no_request(
    ten: Stage, how: str, status: str
) -> None:
    wished = ten.ask("vm3")
    if status == "DELETED":
        Instance.objects.filter(name="vm3").update(status=status, backend_status="")
    if how == "ahead":
        Instance.objects.update(confirmed_at=ten.clock() + timedelta(hours=1))
    else:
        Instance.objects.update(epoch=99, confirmed_at=ten.clock())
    ten.engine.feed_now()
    wished.refresh_from_db()
    assert wished.state == Request.State.OPEN


def test_a_list_that_another_clock_dated_confirms_nobody(ten: Stage) -> None:
    ten.run()
    ten.clock.jump(-3600)
    since = ten.ask("vm3").requested_at
    assert confirmed.list_since(ten.engine.cluster, since, at=ten.clock()) is None


def test_what_ran_while_its_row_could_not_be_read_is_no_evidence_of_a_later_time(
    ten: Stage,
) -> None:
    job = ten.world.others_ask("vm3", seconds=0)
    ten.world.spoil_row(job)
    ten.world.crash("vm3")
    ten.requery("vm3")
    assert ten.recorded()["vm3"] == "STOPPED ERROR_down"
    ten.engine.feed_now()
    ten.world.queue.jobs[job].unreadable = False
    ten.engine.feed_now()
    ten.engine.feed_now()
    assert ten.recorded()["vm3"] == "STOPPED ERROR_down"


# Holds


def test_an_approval_lets_nothing_pass_of_which_no_list_of_this_epoch_says_so(
    ten: Stage,
) -> None:
    ten.tune(limits=Limits())
    ten.world.crash(*ten.world.names())
    ten.engine.look_now()
    ten.clock.jump(7200)
    ten.engine.feed_now()
    ten.approve()
    ten.world.others_ask()
    for _ in range(3):
        ten.clock.wait(1)
        ten.engine.feed_now()
    assert set(ten.recorded().values()) == {"ACTIVE running"}


def test_an_approval_ends_in_time_also_where_no_list_can_be_had(ten: Stage) -> None:
    ten.tune(limits=Limits(), hold_for=300)
    ten.world.fail(Fault.SERVER_ERROR, "submit_query")
    ten.world.crash(*ten.world.names())
    ten.engine.look_now()
    ten.approve()
    ten.world.fail(Fault.SERVER_ERROR, "look")
    ten.clock.wait(301)
    ten.world.faults.requests.pop("submit_query")
    ten.world.others_ask()
    ten.go_on(20)
    assert set(ten.recorded().values()) == {"ACTIVE running"}


def test_for_who_is_held_nobody_waits_in_the_queue(ten: Stage) -> None:
    ten.tune(limits=Limits())
    ten.world.crash(*ten.world.names())
    ten.engine.look_now()
    assert ten.held()
    assert ten.questions() == []


def test_who_is_held_is_not_asked_about_whoever_wishes_it(ten: Stage) -> None:
    ten.tune(limits=Limits())
    ten.world.crash(*ten.world.names())
    ten.engine.look_now()
    asked = ten.asked()
    ten.ask("vm3")
    ten.go_on(5)
    assert ten.asked() == asked


# Clocks


def test_who_stood_still_while_others_went_on_is_no_clock_that_went_back(ten: Stage) -> None:
    epoch = ten.engine.cluster.epoch
    readings = iter([ten.clock()])
    ten.clock.wait(20)
    ten.engine.feed_now()

    def now() -> object:
        return next(readings, None) or ten.clock()

    held = turns.take("alpha", "look", 80, now=now)  # type: ignore[arg-type]
    assert held is not None
    assert ten.engine.cluster.epoch == epoch


def test_processes_that_live_find_out_that_the_database_is_from_a_backup(ten: Stage) -> None:
    Cluster.objects.update(version=1000)
    ten.engine.feed_now()
    before = ten.engine.cluster
    Cluster.objects.update(version=900)
    ten.engine.feed_now()
    after = ten.engine.cluster
    assert after.epoch == before.epoch + 1
    assert after.generation != before.generation


def test_two_turns_that_find_that_the_clock_has_jumped_begin_one_epoch(ten: Stage) -> None:
    other = ten.engine.cluster
    epoch = other.epoch
    ten.clock.jump(7200)
    ten.engine.feed_now()
    turns.begin_epoch(other, other.generation, at=ten.clock(), keeping="look")
    assert ten.engine.cluster.epoch == epoch + 1


def test_a_clock_that_has_jumped_ahead_ends_nothing_that_waits(ten: Stage) -> None:
    wished, planned = ten.ask_all(), ten.ask_all("plan")
    ten.clock.jump(7200)
    ten.engine.kept_at = None
    ten.engine.housekeeping()
    states = {Request.objects.get(pk=it.pk).state for it in (wished, planned)}
    assert states == {Request.State.OPEN}


def test_a_job_that_was_dated_in_another_epoch_is_dated_anew_as_it_is_read(ten: Stage) -> None:
    ten.world.begin("REBOOT", "vm3")
    ten.engine.feed_now()
    ahead = ten.clock() + timedelta(hours=1)
    Instance.objects.update(status="ACTIVE")
    Job.objects.update(epoch=99, seen_first=ahead, running_since=ahead)
    ten.engine.feed_now()
    assert ten.row("vm3").status == "REBOOT"
