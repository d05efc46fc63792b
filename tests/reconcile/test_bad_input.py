"""Whatever Ganeti answers, a whole pass keeps a clear error and harms no other instance."""

import json
import os
import re
from itertools import count
from typing import Any

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proj.inventory.models import Pass
from proj.reconcile import passes
from tests.fixtures.simulated import MakeWorld, World

JARGON = re.compile(
    r"zip\(|object is not|object has no|indices must|unpack|argument|Traceback|\bint\("
)
"""What Python says of a value that it cannot use, which helps no operator."""

WORST: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 10**30, float("nan"), float("inf"), "",
    "0", "7" * 5000, "\x00", "\ud800",
    "x" * 1000, "vm 1", "../vm", "INSTANCE_CREATE(\x00)", f"INSTANCE_CREATE({'x' * 300})",
    f"INSTANCE_{'X' * 50}(vm)", [], {}, [[]], [None, None], {"run_state": None},
)  # fmt: skip

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
PLACES = st.lists(st.integers(0, 1000), max_size=10)
"""At each depth of an answer, which member to go into."""

IMPATIENT = {
    "query_attempts": 2, "query_timeout": 20, "submit_timeout": 20, "pass_attempts": 2,
    "retry_base": 0.1, "retry_cap": 1,
}  # fmt: skip

EXAMPLES = int(os.environ.get("HISTORIES", "50"))
"""How many answers are spoiled; 2,000 in the nightly run."""

numbers = count()


def spoiled(answer: Any, place: list[int], value: Any) -> Any:
    """Return an answer in which what is found by following ``place`` is another value."""
    if not place or not isinstance(answer, list | dict) or not answer:
        return value
    keys = list(answer) if isinstance(answer, dict) else list(range(len(answer)))
    key = keys[place[0] % len(keys)]
    copy = answer.copy()
    copy[key] = spoiled(answer[key], place[1:], value)
    return copy


def spoil(world: World, wanted: str, place: list[int], value: Any) -> None:
    """Spoil every answer to requests whose path ends so."""

    def on_its_way(path: str, body: bytes) -> bytes:
        if not path.partition("?")[0].endswith(wanted):
            return body
        return json.dumps(spoiled(json.loads(body), place, value)).encode()

    world.spoil = on_its_way


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(("/query/instance", "/query/job", "/info")),
    PLACES,
    JSON | st.sampled_from(WORST),
)
def test_whatever_an_answer_holds_the_pass_ends_and_nobody_is_deleted(
    make_world: MakeWorld, wanted: str, place: list[int], value: Any
) -> None:
    with transaction.atomic():
        meet(make_world, wanted, place, value)
        transaction.set_rollback(True)


def meet(make_world: MakeWorld, wanted: str, place: list[int], value: Any) -> None:
    """Let a pass meet a spoiled answer, and a later one the truth."""
    world = make_world(f"c{next(numbers)}", instances=2, **IMPATIENT)
    crashed = world.nth(1)
    world.truth.crash(crashed)
    spoil(world, wanted, place, value)
    done = world.run(Pass.Kind.ALL)
    assert "DELETED" not in world.recorded().values()
    told = json.dumps(passes.describe(done))
    assert not JARGON.search(told), told
    world.spoil = lambda _, body: body
    world.engine.clock.wait(24 * 3600)
    world.run(Pass.Kind.ALL)
    words = dict.fromkeys(world.truth.instances, "ACTIVE running")
    recorded = {name: word for name, word in world.recorded().items() if word != "DELETED"}
    assert recorded == words | {crashed: "STOPPED ERROR_down"}


def crash(world: World) -> str:
    """Let another instance crash, which the same pass must record."""
    world.truth.crash(world.nth(1))
    return world.nth(1)


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("status", "dancing", "the state 'dancing' is not known"),
        ("status", None, "the state None is not known"),
        ("be_maxmem", "much", "the memory 'much' is no number"),
        ("be_maxmem", True, "the memory True is no number"),
        ("be_vcpus", 2**40, f"the vcpus {2**40} is no number"),
        ("disk_sizes", [1, {}], "the disk size {} is no number"),
        ("disk_sizes", 7, "it has a shape that no known version gives"),
        ("nic_ips", [], "its NICs have not as many addresses as modes and links"),
        ("nic_macs", [["aa"]], "the mac is ['aa'], not text"),
        ("snodes", [1], "the node is 1, not text"),
        ("os", "a\x00b", "the os is 'a\\x00b', not text"),
        ("os", "x" * 256, f"the os is '{'x' * 59}, not text"),
    ],
)
def test_a_bad_row_of_the_list_is_named_with_the_pass_and_harms_no_other(
    world: World, field: str, value: Any, problem: str
) -> None:
    bad, crashed = world.nth(0), crash(world)
    before = world.rows()[0]
    world.spoil_list(bad, **{field: value})
    done = world.run()
    assert done.findings == [{"instance": bad, "problem": f"row of the list: {problem}"}]
    assert world.recorded()[crashed] == "STOPPED ERROR_down"
    assert world.rows()[0] == before


@pytest.mark.parametrize("name", ["vm 1", "../vm", "", "x" * 256, 7, None, ["vm"]])
def test_a_row_with_no_name_makes_nobody_missing(world: World, name: Any) -> None:
    bad, crashed = world.nth(0), crash(world)
    world.spoil_list(bad, name=name)
    for _ in range(3):
        world.engine.clock.wait(1000)
        world.look()
        assert world.row(bad).missing_first is None
        done = world.run()
        assert [it["instance"] for it in done.findings] == [None]
    recorded = world.recorded()
    assert (recorded[bad], recorded[crashed]) == ("ACTIVE running", "STOPPED ERROR_down")


@pytest.mark.parametrize(
    ("details", "problem"),
    [
        ({"run_state": "dancing"}, "config_state 'up' with run_state 'dancing' is not known"),
        ({"nics": [[1, 2]]}, "a NIC of 2 fields; known are 4, 6, 8 and 9"),
        ({"nics": [7]}, "it has a shape that no known version gives"),
        ({"disks": [{"size": "big"}]}, "the disk size 'big' is no number"),
        ({"be_actual": "much"}, "it has a shape that no known version gives"),
        ({"pnode": {}}, "the node is {}, not text"),
    ],
)
def test_a_bad_result_of_a_job_is_named_with_the_pass_and_harms_no_other(
    world: World, details: dict[str, Any], problem: str
) -> None:
    bad, crashed = world.nth(0), crash(world)
    before = world.rows()[0]
    world.spoil_details(lambda name, it: it | details if name == bad else it)
    done = world.run(Pass.Kind.ALL)
    assert done.outcome == "failed"
    assert done.error.startswith(f"1 of 4 queries failed: {bad}: job ")
    assert done.error.endswith(problem)
    assert world.recorded()[crashed] == "STOPPED ERROR_down"
    kept = ("status", "backend_status", "memory", "disks", "nics", "nodes", "version")
    assert [world.rows()[0][name] for name in kept] == [before[name] for name in kept]


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("opresult", [], "its results were cut short"),
        ("opresult", None, "it has a shape that no known version gives"),
        ("ops", [7], "it has a shape that no known version gives"),
        ("status", "dancing", "has the unknown status 'dancing'"),
    ],
)
def test_a_bad_row_of_a_job_is_named_with_the_pass_and_harms_no_other(
    world: World, field: str, value: Any, problem: str
) -> None:
    bad, crashed = world.nth(0), crash(world)

    def spoil_row(path: str, body: bytes) -> bytes:
        if path != "/2/query/job":
            return body
        answer = json.loads(body)
        fields = [field["name"] for field in answer["fields"]]
        for row in answer["data"]:
            if field in fields and bad in json.dumps(row):
                row[fields.index(field)] = [0, value]
        return json.dumps(answer).encode()

    world.spoil = spoil_row
    done = world.run(Pass.Kind.ALL)
    assert done.outcome == "failed"
    assert done.error.startswith(f"1 of 4 queries failed: {bad}: job ")
    assert done.error.endswith(problem)
    recorded = world.recorded()
    assert (recorded[bad], recorded[crashed]) == ("ACTIVE running", "STOPPED ERROR_down")


def test_numbers_that_came_as_text_are_read_as_numbers(world: World) -> None:
    name = world.nth(0)
    world.spoil_details(
        lambda _, it: it | {"be_actual": {"maxmem": "77", "vcpus": "3"}, "disks": [{"size": "9"}]}
    )
    world.engine.ask(name)
    world.engine.settle()
    row = world.row(name)
    assert (row.memory, row.vcpus, row.disks) == (77, 3, [9])


def test_a_list_with_thousands_of_bad_rows_is_told_and_harms_nobody(world: World) -> None:
    crashed = crash(world)

    def swell(path: str, body: bytes) -> bytes:
        answer = json.loads(body)
        if path == "/2/query/instance":
            answer["data"] += [[[0, f"bad{n}"]] for n in range(5000)]
        return json.dumps(answer).encode()

    world.spoil = swell
    done = world.run()
    assert len(done.findings) == 5000
    assert world.recorded()[crashed] == "STOPPED ERROR_down"


@pytest.mark.parametrize("number", [10**30, -1, 1.5, None, "x", [], True])
def test_an_id_that_no_job_can_have_is_an_answer_that_cannot_be_read(
    world: World, number: Any
) -> None:
    world.truth.crash(world.nth(0))
    spoil(world, "/info", [], number)
    done = world.run()
    assert done.outcome == "failed"
    assert "cannot be read" in done.error
    assert set(world.recorded().values()) == {"ACTIVE running"}


@pytest.mark.parametrize(
    "summary",
    ["INSTANCE_CREATE(\x00)", f"INSTANCE_CREATE({'x' * 300})", f"INSTANCE_{'X' * 40}(vm)"],
)
def test_a_job_on_a_name_that_no_instance_can_have_is_nobodys(world: World, summary: str) -> None:
    crashed = crash(world)

    def add_job(path: str, body: bytes) -> bytes:
        if path != "/2/query/job":
            return body
        answer = json.loads(body)
        fields = [field["name"] for field in answer["fields"]]
        if "summary" in fields:
            values = {"id": 7, "status": "running", "summary": [summary]}
            answer["data"].append([[0, values.get(field)] for field in fields])
        return json.dumps(answer).encode()

    world.spoil = add_job
    world.run()
    assert world.recorded()[crashed] == "STOPPED ERROR_down"
    assert set(world.recorded()) == set(world.truth.instances)
