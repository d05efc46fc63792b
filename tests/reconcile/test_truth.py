"""The rules of truth, each met by the whole engine on a simulated cluster."""

import ast
import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from proj.ganeti.jobs import JOB_FIELDS, reports_on
from proj.inventory.models import Instance, Pass, Query, Transition
from proj.observation import Configuration, Evidence, Interval, Nic, Observation, Status
from proj.reconcile.apply import Context, apply
from proj.simulator.rapi import Reply
from tests.fixtures.simulated import MakeWorld, World, at_every_touch

DATA = Path(__file__).parents[1] / "data"


def observation(name: str, status: Status, word: str, interval: Interval) -> Observation:
    return Observation(name, status, word, Configuration(), Evidence.JOB, interval, 77)


def write(world: World, seen: Observation) -> None:
    """Apply what was seen, as the task of some worker does."""
    engine = world.engine
    context = Context(engine.policy, engine.tuning.flapping, engine.clock())
    apply(engine.cluster, seen.instance, seen, context)


between_transactions = pytest.mark.django_db(transaction=True)


def nothing_but_health(world: World) -> list[dict[str, Any]]:
    """Run a pass and a look, and return what is recorded of the instances."""
    world.run()
    world.engine.clock.wait(100)
    world.look()
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
            world.engine.ask(name)
        world.engine.settle()
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
    world.spoil = lambda *_: answer
    assert nothing_but_health(world) == before
    assert world.engine.cluster.failures > 0
    assert world.engine.cluster.last_error


@pytest.mark.parametrize("code", [400, 401, 403, 404, 500, 502, 504])
def test_a_refusal_says_nothing_about_any_instance(world: World, code: int) -> None:
    before = world.rows()
    world.faults.status = code
    assert nothing_but_health(world) == before
    assert world.engine.cluster.failures > 0


def test_a_cut_answer_says_nothing_about_any_instance(world: World) -> None:
    before = world.rows()
    world.spoil = lambda _, body: body[: len(body) // 2]
    assert nothing_but_health(world) == before


def test_an_empty_list_is_held_however_few_are_recorded(make_world: MakeWorld) -> None:
    world = make_world(instances=2)
    before = world.rows()
    world.faults.empty_list = True
    assert world.run().outcome == "held"
    world.engine.clock.wait(100)
    assert world.run().outcome == "held"
    assert world.rows() == before


@pytest.mark.parametrize("failing", range(8))
def test_a_request_that_fails_in_the_middle_of_a_pass_condemns_nobody(
    world: World, failing: int
) -> None:
    name = world.nth(0)
    world.truth.crash(name)
    asked = iter(range(100))

    def touch() -> None:
        world.faults.status = 502 if next(asked) == failing else None

    world.touch = touch
    world.run()
    world.touch, world.faults.status = lambda: None, None
    world.engine.clock.wait(1000)
    world.run()
    others = [word for other, word in world.recorded().items() if other != name]
    assert (world.recorded()[name], set(others)) == ("STOPPED ERROR_down", {"ACTIVE running"})
    states = Transition.objects.filter(field="status").exclude(rule="adopted")
    assert set(states.values_list("after", flat=True)) == {"STOPPED"}


# Gone


def test_one_list_that_misses_an_instance_deletes_nothing(world: World) -> None:
    name = world.nth(0)
    world.faults.hidden.add(name)
    world.engine.clock.wait(100)
    world.look()
    world.faults.hidden.clear()
    world.run()
    assert world.recorded()[name] == "ACTIVE running"


def test_two_lists_without_a_404_delete_nothing(world: World) -> None:
    name = world.nth(0)
    world.faults.hidden.add(name)
    for _ in range(3):
        world.run()
        world.engine.clock.wait(100)
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
    world.run()
    world.engine.clock.wait(1000)
    world.run()
    assert world.recorded()[name] == "ACTIVE running"


def test_two_lists_close_together_and_a_404_delete_nothing_yet(world: World) -> None:
    name = world.nth(0)
    world.truth.remove(name)
    world.engine.clock.wait(100)
    world.look()
    world.look()
    world.engine.ask(name)
    for _ in range(3):
        world.engine.step()
    assert world.recorded()[name] == "ACTIVE running"
    world.engine.settle()
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
        begun = world.engine.clock()
        change(name)
        world.run()
        assert world.recorded()[name] == expected
        assert begun < world.row(name).observed_not_before < world.engine.clock()


# Decided on what is read at the moment of the write


def record_elsewhere(world: World, name: str) -> Interval:
    """Let another worker record that the instance's node went offline, just now."""
    interval = Interval(world.engine.clock(), world.engine.clock())
    write(world, observation(name, Status.UNKNOWN, "ERROR_nodeoffline", interval))
    return interval


def ask_about_a_crash(world: World) -> None:
    world.truth.crash(world.nth(0))
    world.engine.ask(world.nth(0))
    world.engine.settle()


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
        trail = list(row.transitions.filter(field="status").order_by("id"))
        assert [change.before for change in trail] == [None, *(it.after for it in trail[:-1])]
        ends.add(expected)
    assert ends == {"STOPPED ERROR_down", "UNKNOWN ERROR_nodeoffline"}


@between_transactions
def test_what_another_worker_records_before_the_write_is_not_overwritten(
    make_world: MakeWorld,
) -> None:
    def write_a_crash(world: World) -> None:
        interval = Interval(world.engine.clock(), world.engine.clock())
        write(world, observation(world.nth(0), Status.STOPPED, "ERROR_down", interval))

    for world in at_every_touch(
        make_world, lambda world: record_elsewhere(world, world.nth(0)), write_a_crash
    ):
        assert world.recorded()[world.nth(0)] == "UNKNOWN ERROR_nodeoffline"


@between_transactions
def test_a_row_that_is_deleted_meanwhile_is_adopted_anew_or_stays_away(
    make_world: MakeWorld,
) -> None:
    ends = set()
    for world in at_every_touch(
        make_world,
        lambda world: Instance.objects.filter(name=world.nth(0)).delete(),
        ask_about_a_crash,
    ):
        name = world.nth(0)
        ends.add(world.recorded().get(name, "away"))
        world.run(Pass.Kind.ALL)
        assert world.recorded()[name] == "STOPPED ERROR_down"
    assert ends == {"STOPPED ERROR_down", "away"}


# In flight

OPERATIONS = ("STARTUP", "SHUTDOWN", "REBOOT", "REINSTALL", "MIGRATE", "FAILOVER", "REMOVE")
MEANWHILE = {"REBOOT": "REBOOT running", "REINSTALL": "REBUILD running"}


def open_job(world: World, kind: str, name: str, state: str) -> int:
    """Put a job of somebody else's into the queue that gets as far as ``state``."""
    world.queue.paused, world.queue.stuck = state == "queued", state == "waiting"
    world.queue.seconds = 1e6
    job = world.submit(kind, name)
    world.queue.seconds = 0
    assert world.queue.jobs[job].status == state
    return job


def let_end(world: World, job: int) -> None:
    world.queue.paused = world.queue.stuck = False
    world.queue.jobs[job].seconds = 0
    assert world.client.GetJobStatus(job)["status"] in ("running", "success")
    assert world.client.GetJobStatus(job)["status"] == "success"


@pytest.mark.parametrize("state", ["queued", "waiting", "running"])
@pytest.mark.parametrize("kind", OPERATIONS)
def test_while_a_job_works_on_an_instance_what_the_list_says_is_no_drift(
    world: World, kind: str, state: str
) -> None:
    name = world.nth(0)
    job = open_job(world, kind, name, state)
    world.truth.crash(name)
    for _ in range(3):
        assert world.run().outcome in ("in_sync", "reconciled")
        world.engine.clock.wait(100)
    assert world.recorded()[name] == MEANWHILE.get(kind, "ACTIVE running")
    assert world.row(name).task_state == kind
    world.faults.hidden.add(name)
    world.run()
    assert world.recorded()[name] == MEANWHILE.get(kind, "ACTIVE running")
    assert world.row(name).missing_first is None
    world.faults.hidden.clear()
    let_end(world, job)
    world.run()
    expected = {"REMOVE": "DELETED", "SHUTDOWN": "STOPPED ADMIN_down"}
    expected |= dict.fromkeys(("STARTUP", "REBOOT"), "ACTIVE running")
    assert world.recorded()[name] == expected.get(kind, "STOPPED ERROR_down")
    assert world.row(name).task_state == ""


@pytest.mark.parametrize("state", ["queued", "waiting", "running"])
def test_while_a_creation_is_open_its_instance_is_a_build(world: World, state: str) -> None:
    job = open_job(world, "CREATE", "new", state)
    for _ in range(3):
        world.run()
        world.engine.clock.wait(100)
    assert world.recorded()["new"] == "BUILD"
    let_end(world, job)
    world.run()
    assert world.recorded()["new"] == "ACTIVE running"


def test_whose_turn_it_is_waits_for_the_job_that_holds_its_lock(world: World) -> None:
    name = world.nth(0)
    job = open_job(world, "MIGRATE", name, "running")
    world.run()
    world.engine.clock.wait(13 * 3600)
    world.run()
    mine = Query.objects.filter(instance=name)
    assert mine.count() == 1
    let_end(world, job)
    world.engine.clock.wait(100)
    world.run()
    assert mine.count() == 2


def test_what_a_query_says_while_a_job_is_still_queued_is_no_drift_either(world: World) -> None:
    name = world.nth(0)
    never = [["gnt:user", "rate-limit:0:never", 0]]
    world.queue.submit({"OP_ID": "OP_INSTANCE_SHUTDOWN", "instance_name": name, "reason": never})
    world.run()
    world.truth.crash(name)
    asked = world.engine.ask(name)
    world.engine.settle()
    asked.refresh_from_db()
    assert (asked.outcome, world.recorded()[name]) == ("in_sync", "ACTIVE running")


@pytest.mark.parametrize("kind", ["REBOOT", "REINSTALL", "STARTUP"])
def test_a_job_that_leaves_all_as_it_was_leaves_nothing_under_way(world: World, kind: str) -> None:
    name = world.nth(0)
    job = open_job(world, kind, name, "running")
    world.run()
    assert world.recorded()[name] == MEANWHILE.get(kind, "ACTIVE running")
    let_end(world, job)
    assert world.run().outcome in ("in_sync", "reconciled")
    assert (world.recorded()[name], world.row(name).task_state) == ("ACTIVE running", "")


# Jobs that the queue has forgotten


def test_a_query_job_that_is_purged_is_asked_again_and_condemns_nobody(world: World) -> None:
    name = world.nth(0)
    world.truth.crash(name)
    asked = world.engine.ask(name)
    world.engine.step()
    world.queue.lose(Query.objects.get(pass_of=asked).job_id)
    world.engine.settle()
    asked.refresh_from_db()
    assert asked.outcome == "reconciled"
    assert world.recorded()[name] == "STOPPED ERROR_down"


@pytest.mark.parametrize("forget", ["archive", "purge"])
def test_a_build_whose_job_is_archived_or_purged_is_what_ganeti_has(
    world: World, forget: str
) -> None:
    job = open_job(world, "CREATE", "new", "running")
    world.run()
    let_end(world, job)
    world.queue.archive()
    if forget == "purge":
        world.queue.purge()
    world.run()
    assert world.recorded()["new"] == "ACTIVE running"


def test_a_build_whose_job_is_purged_and_that_ganeti_has_not_is_no_error_but_gone_by_proof(
    world: World,
) -> None:
    job = open_job(world, "CREATE", "new", "waiting")
    world.run()
    world.queue.lose(job)
    world.queue.stuck = False
    world.engine.clock.wait(100)
    world.look()
    assert world.recorded()["new"] == "BUILD"
    world.run()
    states = Transition.objects.filter(instance=world.row("new"), field="status").order_by("id")
    assert [it.after for it in states] == ["BUILD", "DELETED"]
    assert states.last().rule == "gone"


def test_a_build_whose_job_id_is_not_known_yet_is_waited_for(world: World) -> None:
    at = world.engine.clock()
    Instance.objects.create(
        cluster=world.engine.cluster, name="new", status="BUILD", operation="CREATE",
        operation_since=at, observed_not_before=at, observed_not_after=at,
    )  # fmt: skip
    for _ in range(3):
        world.run()
        world.engine.clock.wait(100)
    assert world.recorded()["new"] == "BUILD"


# What changes between the reads


def appear(world: World) -> None:
    world.truth.add("new")


def appear_by_a_job(world: World) -> None:
    world.submit("CREATE", "new")


def appear_and_be_recorded(world: World) -> None:
    """Let another worker adopt what was created just now."""
    world.truth.add("new")
    interval = Interval(world.engine.clock(), world.engine.clock())
    seen = Observation("new", Status.ACTIVE, "running", Configuration(), Evidence.JOB, interval, 77)
    engine = world.engine
    apply(
        engine.cluster, "new", seen, Context(engine.policy, engine.tuning.flapping, engine.clock())
    )


def disappear(world: World) -> None:
    world.truth.remove(f"vm00001.{world.truth.name}")


def disappear_by_a_job(world: World) -> None:
    world.submit("REMOVE", f"vm00001.{world.truth.name}")


def look_at_a_crash(world: World) -> None:
    world.truth.crash(f"vm00002.{world.truth.name}")
    world.engine.clock.wait(100)
    world.look()
    world.engine.step()


@between_transactions
@pytest.mark.parametrize("happens", [appear, appear_by_a_job, appear_and_be_recorded])
def test_an_instance_created_between_any_two_reads_is_never_missing(
    make_world: MakeWorld, happens: Callable[[World], None]
) -> None:
    for world in at_every_touch(make_world, happens, look_at_a_crash):
        assert world.recorded().get("new", "ACTIVE running") in ("ACTIVE running", "BUILD")
        found = Instance.objects.filter(cluster=world.engine.cluster, name="new").first()
        assert found is None or found.missing_first is None
        world.run()
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
        world.run()
        assert world.recorded()[name] == "DELETED"
        assert world.recorded()[f"vm00002.{world.truth.name}"] == "STOPPED ERROR_down"
        states = Transition.objects.filter(instance=world.row(name), field="status")
        assert [it.after for it in states.order_by("id")] == ["ACTIVE", "DELETED"]


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
    asked = world.engine.ask(name)
    world.engine.settle()
    asked.refresh_from_db()
    assert (asked.outcome, "Can't compute disk status" in asked.error) == ("failed", True)
    world.engine.clock.wait(1000)
    world.run()
    assert world.recorded()[name] == "ACTIVE running"


def test_a_static_query_leaves_the_state_as_it_is_and_tells_the_configuration(
    world: World,
) -> None:
    name = world.nth(0)
    world.truth.change(name, memory=77)
    job = int(world.client.GetInstanceInfo(name, static=True))
    begun = world.engine.clock()
    (report,) = world.engine.backend.poll({job: begun})
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
    asked = world.engine.ask("gousiosg-1")
    world.engine.settle()
    asked.refresh_from_db()
    assert asked.outcome == "reconciled"
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
    world.engine.ask(name)
    world.engine.settle()
    row = world.row(name)
    assert (row.status, row.memory, row.vcpus, row.disks) == ("ACTIVE", 512, 2, [2000])
    assert row.nics == [asdict(Nic("10.0.0.1", MAC, "bridged", "br0"))]


def test_a_reply_about_many_instances_is_applied_to_each_and_one_that_is_bad_spoils_itself(
    world: World,
) -> None:
    bad, crashed = world.nth(0), world.nth(1)
    world.truth.crash(crashed)
    world.spoil_details(lambda name, it: it | {"nics": [[1, 2]]} if name == bad else it)
    begun = world.engine.clock()
    query = {"OP_ID": "OP_INSTANCE_QUERY_DATA", "instances": [], "static": False}
    job = world.queue.submit(query)
    rows = world.client.Query("job", list(JOB_FIELDS), ["=", "id", job])["data"]
    (report,) = reports_on(rows, {job: begun}, world.engine.clock())
    assert [it.instance for it in report.unreadable] == [bad]
    for seen in report.observations:
        write(world, seen)
    words = dict.fromkeys(world.truth.instances, "ACTIVE running")
    assert world.recorded() == words | {crashed: "STOPPED ERROR_down"}


# Names


def test_names_that_begin_alike_are_never_taken_for_each_other(world: World) -> None:
    for name in ("vm", "vm1", "vm11", "xvm1"):
        world.truth.add(name)
    world.run()
    world.truth.crash("vm1")
    open_job(world, "REBOOT", "vm11", "running")
    world.truth.remove("vm")
    world.run()
    recorded = world.recorded()
    assert [recorded[name] for name in ("vm", "vm1", "vm11", "xvm1")] == [
        "DELETED", "STOPPED ERROR_down", "REBOOT running", "ACTIVE running",
    ]  # fmt: skip


# Mass change and flapping


def test_when_thirty_of_a_hundred_vanish_nothing_is_deleted_before_somebody_looked(
    make_world: MakeWorld,
) -> None:
    world = make_world(instances=100)
    for name in list(world.truth.instances)[:30]:
        world.truth.remove(name)
    held = world.run()
    assert held.outcome == "held"
    assert set(world.recorded().values()) == {"ACTIVE running"}
    assert world.run(approved=held.fingerprint).outcome == "reconciled"
    assert list(world.recorded().values()).count("DELETED") == 30


def test_when_a_node_of_most_instances_dies_they_are_unknown_without_asking_anybody(
    make_world: MakeWorld,
) -> None:
    world = make_world(instances=20)
    for name in list(world.truth.instances)[:15]:
        world.truth.change(name, node="node1.alpha", running_on="node1.alpha")
    world.run()
    world.truth.set_node("node1.alpha", is_down=True)
    assert world.run().outcome == "reconciled"
    dead = [name for name, it in world.truth.instances.items() if it.node == "node1.alpha"]
    assert len(dead) > 15
    assert {world.recorded()[name] for name in dead} == {"UNKNOWN ERROR_nodedown"}


def test_twenty_changes_within_a_minute_mark_the_instance_and_do_not_flood_its_history(
    world: World,
) -> None:
    name = world.nth(0)
    begun = world.engine.clock()
    for turn in range(20):
        (world.truth.crash, world.truth.start)[turn % 2](name)
        world.engine.ask(name)
        world.engine.settle()
    assert world.engine.clock() - begun < timedelta(minutes=1)
    row = world.row(name)
    assert row.flapping_since is not None
    history = Transition.objects.filter(instance=row, field="status").exclude(rule="adopted")
    assert history.count() <= world.engine.tuning.flapping.changes
    assert sum(1 + change.folded for change in history) == 20
    world.engine.clock.wait(3600)
    world.truth.crash(name)
    world.run()
    assert world.row(name).flapping_since is None
