"""The world does what Ganeti does, and remembers what was true."""

import pytest

from proj.backend import JobState, Look, Misconfigured, SaysNothing, TryAgain, Unreadable, Verdict
from proj.observation import Interval, Observation, Status
from tests.world.faults import Fault
from tests.world.memory import Memory
from tests.world.world import World


@pytest.fixture
def world() -> World:
    """Three nodes, and an instance ``web`` that runs."""
    world = World()
    world.create("web")
    return world


def listed(world: World) -> dict[str, str | None]:
    """Return the words of one list."""
    records = world.backend().look().records
    return {it.instance: it.backend_status for it in records if isinstance(it, Observation)}


def asked(world: World, name: str, seconds: float = 1.0) -> tuple[Verdict, str | None]:
    """Ask about a name by a job, and return the verdict and the word."""
    backend, begun = world.backend(), world.clock()
    number = backend.submit_query(name, limit=3).job_id
    world.clock.wait(seconds)
    (report,) = backend.poll({number: begun})
    seen = report.observations
    return report.verdict, seen[0].backend_status if seen else None


def states(world: World, *known: int) -> dict[int, JobState]:
    """Read the whole queue."""
    reading = world.backend().read_queue(None, known, whole=True)
    return {job.job_id: job.state for job in reading.jobs}


# The clock


def test_every_reading_of_the_clock_moves_it() -> None:
    clock = World().clock
    assert (clock() - clock()).total_seconds() == -0.001


def test_what_is_due_happens_at_its_own_moment(world: World) -> None:
    begun = world.clock.real
    world.clock.after(5, lambda: world.crash("web"))
    world.clock.wait(60)
    last = world.truth.history[world.machine("web").uuid][-1]
    assert (last.at - begun).total_seconds() == 5
    assert last.listed == "ERROR_down"


def test_a_clock_that_jumps_moves_nothing_and_both_readings_are_understood(world: World) -> None:
    number = world.begin("REBOOT", "web", seconds=10)
    before, real = world.clock.peek(), world.clock.real
    world.clock.jump(3600)
    assert states(world)[number] is JobState.RUNNING
    assert (world.clock.peek() - before).total_seconds() > 3600
    assert world.clock.real_moments(before) == [real]


def test_a_clock_that_goes_back_under_a_request_spoils_its_answer(world: World) -> None:
    world.touched = lambda _: None
    world.clock.after(0.002, lambda: world.clock.jump(-60))
    with pytest.raises(TryAgain):
        world.backend().look()


# Words


@pytest.mark.parametrize(
    ("event", "of_list", "of_job"),
    [
        (lambda it: it.names(), "running", "running"),
        (lambda it: it.crash("web"), "ERROR_down", "ERROR_down"),
        (lambda it: it.stop("web"), "ADMIN_down", "ADMIN_down"),
        (lambda it: it.stop_inside("web"), "USER_down", "USER_down"),
        (lambda it: it.offline("web"), "ADMIN_offline", "ADMIN_offline"),
        (lambda it: it.run_unwanted("web"), "ERROR_up", "ERROR_up"),
        (lambda it: it.wrong_node("web"), "ERROR_wrongnode", "ERROR_down"),
        (lambda it: it.node_offline("node1"), "ERROR_nodeoffline", "ERROR_nodeoffline"),
        (lambda it: it.node_down("node1"), "ERROR_nodedown", None),
        (lambda it: it.node_down("node2"), "running", None),
        (lambda it: it.node_offline("node2"), "running", "running"),
    ],
)
def test_list_and_job_have_their_own_words(world: World, event, of_list, of_job) -> None:  # type: ignore[no-untyped-def]
    event(world)
    assert listed(world) == {"web": of_list}
    assert asked(world, "web")[1] == of_job


def test_a_forthcoming_instance_is_being_built_until_it_is_real(world: World) -> None:
    world.reserve("new")
    record = world.backend().look().records[1]
    assert isinstance(record, Observation)
    assert (record.status, record.backend_status) == (Status.BUILD, "forthcoming")
    world.become_real("new")
    assert listed(world)["new"] == "running"


def test_a_node_that_hangs_delays_the_list_and_is_down_to_it(world: World) -> None:
    world.node_hangs("node1")
    interval = world.backend().look().interval
    assert 60 <= (interval.not_after - interval.not_before).total_seconds() < 75
    assert listed(world)["web"] == "ERROR_nodedown"
    assert asked(world, "web", 61) == (Verdict.FAILED, None)


def test_a_word_that_nobody_knows_spoils_its_record_only(world: World) -> None:
    world.create("db")
    world.say("web", "ERROR_odd")
    bad, good = world.backend().look().records
    assert isinstance(bad, Unreadable)
    assert (bad.instance, bad.uuid) == ("web", world.machine("web").uuid)
    assert isinstance(good, Observation)


# Names


def test_ganeti_completes_the_name_of_one_that_is_gone(world: World) -> None:
    other = world.create("web.example.org")
    world.remove("web")
    found = world.backend().find("WEB")
    assert found is not None
    assert (found.name, found.uuid) == ("web.example.org", other)
    assert asked(world, "web")[0] is Verdict.ANSWERED


def test_an_exact_name_is_never_completed(world: World) -> None:
    world.create("web.example.org")
    found = world.backend().find("web")
    assert found is not None
    assert found.name == "web"


def test_a_name_that_two_begin_with_is_nobodys(world: World) -> None:
    world.create("db.a")
    world.create("db.b")
    assert world.backend().find("db") is None
    assert asked(world, "db") == (Verdict.ABSENT, None)


def test_a_rename_keeps_the_uuid_and_a_new_creation_does_not(world: World) -> None:
    uuid = world.machine("web").uuid
    world.rename("web", "shop")
    assert world.machine("shop").uuid == uuid
    assert world.recreate("shop") != uuid


def test_a_creation_is_completed_and_lowered_as_it_begins() -> None:
    world = World()
    number = world.begin_create("New", becomes="new.example.com", held=True)
    (queued,) = world.backend().read_queue(0, (), whole=False).jobs
    assert (queued.work[0].instance, queued.work[0].status) == ("New", Status.BUILD)
    world.release(number)
    (running,) = world.backend().read_queue(0, (), whole=False).jobs
    assert running.work[0].instance == "new.example.com"
    assert listed(world) == {"new.example.com": "ERROR_down"}
    world.finish(number)
    assert listed(world) == {"new.example.com": "running"}


def test_a_renaming_is_shown_with_both_names(world: World) -> None:
    world.begin_rename("web", "shop", held=True)
    (job,) = world.backend().read_queue(0, (), whole=False).jobs
    assert [work.instance for work in job.work] == ["web", "shop"]


# Jobs


@pytest.mark.parametrize(
    ("operation", "half_done", "done"),
    [
        ("REBOOT", "ERROR_down", "running"),
        ("SHUTDOWN", "ERROR_up", "ADMIN_down"),
        ("MIGRATE", "ERROR_wrongnode", "running"),
        ("FAILOVER", "ERROR_down", "running"),
        ("REMOVE", "ADMIN_down", None),
        ("SET_PARAMS", "running", "running"),
    ],
)
def test_a_list_sees_what_is_half_done(
    world: World, operation: str, half_done: str, done: str | None
) -> None:
    number = world.begin(operation, "web")
    assert listed(world)["web"] == half_done
    world.finish(number)
    assert listed(world).get("web") == done


def test_a_query_waits_for_the_job_that_works_on_the_instance(world: World) -> None:
    number = world.begin("SHUTDOWN", "web")
    backend, begun = world.backend(), world.clock()
    query = backend.submit_query("web", limit=3).job_id
    world.clock.wait(600)
    assert states(world)[query] is JobState.WAITING
    world.finish(number)
    world.clock.wait(1)
    (report,) = backend.poll({query: begun})
    assert report.observations[0].backend_status == "ADMIN_down"


def test_a_query_waits_for_a_node_that_a_nameless_job_has_locked_and_a_reboot_does_not(
    world: World,
) -> None:
    lock = world.lock_node("node1", 3600)
    reboot = world.begin("REBOOT", "web", seconds=1)
    query = world.backend().submit_query("web", limit=3).job_id
    world.clock.wait(60)
    assert states(world, reboot)[reboot] is JobState.ENDED
    assert states(world)[query] is JobState.WAITING
    assert states(world)[lock] is JobState.RUNNING
    world.clock.wait(3600)
    assert states(world, query)[query] is JobState.ENDED


def test_a_query_of_ours_beyond_the_limit_stays_queued(world: World) -> None:
    world.lock_instance("web", 60)
    backend = world.backend()
    numbers = [backend.submit_query("web", limit=2).job_id for _ in range(3)]
    assert [states(world)[number] for number in numbers] == ["waiting", "waiting", "queued"]
    world.clock.wait(62)
    assert world.our_jobs() == []


def test_a_query_reads_what_is_true_when_it_runs(world: World) -> None:
    backend, begun = world.backend(), world.clock()
    query = backend.submit_query("web", limit=3).job_id
    world.clock.wait(10)
    world.crash("web")
    (report,) = backend.poll({query: begun})
    (seen,) = report.observations
    assert (seen.backend_status, seen.status) == ("running", Status.ACTIVE)
    assert seen.configuration.tags is None
    assert seen.interval.not_before == begun
    assert seen.job_id == query


@pytest.mark.parametrize(
    ("leaving", "word"), [("before", "running"), ("half", "ERROR_down"), ("done", "running")]
)
def test_a_job_that_fails_leaves_what_it_is_told_to(world: World, leaving: str, word: str) -> None:
    number = world.begin("REBOOT", "web")
    world.finish(number, "error", leaving=leaving)
    assert listed(world)["web"] == word


def test_a_creation_that_fails_may_leave_nothing(world: World) -> None:
    number = world.begin_create("new")
    world.finish(number, "error", leaving="before")
    assert world.names() == ["web"]


def test_a_job_of_several_operations_does_them_all(world: World) -> None:
    number = world.begin_steps(
        ("SHUTDOWN", "web"), ("RESIZE", "web", {"memory": 2048}), ("STARTUP", "web")
    )
    (job,) = world.backend().read_queue(0, (), whole=False).jobs
    assert [(it.operation, it.status) for it in job.work] == [
        ("SHUTDOWN", None),
        ("SET_PARAMS", Status.RESIZE),
        ("STARTUP", None),
    ]
    world.finish(number)
    assert (world.machine("web").memory, listed(world)["web"]) == (2048, "running")


def test_a_job_on_a_name_that_is_gone_fails_as_it_begins(world: World) -> None:
    number = world.begin("STARTUP", "gone", held=True)
    assert states(world)[number] is JobState.QUEUED
    world.release(number)
    assert states(world, number)[number] is JobState.ENDED


def test_one_that_is_being_canceled_may_run_all_the_same(world: World) -> None:
    number = world.begin("SHUTDOWN", "web", seconds=1, held=True)
    world.cancel_in_vain(number, 60)
    world.queue.jobs[number].held = False
    world.clock.wait(30)
    assert listed(world)["web"] == "running"
    world.clock.wait(40)
    assert listed(world)["web"] == "ADMIN_down"


# The queue's rows


def test_a_job_whose_file_is_late_shows_after_a_higher_one(world: World) -> None:
    low = world.begin("REBOOT", "web", hidden=True, seconds=60)
    high = world.others_ask("web", held=True)
    assert [*states(world)] == [high]
    world.show(low)
    assert [*states(world)] == [low, high]


def test_an_archived_job_is_seen_by_who_knows_it_and_a_purged_one_by_nobody(world: World) -> None:
    first, second = world.begin("REBOOT", "web", seconds=0), world.begin("REBOOT", "web", seconds=0)
    world.archive(first)
    world.purge(second)
    reading = world.backend().read_queue(0, (), whole=True)
    assert (reading.jobs, reading.highest) == ((), 0)
    assert states(world, first, second) == {first: JobState.ENDED, second: JobState.UNKNOWN}


def test_a_job_that_is_purged_while_open_goes_on(world: World) -> None:
    number = world.begin("SHUTDOWN", "web", seconds=60)
    world.purge(number)
    assert states(world, number)[number] is JobState.UNKNOWN
    world.clock.wait(61)
    assert listed(world)["web"] == "ADMIN_down"


def test_ids_begin_anew_and_what_ran_goes_on(world: World) -> None:
    old = world.begin("SHUTDOWN", "web", seconds=60)
    world.renumber()
    assert states(world, old) == {old: JobState.UNKNOWN}
    assert world.others_ask("web") == 1
    world.clock.wait(61)
    assert listed(world)["web"] == "ADMIN_down"


def test_a_row_that_cannot_be_read_is_counted(world: World) -> None:
    number = world.begin("REBOOT", "web")
    world.spoil_row(number)
    reading = world.backend().read_queue(0, (number,), whole=True)
    assert (reading.jobs, reading.unreadable) == ((), 1)


def test_a_new_master_ends_what_ran_and_is_silent_for_a_while(world: World) -> None:
    number = world.begin("REBOOT", "web")
    world.move_master(5)
    with pytest.raises(TryAgain):
        world.backend().look()
    world.clock.wait(5)
    assert states(world, number)[number] is JobState.ENDED


# The queries of others


def report_of(world: World, number: int):  # type: ignore[no-untyped-def]
    """Poll a query job of somebody else's."""
    begun = world.clock()
    world.clock.wait(1)
    return world.backend().poll({number: begun})[0]


def test_others_may_ask_about_thousands_at_once() -> None:
    world = World()
    world.create_many(2000)
    number = world.others_ask()
    assert len(report_of(world, number).observations) == 2000


def test_a_static_query_takes_no_lock_and_tells_no_state(world: World) -> None:
    world.begin("REBOOT", "web")
    (seen,) = report_of(world, world.others_ask("web", static=True)).observations
    assert (seen.status, seen.backend_status, seen.configuration.memory) == (None, None, 1024)


def test_a_result_may_be_garbage_or_break_or_hang_the_request(world: World) -> None:
    garbage, broken, hanging = (world.others_ask("web") for _ in range(3))
    world.faults.garbled.add(garbage)
    assert report_of(world, garbage).verdict is Verdict.FAILED
    world.faults.unfetchable.add(broken)
    with pytest.raises(TryAgain):
        report_of(world, broken)
    world.faults.hanging.add(hanging)
    begun = world.clock.real
    with pytest.raises(TryAgain):
        report_of(world, hanging)
    assert (world.clock.real - begun).total_seconds() > 75


# The list


def test_a_list_may_lack_repeat_and_hide(world: World) -> None:
    world.create("db")
    world.faults.missing.add("web")
    assert [*listed(world)] == ["db"]
    world.faults.twice.add("db")
    assert world.backend().look().size == 2
    world.faults.keeps = 1
    assert world.backend().look().size == 1
    world.faults.stop()
    world.faults.empty = True
    assert world.backend().look().records == ()


def test_an_old_ganeti_tells_no_uuids(world: World) -> None:
    world.faults.no_uuids = True
    assert [uuid for _, uuid, _ in world.backend().look().prints()] == [None]
    found = world.backend().find("web")
    assert found is not None
    assert found.uuid is None


def test_a_list_that_is_as_it_was_has_its_digest(world: World) -> None:
    backend = world.backend()
    digest = backend.look().digest
    assert isinstance(backend.look_unless(digest), Interval)
    world.tag("web", "a")
    assert isinstance(backend.look_unless(digest), Look)


# Requests


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.DOWN, TryAgain),
        (Fault.HANG, TryAgain),
        (Fault.UNAUTHORIZED, Misconfigured),
        (Fault.FORBIDDEN, Misconfigured),
        (Fault.GARBAGE, SaysNothing),
        (Fault.CUT, SaysNothing),
        (Fault.BAD_GATEWAY, TryAgain),
    ],
)
def test_each_fault_has_its_error(world: World, fault: Fault, error: type[Exception]) -> None:
    world.fail(fault, "look")
    with pytest.raises(error):
        world.backend().look()
    assert world.backend().version() == "2"


def test_a_submission_whose_answer_is_lost_has_issued_its_job(world: World) -> None:
    world.fail(Fault.UNANSWERED)
    with pytest.raises(TryAgain):
        world.backend().submit_query("web", limit=3)
    assert len(world.queue.jobs) == 1


def test_who_may_only_read_cancels_nothing(world: World) -> None:
    world.lock_node("node1")
    number = world.backend().submit_query("web", limit=3).job_id
    world.faults.read_only = True
    assert not world.backend().cancel(number)
    world.faults.read_only = False
    assert world.backend().cancel(number)
    assert states(world, number)[number] is JobState.ENDED


def test_to_cancel_what_is_not_ours_is_remembered_as_harm(world: World) -> None:
    number = world.begin("REBOOT", "web", held=True)
    world.backend().cancel(number)
    assert world.harm


def test_somebody_may_step_in_before_each_request_and_after_each_answer(world: World) -> None:
    steps: list[str] = []
    world.touch = lambda method: steps.append(f"before {method}")
    world.touched = lambda method: steps.append(f"after {method}")
    world.backend().read_queue(None, (), whole=True)
    assert steps == ["before highest", "after highest", "before read_queue", "after read_queue"]


# What was


def test_the_world_remembers_what_was_true_in_an_interval(world: World) -> None:
    uuid = world.machine("web").uuid
    begun = world.clock.real
    world.clock.wait(10)
    world.crash("web")
    world.clock.wait(10)
    world.start("web")
    world.clock.wait(10)
    middle = begun.fromtimestamp(begun.timestamp() + 15, begun.tzinfo)
    assert [it.listed for it in world.truth.was(uuid, begun, middle)] == ["running", "ERROR_down"]
    assert [it.listed for it in world.truth.was(uuid, middle, middle)] == ["ERROR_down"]
    world.remove("web")
    assert not [*world.truth.was(uuid, middle, world.clock.real)][-1].exists


def test_what_is_half_done_is_remembered_as_such(world: World) -> None:
    world.migrate("web", 5)
    world.clock.wait(10)
    pasts = world.truth.history[world.machine("web").uuid]
    assert [(it.listed, it.half_done) for it in pasts if it.exists][1:] == [
        ("ERROR_wrongnode", True),
        ("running", False),
    ]
    assert world.machine("web").node == "node2"


def test_calm_ends_whatever_is_wrong_and_open(world: World) -> None:
    world.fail(Fault.HANG)
    world.node_down("node1")
    world.lock_node("node1")
    world.begin("MIGRATE", "web")
    world.begin_create("New", held=True)
    world.clock.jump(1e8)
    world.calm()
    assert listed(world) == {"web": "running", "new": "running"}
    assert world.queue.open() == []


def implements_backend(world: World) -> Memory:
    """Return a connection; the type checker holds it to the contract."""
    return world.backend()
