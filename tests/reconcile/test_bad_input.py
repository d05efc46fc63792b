"""Whatever Ganeti answers, a clear error is kept, and no other instance is harmed."""

import json
import os
import re
from itertools import count
from typing import Any

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proj.inventory.models import Question, Request
from proj.reconcile import shown
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
    "query_timeout": 20, "submit_timeout": 20, "retry_base": 0.1, "retry_cap": 1, "question_cap": 5,
}  # fmt: skip

EXAMPLES = int(os.environ.get("HISTORIES", "200")) // 8
"""How many answers are spoiled: each takes some time."""

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

    world.ganeti.spoil = on_its_way


def said(request: Request) -> str:
    """Return all that an operator is told."""
    told: list[Any] = [shown.describe(request), request.cluster.last_error]
    told += [request.cluster.findings, *Question.objects.values_list("error", flat=True)]
    return json.dumps(told)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(("/query/instance", "/query/job", "/info", "/jobs")),
    PLACES,
    JSON | st.sampled_from(WORST),
)
def test_whatever_an_answer_holds_nobody_is_deleted_and_the_truth_comes_back(
    make_world: MakeWorld, wanted: str, place: list[int], value: Any
) -> None:
    with transaction.atomic():
        meet(make_world, wanted, place, value)
        transaction.set_rollback(True)


def meet(make_world: MakeWorld, wanted: str, place: list[int], value: Any) -> None:
    """Let a request meet a spoiled answer, and what follows the truth."""
    world = make_world(f"c{next(numbers)}", instances=2, **IMPATIENT)
    crashed = world.nth(1)
    world.truth.crash(crashed)
    spoil(world, wanted, place, value)
    request = world.ask_all("all")
    world.go_on(60, step=2)
    request.refresh_from_db()
    assert "DELETED" not in world.recorded().values()
    assert not JARGON.search(said(request)), said(request)
    world.ganeti.spoil = lambda _, body: body
    world.go_on(180, step=2)
    words = dict.fromkeys(world.truth.instances, "ACTIVE running")
    recorded = {name: word for name, word in world.recorded().items() if word != "DELETED"}
    assert recorded == words | {crashed: "STOPPED ERROR_down"}


def crash(world: World) -> str:
    """Let another instance crash, which must be recorded all the same."""
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
def test_a_bad_row_of_the_list_is_named_and_harms_no_other(
    world: World, field: str, value: Any, problem: str
) -> None:
    bad, crashed = world.nth(0), crash(world)
    before = world.row(bad)
    world.spoil_list(bad, **{field: value})
    world.go_on(70)
    findings = world.engine.cluster.findings
    assert findings == [{"instance": bad, "problem": f"row of the list: {problem}"}]
    assert world.recorded()[crashed] == "STOPPED ERROR_down"
    assert world.row(bad).revision == before.revision


@pytest.mark.parametrize("name", ["vm 1", "../vm", "", "x" * 256, 7, None, ["vm"]])
def test_a_row_with_no_name_makes_nobody_missing(world: World, name: Any) -> None:
    bad, crashed = world.nth(0), crash(world)
    world.spoil_list(bad, name=name)
    world.go_on(200, step=2)
    assert world.row(bad).missing_first is None
    assert len(world.engine.cluster.findings) == 1
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
def test_a_bad_result_of_a_job_is_named_and_harms_no_other(
    world: World, details: dict[str, Any], problem: str
) -> None:
    bad, crashed = world.nth(0), crash(world)
    before = world.row(bad)
    world.spoil_details(lambda name, it: it | details if name == bad else it)
    request = world.run("all")
    assert request.outcome == "failed"
    ((instance, reason),) = request.unconfirmed
    assert instance == bad
    assert problem in reason
    assert world.recorded()[crashed] == "STOPPED ERROR_down"
    kept = ("status", "backend_status", "memory", "disks", "nics", "nodes", "confirmed_at")
    assert [getattr(world.row(bad), name) for name in kept] == [
        getattr(before, name) for name in kept
    ]


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("opresult", [], "its results were cut short"),
        ("opresult", None, "it has a shape that no known version gives"),
        ("ops", [7], "it has a shape that no known version gives"),
        ("status", "dancing", "has the unknown status 'dancing'"),
    ],
)
def test_a_bad_row_of_a_job_is_named_and_harms_no_other(
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

    world.ganeti.spoil = spoil_row
    request = world.run("all")
    assert request.outcome == "failed"
    ((instance, reason),) = request.unconfirmed
    assert instance == bad
    assert problem in reason
    recorded = world.recorded()
    assert (recorded[bad], recorded[crashed]) == ("ACTIVE running", "STOPPED ERROR_down")


def test_numbers_that_came_as_text_are_read_as_numbers(world: World) -> None:
    name = world.nth(0)
    world.spoil_details(
        lambda _, it: it | {"be_actual": {"maxmem": "77", "vcpus": "3"}, "disks": [{"size": "9"}]}
    )
    world.requery(name)
    row = world.row(name)
    assert (row.memory, row.vcpus, row.disks) == (77, 3, [9])


def test_a_list_with_thousands_of_bad_rows_is_told_and_harms_nobody(world: World) -> None:
    crashed = crash(world)

    def swell(path: str, body: bytes) -> bytes:
        answer = json.loads(body)
        if path == "/2/query/instance":
            answer["data"] += [[[0, f"bad{n}"]] for n in range(5000)]
        return json.dumps(answer).encode()

    world.ganeti.spoil = swell
    world.go_on(70)
    assert 0 < len(world.engine.cluster.findings) <= 200
    assert world.recorded()[crashed] == "STOPPED ERROR_down"


@pytest.mark.parametrize("number", [10**30, -1, 1.5, None, "x", [], True])
def test_an_id_that_no_job_can_have_is_an_answer_that_cannot_be_read(
    world: World, number: Any
) -> None:
    name = world.nth(0)
    world.truth.crash(name)
    spoil(world, "/info", [], number)
    world.ask(name)
    world.engine.ask()
    assert "cannot be read" in Question.objects.get(name=name).error
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
            values = {"id": 700, "status": "running", "summary": [summary]}
            answer["data"].append([[0, values.get(field)] for field in fields])
        return json.dumps(answer).encode()

    world.ganeti.spoil = add_job
    world.run()
    assert world.recorded()[crashed] == "STOPPED ERROR_down"
    assert set(world.recorded()) == set(world.truth.instances)
