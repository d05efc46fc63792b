"""The rules of truth, each met by the whole engine on a simulated cluster."""

import ast
import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction

from proj.ganeti.jobs import JOB_FIELDS, reports_on
from proj.inventory.models import Instance, Question, Transition
from proj.observation import Configuration, Interval, Nic, Observation, Status
from proj.reconcile.brake import Limits
from proj.reconcile.decide import Answer
from proj.reconcile.record import Item, record
from proj.simulator.rapi import Reply
from tests.fixtures.simulated import MakeWorld, World, at_every_touch

DATA = Path(__file__).parents[1] / "data"
BRAKE = Limits()


def write(world: World, *seen: Observation) -> None:
    """Record what was seen, as some other worker does."""
    engine = world.engine
    items = [Item(Answer(it), it.uuid, it.instance, "job", it.job_id) for it in seen]
    with transaction.atomic():
        record(engine.cluster, items, engine.policy, engine.tuning, now=world.clock)


between_transactions = pytest.mark.django_db(transaction=True)


def nothing_but_health(world: World) -> list[dict[str, Any]]:
    """Wish all to be confirmed, go on for minutes, and return what is recorded."""
    assert world.run().outcome == "failed"
    world.go_on(120)
    return world.rows()


# A node that does not answer


@pytest.mark.parametrize(
    ("broken", "word"), [("is_down", "ERROR_nodedown"), ("is_offline", "ERROR_nodeoffline")]
)
@pytest.mark.parametrize("road", ["list", "job"])
def test_a_node_that_does_not_answer_makes_its_instances_unknown_on_either_road(
    world: World, broken: str, word: str, road: str
) -> None:
    node = world.truth.instances[world.nth(0)].node
    mine = [name for name, it in world.truth.instances.items() if it.node == node]
    world.truth.set_node(node, **{broken: True})
    if road == "list":
        world.run()
    else:
        for name in mine:
            world.requery(name)
    assert {world.recorded()[name] for name in mine} == {f"UNKNOWN {word}"}
    assert not Transition.objects.filter(after="STOPPED").exists()


# A failed request


@pytest.mark.parametrize(
    "answer",
    [b"", b"null", b"[]", b"{}", b"<html>", b'{"data": null}', b'{"fields": [], "data": {}}'],
    ids=repr,
)
def test_an_answer_that_is_no_table_says_nothing_about_any_instance(
    world: World, answer: bytes
) -> None:
    before = world.rows()
    world.ganeti.spoil = lambda *_: answer
    assert nothing_but_health(world) == before
    assert world.engine.cluster.is_failing
    assert world.engine.cluster.last_error


@pytest.mark.parametrize("code", [400, 401, 403, 404, 500, 502, 504])
def test_a_refusal_says_nothing_about_any_instance(world: World, code: int) -> None:
    before = world.rows()
    world.faults.status = code
    assert nothing_but_health(world) == before
    assert world.engine.cluster.failures > 0


def test_a_cut_answer_says_nothing_about_any_instance(world: World) -> None:
    before = world.rows()
    world.ganeti.spoil = lambda _, body: body[: len(body) // 2]
    assert nothing_but_health(world) == before


def test_an_empty_list_is_held_however_few_are_recorded(make_world: MakeWorld) -> None:
    world = make_world(instances=2, limits=BRAKE)
    world.faults.empty_list = True
    for _ in range(2):
        held = world.run()
        assert (held.outcome, len(held.unconfirmed)) == ("held", 2)
        world.go_on(100)
    assert set(world.recorded().values()) == {"ACTIVE running"}


@pytest.mark.parametrize("failing", range(8))
def test_a_request_that_fails_in_the_middle_of_a_pass_condemns_nobody(
    world: World, failing: int
) -> None:
    name = world.nth(0)
    world.truth.crash(name)
    asked = iter(range(10_000))

    def touch(_: str) -> None:
        world.faults.status = 502 if next(asked) == failing else None

    world.ganeti.touch = touch
    world.run()
    world.ganeti.touch, world.faults.status = lambda _: None, None
    world.go_on(100)
    others = [word for other, word in world.recorded().items() if other != name]
    assert (world.recorded()[name], set(others)) == ("STOPPED ERROR_down", {"ACTIVE running"})
    states = Transition.objects.filter(field="status").exclude(rule="adopted")
    assert set(states.values_list("after", flat=True)) == {"STOPPED"}


# Gone


def test_one_list_that_misses_an_instance_deletes_nothing(world: World) -> None:
    name = world.nth(0)
    world.faults.hidden.add(name)
    world.engine.look_now()
    assert world.row(name).missing_first is not None
    world.faults.hidden.clear()
    world.go_on(100)
    assert world.recorded()[name] == "ACTIVE running"
    assert world.row(name).missing_first is None


def test_two_lists_without_a_404_delete_nothing(world: World) -> None:
    name = world.nth(0)
    world.faults.hidden.add(name)
    world.go_on(300, step=2)
    assert world.recorded()[name] == "ACTIVE running"


@pytest.mark.parametrize("code", [401, 403, 500, 502])
def test_a_name_that_cannot_be_asked_for_is_no_404(
    world: World, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    name, answer = world.nth(0), world.rapi.answer

    def refuse(method: str, target: str, body: bytes) -> Reply:
        is_by_name = target == f"/2/instances/{name}"
        return Reply(code, b"null") if is_by_name else answer(method, target, body)

    monkeypatch.setattr(world.rapi, "answer", refuse)
    world.truth.remove(name)
    world.go_on(300, step=2)
    assert world.recorded()[name] == "ACTIVE running"


def test_two_lists_close_together_and_a_404_delete_nothing_yet(world: World) -> None:
    name = world.nth(0)
    world.truth.remove(name)
    world.engine.look_now()
    world.engine.look_now()
    world.ask(name)
    for _ in range(3):
        world.engine.ask()
        world.engine.deliver()
    assert world.recorded()[name] == "ACTIVE running"
    world.go_on(40)
    assert world.recorded()[name] == "DELETED"


# One clock


@pytest.mark.parametrize("skew", [-3600, 3600])
def test_a_clock_of_ganetis_that_is_wrong_by_an_hour_changes_nothing(
    world: World, skew: float
) -> None:
    name = world.nth(0)
    world.queue.skew = skew
    for change, expected in (
        (world.truth.crash, "STOPPED ERROR_down"),
        (world.truth.start, "ACTIVE running"),
        (world.truth.stop, "STOPPED ADMIN_down"),
    ):
        begun = world.clock()
        change(name)
        world.run()
        assert world.recorded()[name] == expected
        assert begun < world.row(name).observed_not_before < world.clock()


# Decided on what is read at the moment of the write


def observation(world: World, name: str, status: Status, word: str) -> Observation:
    """Return what a job tells just now."""
    row, interval = world.row(name), Interval(world.clock(), world.clock())
    return Observation(name, status, word, Configuration(), interval, 77, row.uuid)


def record_elsewhere(world: World, name: str) -> Interval:
    """Let another worker record that the instance's node went offline, just now."""
    seen = observation(world, name, Status.UNKNOWN, "ERROR_nodeoffline")
    write(world, seen)
    return seen.interval


def ask_about_a_crash(world: World) -> None:
    world.truth.crash(world.nth(0))
    world.ask(world.nth(0))
    world.engine.ask()
    for _ in range(3):
        world.engine.deliver()
        world.clock.wait(1)


@between_transactions
def test_a_row_that_another_worker_changes_meanwhile_never_goes_back_in_time(
    make_world: MakeWorld,
) -> None:
    ends, elsewhere = set(), []
    for world in at_every_touch(
        make_world,
        lambda world: elsewhere.append(record_elsewhere(world, world.nth(0))),
        ask_about_a_crash,
    ):
        row = world.row(world.nth(0))
        is_ours = row.observed_not_before > elsewhere[-1].not_after
        expected = "STOPPED ERROR_down" if is_ours else "UNKNOWN ERROR_nodeoffline"
        assert world.recorded()[row.name] == expected
        assert row.observed_not_before >= elsewhere[-1].not_before
        trail = world.trail(row.name)
        assert [before for before, _, _ in trail] == [None, *(it for _, it, _ in trail[:-1])]
        ends.add(expected)
    assert ends == {"STOPPED ERROR_down", "UNKNOWN ERROR_nodeoffline"}


@between_transactions
def test_what_another_worker_records_before_the_write_is_not_overwritten(
    make_world: MakeWorld,
) -> None:
    def write_a_crash(world: World) -> None:
        write(world, observation(world, world.nth(0), Status.STOPPED, "ERROR_down"))

    for world in at_every_touch(
        make_world, lambda world: record_elsewhere(world, world.nth(0)), write_a_crash
    ):
        recorded = world.recorded()[world.nth(0)]
        is_before = [after for _, after, _ in world.trail(world.nth(0))][-2:] == [
            "UNKNOWN", "STOPPED",
        ]  # fmt: skip
        assert recorded == ("STOPPED ERROR_down" if is_before else "UNKNOWN ERROR_nodeoffline")


@between_transactions
def test_a_row_that_is_deleted_meanwhile_is_adopted_anew_or_stays_away(
    make_world: MakeWorld,
) -> None:
    ends = set()
    for world in at_every_touch(
        make_world,
        lambda world: Instance.objects.filter(
            cluster=world.engine.cluster, name=world.nth(0)
        ).delete(),
        ask_about_a_crash,
    ):
        name = world.nth(0)
        ends.add(world.recorded().get(name, "away"))
        world.go_on(60, step=3)
        assert world.recorded()[name] == "STOPPED ERROR_down"
    assert ends == {"STOPPED ERROR_down", "away"}


# In flight

OWN_STATUS = {"REBOOT": "REBOOT running", "REINSTALL": "REBUILD running"}
OTHERS = ("STARTUP", "SHUTDOWN", "MIGRATE", "FAILOVER", "REMOVE")
AFTER = {"REMOVE": "DELETED", "SHUTDOWN": "STOPPED ADMIN_down", "REINSTALL": "STOPPED ERROR_down",
         "STARTUP": "ACTIVE running", "REBOOT": "ACTIVE running", "MIGRATE": "STOPPED ERROR_down",
         "FAILOVER": "ACTIVE running"}  # fmt: skip
"""What each job leaves of an instance that crashed meanwhile."""


def open_job(world: World, kind: str, name: str, state: str = "running") -> int:
    """Put a job of somebody else's into the queue that gets as far as ``state``."""
    if state == "waiting":
        world.queue.lock(name, 1e9)
    given = {"OP_ID": f"OP_INSTANCE_{kind}", "instance_name": name}
    job = world.queue.submit(given, seconds=1e9, held=state == "queued")
    assert world.queue.jobs[job].status == state
    return job


def let_end(world: World) -> None:
    """Let every open job come to its end."""
    for number, job in list(world.queue.jobs.items()):
        if job.status in ("queued", "waiting", "running"):
            world.queue.end(number)


@pytest.mark.parametrize("kind", [*OWN_STATUS, *OTHERS])
def test_while_a_job_works_on_an_instance_what_the_list_says_is_no_drift(
    world: World, kind: str
) -> None:
    name = world.nth(0)
    open_job(world, kind, name)
    world.truth.crash(name)
    world.go_on(40)
    assert world.recorded()[name] == OWN_STATUS.get(kind, "ACTIVE running")
    let_end(world)
    world.go_on(60)
    assert world.recorded()[name] == AFTER[kind]


@pytest.mark.parametrize("kind", OWN_STATUS)
def test_the_status_of_an_operation_stands_until_its_end_however_long(
    world: World, kind: str
) -> None:
    name = world.nth(0)
    open_job(world, kind, name)
    world.truth.crash(name)
    world.go_on(600, step=3)
    assert world.recorded()[name] == OWN_STATUS[kind]
    let_end(world)
    world.go_on(60)
    assert world.recorded()[name] == AFTER[kind]


@pytest.mark.parametrize("kind", ["STARTUP", "FAILOVER"])
def test_under_any_other_job_a_crash_is_known_within_the_bound_of_proof(
    world: World, kind: str
) -> None:
    name = world.nth(0)
    open_job(world, kind, name)
    world.truth.crash(name)
    world.go_on(120)
    assert world.recorded()[name] == "STOPPED ERROR_down"
    assert world.trail(name)[-1][2] == "two-lists-agree"


def test_under_a_migration_a_wrong_node_is_none_however_long_it_takes(world: World) -> None:
    name = world.nth(0)
    open_job(world, "MIGRATE", name)
    world.go_on(600, step=3)
    assert world.recorded()[name] == "ACTIVE running"
    let_end(world)
    world.go_on(60)
    assert (world.recorded()[name], world.trail(name)) == (
        "ACTIVE running", [(None, "ACTIVE", "adopted")],
    )  # fmt: skip


def test_under_a_running_job_nobody_is_gone_however_long_it_takes(world: World) -> None:
    name = world.nth(0)
    open_job(world, "SET_PARAMS", name)
    world.truth.remove(name)
    world.go_on(300, step=2)
    assert world.recorded()[name] == "ACTIVE running"
    world.queue.end(max(world.queue.jobs), "error")
    world.go_on(60)
    assert world.recorded()[name] == "DELETED"


def test_a_job_that_is_only_queued_defers_nothing(world: World) -> None:
    name = world.nth(0)
    open_job(world, "SHUTDOWN", name, "queued")
    world.go_on(5)
    world.truth.crash(name)
    assert world.requery(name).outcome == "reconciled"
    assert world.recorded()[name] == "STOPPED ERROR_down"


def test_behind_a_job_that_waits_for_its_lock_a_crash_is_known_within_the_bound(
    world: World,
) -> None:
    name = world.nth(0)
    open_job(world, "SHUTDOWN", name, "waiting")
    world.go_on(5)
    world.truth.crash(name)
    world.go_on(120)
    assert world.recorded()[name] == "STOPPED ERROR_down"


@pytest.mark.parametrize("state", ["queued", "running"])
def test_while_a_creation_runs_its_instance_is_a_build(world: World, state: str) -> None:
    open_job(world, "CREATE", "new", state)
    world.go_on(200)
    assert world.recorded().get("new", "").split()[:1] == (["BUILD"] if state == "running" else [])
    let_end(world)
    world.go_on(60)
    assert world.recorded()["new"] == "ACTIVE running"


@pytest.mark.parametrize("kind", ["REBOOT", "REINSTALL", "STARTUP"])
def test_a_job_that_leaves_all_as_it_was_leaves_nothing_under_way(world: World, kind: str) -> None:
    name = world.nth(0)
    open_job(world, kind, name)
    world.go_on(5)
    assert world.recorded()[name] == OWN_STATUS.get(kind, "ACTIVE running")
    let_end(world)
    world.go_on(30)
    assert world.run().outcome in ("in_sync", "reconciled")
    assert world.recorded()[name] == "ACTIVE running"


# Jobs that the queue has forgotten


def test_a_query_job_that_is_purged_is_asked_again_and_condemns_nobody(world: World) -> None:
    name = world.nth(0)
    world.truth.crash(name)
    world.queue.seconds = 1e9
    asked = world.ask(name)
    world.engine.ask()
    (question,) = Question.objects.all()
    world.queue.lose(question.job_id or 0)
    world.queue.seconds = 0
    assert world.until_closed(asked).outcome == "reconciled"
    assert world.recorded()[name] == "STOPPED ERROR_down"


@pytest.mark.parametrize("forget", ["archive", "purge"])
def test_a_build_whose_job_is_archived_or_purged_is_what_ganeti_has(
    world: World, forget: str
) -> None:
    open_job(world, "CREATE", "new")
    world.go_on(5)
    let_end(world)
    world.queue.archive()
    if forget == "purge":
        world.queue.purge()
    world.go_on(60)
    assert world.recorded()["new"] == "ACTIVE running"


def test_a_build_whose_job_is_purged_and_that_ganeti_has_not_is_condemned_by_proof_only(
    world: World,
) -> None:
    job = open_job(world, "CREATE", "new")
    world.engine.feed_now()
    assert world.recorded()["new"] == "BUILD"
    world.queue.lose(job)
    world.truth.remove("new")
    world.engine.feed_now()
    world.engine.look_now()
    assert world.recorded()["new"] == "BUILD"
    world.go_on(60)
    assert world.trail("new") == [
        (None, "BUILD", "operation-began"), ("BUILD", "ERROR", "create-failed"),
    ]  # fmt: skip


def test_a_build_whose_job_id_is_not_known_yet_is_waited_for(world: World) -> None:
    world.engine.announce("new", "CREATE")
    world.go_on(50)
    assert world.recorded()["new"] == "BUILD"
    world.submit("CREATE", "new")
    world.go_on(30)
    assert world.recorded()["new"] == "ACTIVE running"
    world.engine.announce("never", "CREATE")
    world.go_on(50)
    assert world.recorded()["never"] == "BUILD"
    world.go_on(100)
    assert world.recorded()["never"] == "ERROR"


# What changes between the reads


def appear(world: World) -> None:
    world.truth.add("new")


def appear_by_a_job(world: World) -> None:
    world.submit("CREATE", "new")


def appear_and_be_recorded(world: World) -> None:
    """Let another worker adopt what was created just now."""
    made = world.truth.add("new")
    interval = Interval(world.clock(), world.clock())
    write(
        world,
        Observation("new", Status.ACTIVE, "running", Configuration(), interval, 77, made.uuid),
    )


def disappear(world: World) -> None:
    world.truth.remove(f"vm00001.{world.truth.name}")


def disappear_by_a_job(world: World) -> None:
    world.submit("REMOVE", f"vm00001.{world.truth.name}")


def look_at_a_crash(world: World) -> None:
    world.truth.crash(f"vm00002.{world.truth.name}")
    world.clock.wait(100)
    world.engine.beat()


@between_transactions
@pytest.mark.parametrize("happens", [appear, appear_by_a_job, appear_and_be_recorded])
def test_an_instance_created_between_any_two_reads_is_never_missing(
    make_world: MakeWorld, happens: Callable[[World], None]
) -> None:
    for world in at_every_touch(make_world, happens, look_at_a_crash):
        assert world.recorded().get("new", "ACTIVE running") in ("ACTIVE running", "BUILD")
        found = Instance.objects.filter(cluster=world.engine.cluster, name="new").first()
        assert found is None or found.missing_first is None
        world.go_on(60, step=3)
        assert world.recorded()["new"] == "ACTIVE running"
        assert world.recorded()[f"vm00002.{world.truth.name}"] == "STOPPED ERROR_down"
        assert not Transition.objects.filter(after="DELETED").exists()


@between_transactions
@pytest.mark.parametrize("happens", [disappear, disappear_by_a_job])
def test_an_instance_removed_between_any_two_reads_ends_deleted_and_never_otherwise(
    make_world: MakeWorld, happens: Callable[[World], None]
) -> None:
    for world in at_every_touch(make_world, happens, look_at_a_crash):
        name = f"vm00001.{world.truth.name}"
        assert world.recorded()[name] == "ACTIVE running"
        world.go_on(60, step=3)
        assert world.recorded()[name] == "DELETED"
        assert world.recorded()[f"vm00002.{world.truth.name}"] == "STOPPED ERROR_down"
        assert [after for _, after, _ in world.trail(name)] == ["ACTIVE", "DELETED"]


# What says nothing about the run state


def test_a_crash_that_leaves_mtime_and_serial_number_as_they_were_is_seen(world: World) -> None:
    name = world.nth(0)

    def marks() -> tuple[Any, ...]:
        found = world.client.GetInstance(name)
        return found["mtime"], found["serial_no"]

    before = marks()
    world.truth.crash(name)
    assert marks() == before
    world.run()
    assert world.recorded()[name] == "STOPPED ERROR_down"


def test_a_drbd_secondary_that_is_down_does_not_make_its_instance_unknown(world: World) -> None:
    name = world.nth(0)
    (other,) = set(world.truth.nodes) - {world.truth.instances[name].node}
    world.truth.change(name, secondaries=[other])
    world.run()
    world.truth.set_node(other, is_down=True)
    world.ask(name)
    world.go_on(20)
    (question,) = Question.objects.filter(name=name)
    assert "Can't compute disk status" in question.error
    world.go_on(300, step=2)
    assert world.recorded()[name] == "ACTIVE running"
    world.truth.crash(name)
    world.go_on(150)
    assert world.recorded()[name] == "STOPPED ERROR_down"


def test_a_static_query_leaves_the_state_as_it_is_and_tells_the_configuration(
    world: World,
) -> None:
    name = world.nth(0)
    world.truth.change(name, memory=77)
    begun = world.clock()
    job = int(world.client.GetInstanceInfo(name, static=True))
    (report,) = world.ganeti.backend().poll({job: begun})
    (seen,) = report.observations
    write(world, seen)
    assert (world.recorded()[name], world.row(name).memory) == ("ACTIVE running", 77)


# Every version of Ganeti


def ticket(text: str) -> dict[str, Any]:
    """Return the job that the ticket shows, as Python printed it or as JSON."""
    kept = (DATA / text).read_text()
    job: dict[str, Any] = ast.literal_eval(kept) if text.endswith(".txt") else json.loads(kept)
    return job


def test_the_reply_of_the_ticket_is_the_same_as_python_printed_it_and_as_json() -> None:
    assert ticket("ticket_505.txt") == ticket("ticket_505.json")


@pytest.mark.parametrize("text", ["ticket_505.txt", "ticket_505.json"])
def test_the_reply_of_the_ticket_is_reconciled_into_a_row(world: World, text: str) -> None:
    (result,) = ticket(text)["opresult"]
    world.truth.add("gousiosg-1")
    world.spoil_details(lambda *_: result["gousiosg-1"])
    assert world.requery("gousiosg-1").outcome == "reconciled"
    row = world.row("gousiosg-1")
    assert (row.status, row.backend_status, row.os) == ("ACTIVE", "running", "debootstrap+default")
    assert (row.memory, row.vcpus, row.disks, row.nodes) == (1024, 1, [2000], ["store67"])
    nic = {"ip": None, "mac": "aa:00:00:fc:99:26", "mode": "bridged", "link": "br0"}
    assert row.nics == [nic]


MAC = "aa:00:00:fc:99:26"
FORMATS = {
    "2.4": {
        "nics": [["10.0.0.1", MAC, "bridged", "br0"]],
        "disks": [{"dev_type": "lvm", "physical_id": ["vg", "disk0"], "size": 2000}],
        "be_actual": {"memory": 512, "vcpus": 2, "auto_balance": True},
    },
    "2.7": {
        "nics": [["10.0.0.1", MAC, "bridged", "br0", "net1", {"name": "net1"}]],
        "disks": [{"dev_type": "drbd8", "physical_id": [], "children": [], "size": 2000}],
        "be_actual": {"maxmem": 512, "minmem": 128, "vcpus": 2},
    },
    "2.8": {
        "nics": [["eth0", "uuid", "10.0.0.1", MAC, "bridged", "br0", None, None]],
        "disks": [{"dev_type": "drbd8", "name": None, "size": 2000, "uuid": "u"}],
        "be_actual": {"maxmem": 512, "minmem": 128, "vcpus": 2},
    },
    "2.10 to 3.1": {
        "nics": [[None, "uuid", "10.0.0.1", MAC, "bridged", "br0", "", "net-uuid", {}]],
        "disks": [{"dev_type": "drbd", "spindles": None, "size": 2000, "uuid": "u"}],
        "be_actual": {"maxmem": 512, "minmem": 128, "vcpus": 2, "spindle_use": 1},
    },
}


@pytest.mark.parametrize("version", FORMATS)
def test_the_result_of_every_version_ends_in_the_same_row(world: World, version: str) -> None:
    name = world.nth(0)
    world.spoil_details(lambda _, details: details | FORMATS[version])
    world.requery(name)
    row = world.row(name)
    assert (row.status, row.memory, row.vcpus, row.disks) == ("ACTIVE", 512, 2, [2000])
    assert row.nics == [asdict(Nic("10.0.0.1", MAC, "bridged", "br0"))]


def test_a_reply_about_many_instances_is_applied_to_each_and_one_that_is_bad_spoils_itself(
    world: World,
) -> None:
    bad, crashed = world.nth(0), world.nth(1)
    world.truth.crash(crashed)
    world.spoil_details(lambda name, it: it | {"nics": [[1, 2]]} if name == bad else it)
    begun = world.clock()
    query = {"OP_ID": "OP_INSTANCE_QUERY_DATA", "instances": [], "static": False}
    job = world.queue.submit(query)
    rows = world.client.Query("job", list(JOB_FIELDS), ["=", "id", job])["data"]
    (report,) = reports_on(rows, {job: begun}, world.clock())
    assert [it.instance for it in report.unreadable] == [bad]
    write(world, *report.observations)
    words = dict.fromkeys(world.truth.instances, "ACTIVE running")
    assert world.recorded() == words | {crashed: "STOPPED ERROR_down"}


# Names


def test_names_that_begin_alike_are_never_taken_for_each_other(world: World) -> None:
    for name in ("vm", "vm1", "vm11", "xvm1"):
        world.truth.add(name)
    world.go_on(60)
    world.truth.crash("vm1")
    open_job(world, "REBOOT", "vm11")
    world.truth.remove("vm")
    world.go_on(60)
    recorded = world.recorded()
    assert [recorded[name] for name in ("vm", "vm1", "vm11", "xvm1")] == [
        "DELETED", "STOPPED ERROR_down", "REBOOT running", "ACTIVE running",
    ]  # fmt: skip


# Mass change and flapping


def test_when_thirty_of_a_hundred_vanish_nothing_is_deleted_before_somebody_looked(
    make_world: MakeWorld,
) -> None:
    world = make_world(instances=100, limits=BRAKE)
    for name in list(world.truth.instances)[:30]:
        world.truth.remove(name)
    assert world.run().outcome == "held"
    assert set(world.recorded().values()) == {"ACTIVE running"}
    assert len(world.approve().entries) == 30
    world.go_on(60)
    assert list(world.recorded().values()).count("DELETED") == 30
    assert world.run().outcome == "in_sync"


def test_when_a_node_of_most_instances_dies_they_are_unknown_without_asking_anybody(
    make_world: MakeWorld,
) -> None:
    world = make_world(instances=20, limits=BRAKE)
    for name in list(world.truth.instances)[:15]:
        world.truth.change(name, node="node1.alpha", running_on="node1.alpha")
    world.go_on(60)
    world.truth.set_node("node1.alpha", is_down=True)
    assert world.run().outcome == "reconciled"
    dead = [name for name, it in world.truth.instances.items() if it.node == "node1.alpha"]
    assert len(dead) > 15
    assert {world.recorded()[name] for name in dead} == {"UNKNOWN ERROR_nodedown"}


def test_twenty_changes_within_a_minute_mark_the_instance_and_do_not_flood_its_history(
    world: World,
) -> None:
    name = world.nth(0)
    begun = world.clock()
    for turn in range(20):
        (world.truth.crash, world.truth.start)[turn % 2](name)
        world.requery(name)
    assert world.clock() - begun < timedelta(minutes=1)
    row = world.row(name)
    assert row.flapping_since is not None
    history = Transition.objects.filter(instance=row, field="status").exclude(rule="adopted")
    assert history.count() <= world.engine.tuning.flapping.changes
    assert sum(1 + change.folded for change in history) == 20
    world.go_on(700, step=5)
    world.truth.crash(name)
    world.run()
    assert world.row(name).flapping_since is None
