import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proj.backend import JobReport, Unreadable, Verdict
from proj.ganeti.jobs import FEED_FIELDS, JOB_FIELDS, read_queue, report_on, reports_on
from proj.ganeti.replies import LIST_FIELDS, read_list, read_query_result
from proj.observation import Configuration, Interval, Nic, Observation, Status

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
READ = Interval(NOON, NOON + timedelta(seconds=1))
TICKET = json.loads((Path(__file__).parents[1] / "data" / "ticket_505.json").read_text())

UUID = TICKET["opresult"][0]["gousiosg-1"]["uuid"]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def row_of(**values: Any) -> list[Any]:
    return [[0, values.get(field)] for field in JOB_FIELDS]


def report(**values: Any) -> JobReport:
    values = {"id": 7, "ops": [{"instances": ["vm1"], "static": False}]} | values
    submitted = {int(values["id"]): READ.not_before}
    return report_on(row_of(**values), submitted, READ.not_after)


def error(kind: str, *arguments: str) -> list[Any]:
    return [[kind, list(arguments)]]


def test_the_reply_of_the_ticket_is_an_active_instance_with_all_it_is_made_of() -> None:
    (seen,) = report(**TICKET).observations
    assert seen == Observation(
        instance="gousiosg-1",
        status=Status.ACTIVE,
        backend_status="running",
        configuration=Configuration(
            memory=1024,
            vcpus=1,
            disks=(2000,),
            nics=(Nic(None, "aa:00:00:fc:99:26", "bridged", "br0"),),
            nodes=("store67",),
            os="debootstrap+default",
        ),
        interval=READ,
        job_id=18160,
        uuid=UUID,
    )


def test_an_observation_survives_being_kept_as_json() -> None:
    (seen,) = report(**TICKET).observations
    assert Observation.from_json(json.loads(json.dumps(seen.to_json()))) == seen


def test_a_static_query_tells_the_configuration_and_no_state() -> None:
    details = TICKET["opresult"][0]["gousiosg-1"] | {"run_state": None}
    ops = [{"instances": ["gousiosg-1"], "static": True}]
    (seen,) = report(status="success", ops=ops, opresult=[{"gousiosg-1": details}]).observations
    assert (seen.status, seen.backend_status) == (None, None)
    assert seen.configuration.memory == 1024


@pytest.mark.parametrize(
    ("status", "is_unstarted"),
    [("queued", True), ("waiting", True), ("running", False), ("canceling", False)],
)
def test_an_open_job_is_pending_and_has_begun_or_not(status: str, is_unstarted: bool) -> None:
    found = report(status=status)
    assert (found.verdict, found.is_unstarted) == (Verdict.PENDING, is_unstarted)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ({"status": None}, Verdict.LOST),
        ({"status": "canceled", "opresult": [None]}, Verdict.RETRY),
        ({"status": "canceled", "opresult": ["Job canceled by request"]}, Verdict.RETRY),
        ({"status": "error", "opresult": ["detected death of job 7"]}, Verdict.RETRY),
        (
            {"status": "error", "opresult": error("OpPrereqError", "groups moved", "wrong_state")},
            Verdict.RETRY,
        ),
        (
            {"status": "error", "opresult": error("OpPrereqError", "no 'vm1'", "unknown_entity")},
            Verdict.ABSENT,
        ),
        ({"status": "error", "opresult": error("OpExecError", "no luck")}, Verdict.FAILED),
    ],
)
def test_each_end_of_a_job_has_its_meaning(values: dict[str, Any], verdict: Verdict) -> None:
    assert report(**values).verdict is verdict


def test_a_node_that_cannot_be_reached_says_nothing_of_its_instance_by_a_job() -> None:
    opresult = error("OpExecError", "Error checking node node2: timed out")
    result = report(status="error", opresult=opresult)
    assert (result.verdict, result.observations) == (Verdict.FAILED, ())
    assert result.error == "job 7: Error checking node node2: timed out"


def test_a_drbd_secondary_that_is_down_says_nothing_about_the_instance() -> None:
    opresult = error("OpExecError", "Can&#x27;t compute disk status for vm1: timed out")
    result = report(status="error", opresult=opresult)
    assert (result.verdict, result.observations) == (Verdict.FAILED, ())
    assert result.error == "job 7: Can't compute disk status for vm1: timed out"


def test_a_bad_record_spoils_itself_and_not_its_neighbours() -> None:
    good = TICKET["opresult"][0]["gousiosg-1"]
    result = {
        "vm1": good,
        "vm2": good | {"run_state": "dancing"},
        "vm3": good | {"nics": [[1, 2]]},
        "vm4": {"config_state": "up"},
        "vm 5": good,
        "vm6": good,
        "vm7": good | {"uuid": "none"},
    }
    answer = report(status="success", opresult=[result])
    assert [seen.instance for seen in answer.observations] == ["vm1", "vm6"]
    assert [record.instance for record in answer.unreadable] == ["vm2", "vm3", "vm4", None, "vm7"]
    assert [record.uuid for record in answer.unreadable] == [UUID, UUID, None, None, None]


def test_a_reply_about_another_name_is_passed_on_as_it_is() -> None:
    answer = report(
        status="success", opresult=[{"vm1.example": TICKET["opresult"][0]["gousiosg-1"]}]
    )
    assert [(seen.instance, seen.uuid) for seen in answer.observations] == [("vm1.example", UUID)]


def list_row(**values: Any) -> list[Any]:
    complete = {"name": "vm1", "status": "running", "pnode": "n1", "snodes": []} | values
    return [[0, complete.get(field)] for field in LIST_FIELDS]


def test_a_row_of_the_list_gives_the_words_of_ganeti_and_the_states_of_the_api() -> None:
    rows = [list_row(name=f"vm{n}", status=word) for n, word in enumerate(WORDS)]
    seen = [item for item in read_list(rows, READ) if isinstance(item, Observation)]
    assert {item.backend_status: item.status for item in seen} == WORDS


WORDS = {
    "running": Status.ACTIVE,
    "ADMIN_down": Status.STOPPED,
    "ADMIN_offline": Status.STOPPED,
    "USER_down": Status.STOPPED,
    "ERROR_down": Status.STOPPED,
    "ERROR_up": Status.ACTIVE,
    "ERROR_wrongnode": Status.ERROR,
    "ERROR_nodedown": Status.UNKNOWN,
    "ERROR_nodeoffline": Status.UNKNOWN,
}


def test_a_word_never_seen_is_named_and_recorded_nowhere() -> None:
    (item,) = read_list([list_row(status="ERROR_new")], READ)
    assert item == Unreadable("vm1", "row of the list: the state 'ERROR_new' is not known")


def test_a_list_tells_uuid_and_tags() -> None:
    (seen,) = read_list([list_row(uuid=UUID, tags=["zeta", "alpha"])], READ)
    assert isinstance(seen, Observation)
    assert (seen.uuid, seen.configuration.tags) == (UUID, ("alpha", "zeta"))


def test_a_field_that_an_old_ganeti_does_not_know_is_not_told_and_the_rest_holds() -> None:
    row = [[0, "vm1"] if name == "name" else [1, None] for name in LIST_FIELDS]
    row[LIST_FIELDS.index("status")] = [0, "running"]
    (seen,) = read_list([row], READ)
    assert isinstance(seen, Observation)
    assert (seen.instance, seen.status, seen.uuid) == ("vm1", Status.ACTIVE, None)
    assert seen.configuration.told() == {}


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"uuid": "none"}, "row of the list: 'none' is no uuid"),
        ({"tags": "alpha"}, "row of the list: its tags are no list"),
        ({"tags": [7]}, "row of the list: the tag is 7, not text"),
        ({"forthcoming": "no"}, "row of the list: 'no' is neither true nor false"),
    ],
)
def test_a_field_that_is_there_and_malformed_spoils_its_row(
    values: dict[str, Any], problem: str
) -> None:
    (item,) = read_list([list_row(**values)], READ)
    assert item == Unreadable("vm1", problem)


@given(JSON, st.sampled_from(FEED_FIELDS))
def test_whatever_a_row_of_the_queue_holds_the_others_are_read(value: Any, field: str) -> None:
    good = {"id": 7, "status": "running", "ops": [{"OP_ID": "OP_INSTANCE_STARTUP"}]}
    rows = [[[0, row[name]] for name in FEED_FIELDS] for row in (good | {field: value}, good)]
    read, unreadable = read_queue([value, *rows])
    assert len(read) + unreadable == 3
    assert read[-1].job_id == 7


@given(JSON, st.sampled_from(JOB_FIELDS))
@example(float("inf"), "id")
def test_whatever_a_job_holds_the_others_are_reported(value: Any, field: str) -> None:
    good = row_of(**TICKET)
    bad = row_of(**({"id": 7, "status": "success", "ops": [], "opresult": []} | {field: value}))
    submitted = {18160: READ.not_before, 7: READ.not_before}
    reports = list(reports_on([value, bad, good], submitted, READ.not_after))
    assert reports[-1].observations[0].instance == "gousiosg-1"


@given(JSON)
def test_whatever_a_list_holds_no_row_raises(value: Any) -> None:
    for field in range(len(LIST_FIELDS)):
        row = list_row()
        row[field] = [0, value]
        assert len(list(read_list([row, value, list_row()], READ))) == 3


@given(JSON, st.sampled_from(sorted(TICKET["opresult"][0]["gousiosg-1"])))
def test_whatever_a_result_holds_no_record_raises(value: Any, field: str) -> None:
    details = TICKET["opresult"][0]["gousiosg-1"] | {field: value}
    options: dict[str, Any] = {"job_id": 1, "static": False}
    options |= {"interval": READ}
    assert len(list(read_query_result({"vm1": details, "vm2": value}, **options))) == 2
    list(read_query_result(value, **options))
