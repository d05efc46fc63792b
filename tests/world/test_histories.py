"""Whatever happens in whatever order, from whatever database: what must hold holds."""

import os

import pytest
from django.db import connection
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.world import databases, histories
from tests.world.databases import Moment, Row
from tests.world.histories import Event, Play, play

pytestmark = pytest.mark.django_db(transaction=True)

EACH = {"sqlite": 70, "postgresql": 10}
"""Examples of each of the three tests below, always the same: CI is no lottery."""
HISTORIES = int(os.environ.get("HISTORIES", "0"))
"""How many other ones are explored, as every night: 5,000."""

PHASES = [Phase.explicit, Phase.reuse, Phase.generate]
if "SHRINK" in os.environ:
    PHASES.append(Phase.shrink)
"""To find the shortest history takes minutes: it is asked for."""

explored = settings(
    max_examples=HISTORIES or EACH[connection.vendor],
    derandomize=not HISTORIES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=PHASES,
    report_multiple_bugs=False,
    print_blob=True,
)

FOUND: dict[str, list[Event]] = {
    "a tag changes while another field of the instance is convicted by a job": [
        ("turn", "beat"),
        ("wait", 5.0),
        ("turn", "beat"),
        ("change", "web", "tags", ("a",)),
        ("befall", "crash", "web"),
    ],
    "what only lists tell differs before a job convicts another field": [
        ("turn", "beat"),
        ("rename", "vm11", "vm"),
        ("befall", "wrong_node", "vm"),
    ],
    "a wrong node and a request for everything": [
        ("turn", "beat"),
        ("wait", 5.0),
        ("turn", "beat"),
        ("befall", "wrong_node", "vm11"),
        ("request", "all"),
        ("turn", "beat"),
    ],
    "a request for a name that Ganeti completes": [("request_instance", "WEB")],
    "a request for a name whose creation gets a longer one": [
        ("request_instance", "New"),
        ("begin_create", "New", "new.example", 0, False),
    ],
    "an answer older than the list makes a row that the list never agreed with": [
        ("turn", "beat"),
        ("change", "web", "vcpus", 8),
        ("request", "sweep"),
    ],
    "the message of a plan is lost": [("request", "plan"), ("lose", 0)],
    "a request for everything before anything is recorded": [("request", "all")],
}
"""Histories that broke an engine, each for its kind."""

HALF = {
    "web of which the NICs are no NICs": Row(
        "Instance",
        {
            "uuid": databases.UUIDS[0], "name": "web", "status": "ACTIVE",
            "backend_status": "running", "nics": [3], "created_at": Moment(-60),
            "observed_not_before": Moment(-61), "observed_not_after": Moment(-60),
        },
    ),
    "NICs of fewer fields": Row(
        "Instance",
        {
            "uuid": databases.UUIDS[0], "name": "web", "status": "ACTIVE",
            "backend_status": "running", "nics": [{"ip": "10.0.0.1"}], "created_at": Moment(-60),
            "observed_not_before": Moment(-61), "observed_not_after": Moment(-60),
        },
    ),
    "a double of an instance, without a uuid": Row(
        "Instance",
        {
            "uuid": None, "name": "vm11", "status": "REBOOT", "backend_status": "ADMIN_down",
            "created_at": Moment(-60), "observed_not_before": Moment(-61),
            "observed_not_after": Moment(-60), "missing_first": Moment(-61),
            "missing_last": Moment(3e8),
        },
    ),
    "a job in no state at all": Row(
        "Job",
        {"job_id": 5, "state": "odd", "seen_first": Moment(-60), "seen_last": Moment(-60)},
    ),
    "a job with names and uuids that are none": Row(
        "Job",
        {
            "job_id": 99, "state": "running", "work": [[[]], 0], "names": [3, "vm11"],
            "uuids": [databases.UUIDS[0], None], "seen_first": Moment(-60),
            "seen_last": Moment(-60),
        },
    ),
    "a plan that nobody serves": Row(
        "Request",
        {"kind": "plan", "name": "", "state": "open", "requested_at": Moment(5)},
    ),
    "an answer that ends in an hour": Row(
        "Question",
        {
            "uuid": databases.UUIDS[7], "name": "web", "priority": 0, "epoch": 1,
            "wanted_since": Moment(-10), "newer_than": Moment(-10), "attempts": 0,
            "answer": {
                "instance": "web", "status": "ACTIVE", "backend_status": "running",
                "configuration": {}, "evidence": "job", "job_id": 1, "uuid": databases.UUIDS[7],
                "interval": [Moment(-10), Moment(3600)],
            },
        },
    ),
    "a claim of which nobody knows when it was made": Row(
        "Question",
        {
            "uuid": databases.UUIDS[2], "name": "vm11", "priority": 0, "epoch": 1,
            "wanted_since": Moment(-10), "newer_than": Moment(-10), "attempts": 0,
            "token": "0123456789abcdef", "job_id": 4,
        },
    ),
    "a question about nobody of whom lists once told a word that no job can": Row(
        "Question",
        {
            "uuid": databases.UUIDS[6], "name": "WEB", "priority": 2, "epoch": 1,
            "wanted_since": Moment(-70), "newer_than": Moment(-70), "attempts": 1,
            "listed": {
                "since": Moment(-70),
                "first": Moment(-70),
                "seen": {
                    "instance": "WEB", "status": None, "backend_status": "ERROR_nodeoffline",
                    "configuration": {}, "evidence": "list", "job_id": None,
                    "uuid": databases.UUIDS[6], "interval": [Moment(-61), Moment(-60)],
                },
            },
        },
    ),
    "a question that was asked in vain a thousand times": Row(
        "Question",
        {
            "uuid": databases.UUIDS[1], "name": "vm1", "priority": 1, "epoch": 1,
            "wanted_since": Moment(-70), "newer_than": Moment(-70), "attempts": 1000,
            "retry_at": Moment(1800),
        },
    ),
    "a request for one who has no row, and whom nobody had before": Row(
        "Request",
        {
            "kind": "instance", "name": "..", "uuid": databases.UUIDS[5], "state": "open",
            "requested_at": Moment(-301), "absent_at": Moment(-400),
        },
    ),
}  # fmt: skip
"""Rows that the constraints allow and that broke an engine."""


@explored
@given(histories.histories())
def test_from_an_empty_database(history: list[Event]) -> None:
    histories.check(history)


@explored
@given(databases.databases())
def test_from_any_database(generated: list[Row]) -> None:
    histories.check([], generated)


@explored
@given(histories.histories(20), databases.databases(3), st.booleans())
def test_from_any_database_through_any_history(
    history: list[Event], generated: list[Row], lies: bool
) -> None:
    histories.check([("lie",), *history] if lies else history, generated)


@pytest.mark.parametrize("history", FOUND.values(), ids=FOUND)
def test_a_history_that_broke_an_engine(history: list[Event]) -> None:
    histories.check(history)


@pytest.mark.parametrize("row", HALF.values(), ids=HALF)
def test_a_row_that_broke_an_engine(row: Row) -> None:
    histories.check([], [row])


def test_a_wrong_digest_costs_ten_looks_at_most() -> None:
    scene = play()
    scene.calm()
    scene.converge()
    scene.world.crash("web")
    scene.world.tag("vm1", "a")
    scene.happen(("lie",))
    scene.calm()
    scene.converge(11 * scene.engine.tuning.look_period + 200)


def _nothing(scene: Play) -> None:
    assert scene.world.names()


def _settled(scene: Play) -> None:
    scene.calm()
    scene.converge()


def _after_a_crash(scene: Play) -> None:
    _settled(scene)
    scene.world.crash("web")
    scene.world.tag("vm1", "a")
    scene.world.remove("vm11")


@pytest.mark.parametrize(
    ("prepare", "turn"),
    [
        (_nothing, "look_now"),
        (_after_a_crash, "look_now"),
        (_after_a_crash, "beat"),
        (_settled, "feed_now"),
    ],
    ids=["first look", "look after a crash", "beat after a crash", "feed"],
)
def test_a_turn_may_die_anywhere(prepare: histories.Step, turn: str) -> None:
    histories.dies_everywhere(prepare, lambda scene: getattr(scene.engine, turn)())
