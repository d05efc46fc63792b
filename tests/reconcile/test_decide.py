"""The decision: each rule once in words, then the whole table at once."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from proj.ganeti.states import JOB_BLIND, LIST_ONLY, STATUS_OF_WORD
from proj.observation import Configuration, Evidence, Interval, JobEnd, Observation, Status
from proj.reconcile.decide import (
    SETTLED,
    Absence,
    Action,
    Change,
    Decision,
    Ended,
    Memory,
    Operation,
    Policy,
    Recorded,
    Rule,
    Seen,
    Working,
    decide,
)

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
POLICY = Policy(list_only=LIST_ONLY, job_blind=JOB_BLIND)


def at(seconds: float, *, lasting: float = 1) -> Interval:
    begin = NOON + timedelta(seconds=seconds)
    return Interval(begin, begin + timedelta(seconds=lasting))


def recorded(word: str = "running", **values: object) -> Recorded:
    status = STATUS_OF_WORD[word]
    row = Recorded(status, word, Configuration(memory=4), at(0))
    return replace(row, **values)  # type: ignore[arg-type]


def seen(
    word: str = "running",
    evidence: Evidence = Evidence.JOB,
    interval: Interval = at(10),  # noqa: B008
    memory: int | None = 4,
) -> Observation:
    configuration = Configuration(memory=memory)
    return Observation("vm1", STATUS_OF_WORD[word], word, configuration, evidence, interval, 7)


def outcome(known: Recorded | None, observed: Seen, policy: Policy = POLICY) -> tuple[str, str]:
    decision = decide(known, observed, policy)
    return decision.action, decision.rule


def test_a_job_that_agrees_confirms_and_changes_nothing() -> None:
    decision = decide(recorded(), seen(), POLICY)
    assert (decision.action, decision.rule, decision.changes) == ("record", "agrees", ())


def test_a_job_that_differs_convicts_field_by_field() -> None:
    decision = decide(recorded(), seen("ERROR_down", memory=8), POLICY)
    assert decision.rule is Rule.JOB_CONVICTS
    assert decision.changes == (
        Change("status", Status.ACTIVE, Status.STOPPED),
        Change("backend_status", "running", "ERROR_down"),
        Change("memory", 4, 8),
    )


def test_a_list_that_differs_only_raises_the_question() -> None:
    assert outcome(recorded(), seen("ERROR_down", Evidence.LIST)) == ("ask", "list-suspects")
    assert outcome(recorded(), seen("running", Evidence.LIST, memory=8)) == (
        "ask",
        "list-suspects",
    )


@pytest.mark.parametrize("word", sorted(LIST_ONLY))
def test_a_word_that_no_job_can_give_takes_two_lists_that_agree(word: str) -> None:
    first = decide(recorded(), seen(word, Evidence.LIST), POLICY)
    assert (first.action, first.rule) == ("remember", "first-of-two-lists")
    assert first.memory is not None
    known = recorded(memory=first.memory)
    assert outcome(known, seen(word, Evidence.LIST, at(10.5))) == (
        "remember",
        "first-of-two-lists",
    )
    assert outcome(known, seen(word, Evidence.LIST, at(20))) == ("record", "two-lists-agree")


@pytest.mark.parametrize("word", sorted(JOB_BLIND["ERROR_wrongnode"]))
def test_a_job_that_asks_the_primary_only_does_not_acquit_a_wrong_node(word: str) -> None:
    assert outcome(recorded("ERROR_wrongnode"), seen(word)) == ("nothing", "list-word-stands")
    witness = Memory(witness=("ERROR_wrongnode", at(2)))
    assert outcome(recorded(memory=witness), seen(word)) == ("nothing", "list-word-stands")


def test_a_list_without_the_wrong_node_lets_the_job_acquit() -> None:
    known = recorded("ERROR_wrongnode")
    first = decide(known, seen("ERROR_down", Evidence.LIST), POLICY)
    assert first.action is Action.ASK
    assert first.memory is not None
    known = replace(known, memory=first.memory)
    assert outcome(known, seen("ERROR_down", interval=at(20))) == ("record", "job-convicts")
    assert outcome(recorded("ERROR_wrongnode"), seen("running")) == ("record", "job-convicts")


def test_an_older_observation_is_stale_and_one_that_overlaps_is_asked_again() -> None:
    known = recorded(observed=at(10))
    assert outcome(known, seen("ERROR_down", interval=at(5))) == ("nothing", "stale")
    assert outcome(known, seen("ERROR_down", interval=at(9.5))) == ("ask", "overlaps")
    assert outcome(known, seen("ERROR_down", interval=at(10.5))) == ("ask", "overlaps")
    assert outcome(known, seen(interval=at(10.5))) == ("nothing", "agrees")


def test_a_static_query_changes_the_configuration_and_no_state() -> None:
    static = replace(seen(memory=8), status=None, backend_status=None)
    decision = decide(recorded("ADMIN_down"), static, POLICY)
    assert decision.changes == (Change("memory", 4, 8),)
    assert outcome(None, static) == ("ask", "unknown-to-us")


OPEN = Operation("REBOOT", 5, NOON)
DONE = replace(OPEN, end=JobEnd.SUCCESS, ended_at=NOON + timedelta(seconds=9))


@pytest.mark.parametrize("evidence", list(Evidence))
@pytest.mark.parametrize("word", sorted(STATUS_OF_WORD))
def test_in_flight_is_not_drift(evidence: Evidence, word: str) -> None:
    known = recorded(status=Status.REBOOT, memory=Memory(operation=OPEN))
    assert outcome(known, seen(word, evidence)) == ("nothing", "in-flight")


def test_a_transitional_state_ends_by_a_job_that_was_asked_after_the_end() -> None:
    known = recorded(status=Status.REBOOT, memory=Memory(operation=DONE))
    decision = decide(known, seen(), POLICY)
    assert (decision.action, decision.rule) == ("record", "operation-ended")
    assert decision.changes == (Change("status", Status.REBOOT, Status.ACTIVE),)
    assert decision.memory == SETTLED
    assert outcome(known, seen(interval=at(8))) == ("ask", "operation-ended")
    assert outcome(known, seen(evidence=Evidence.LIST)) == ("ask", "operation-ended")


@pytest.mark.parametrize(
    ("operation", "status"),
    [
        ("CREATE", Status.BUILD),
        ("REBOOT", Status.REBOOT),
        ("REINSTALL", Status.REBUILD),
        ("SHUTDOWN", None),
        ("MIGRATE", None),
    ],
)
def test_an_open_job_shows_as_the_transitional_state_of_its_kind(
    operation: str, status: Status | None
) -> None:
    decision = decide(recorded(), Working(operation, 5, at(10)), POLICY)
    assert decision.rule is Rule.OPERATION_BEGAN
    assert decision.changes == ((Change("status", Status.ACTIVE, status),) if status else ())
    assert decision.memory == Memory(operation=Operation(operation, 5, at(10).not_before))


def test_an_instance_being_created_is_adopted_as_build() -> None:
    decision = decide(None, Working("CREATE", 5, at(10)), POLICY)
    assert decision.changes == (Change("status", None, Status.BUILD),)
    assert outcome(None, Working("REBOOT", 5, at(10))) == ("nothing", "in-flight")


def test_the_end_of_a_job_is_remembered_and_its_instance_asked() -> None:
    known = recorded(status=Status.REBOOT, memory=Memory(operation=OPEN))
    decision = decide(known, Ended("REBOOT", 5, JobEnd.FAILED, at(8)), POLICY)
    assert (decision.action, decision.rule) == ("ask", "operation-ended")
    assert decision.memory is not None
    assert decision.memory.operation == replace(OPEN, end=JobEnd.FAILED, ended_at=at(8).not_after)
    assert outcome(known, Ended("REBOOT", 6, JobEnd.SUCCESS, at(8))) == ("nothing", "in-flight")


MISSING = Absence(by_name=False, interval=at(10))


def test_gone_takes_two_lists_some_time_apart_and_a_404() -> None:
    first = decide(recorded(), MISSING, POLICY)
    assert (first.action, first.rule) == ("remember", "missing-once")
    assert first.memory is not None
    known = recorded(memory=first.memory)
    assert outcome(known, Absence(True, at(12))) == ("nothing", "missing-once")
    assert outcome(known, Absence(False, at(20))) == ("remember", "missing-once")
    second = decide(known, Absence(False, at(41)), POLICY)
    assert (second.action, second.rule) == ("ask-by-name", "missing-twice")
    assert second.memory is not None
    known = recorded(memory=second.memory)
    gone = decide(known, Absence(True, at(43)), POLICY)
    assert (gone.action, gone.rule) == ("record", "gone")
    assert gone.changes[0] == Change("status", Status.ACTIVE, Status.DELETED)
    assert outcome(known, Absence(True, at(40))) == ("nothing", "missing-once")


def test_one_slow_list_is_not_two() -> None:
    first = decide(recorded(), Absence(False, at(10, lasting=60)), POLICY)
    assert first.memory is not None
    known = recorded(memory=first.memory)
    assert outcome(known, Absence(True, at(80))) == ("nothing", "missing-once")


def test_an_instance_that_a_list_shows_again_is_no_longer_missing() -> None:
    known = recorded(memory=Memory(missing=(NOON, NOON)))
    decision = decide(known, seen(evidence=Evidence.LIST), POLICY)
    assert (decision.action, decision.memory) == ("remember", SETTLED)


def test_a_row_newer_than_the_list_is_undecided() -> None:
    assert outcome(recorded(observed=at(9.5)), MISSING) == ("nothing", "stale")
    assert outcome(recorded(observed=at(30)), MISSING) == ("nothing", "stale")


def build(job_id: int | None, end: JobEnd | None = None) -> Recorded:
    ended_at = None if end is None else NOON + timedelta(seconds=5)
    operation = Operation("CREATE", job_id, NOON, end, ended_at)
    return recorded(status=Status.BUILD, backend_status="", memory=Memory(operation=operation))


def test_a_build_is_waited_for_while_its_job_is_open_or_not_yet_known() -> None:
    assert outcome(build(5), MISSING) == ("nothing", "in-flight")
    assert outcome(build(None), MISSING) == ("nothing", "in-flight")
    late = Absence(False, at(7200))
    assert outcome(build(None), late) == ("remember", "missing-once")


def test_a_build_whose_job_failed_is_an_error() -> None:
    decision = decide(build(5, JobEnd.FAILED), MISSING, POLICY)
    assert decision.rule is Rule.CREATE_FAILED
    assert decision.changes == (Change("status", Status.BUILD, Status.ERROR),)


def test_a_build_whose_job_is_lost_is_observed_and_not_condemned() -> None:
    assert outcome(build(5, JobEnd.LOST), MISSING) == ("remember", "missing-once")


def test_a_removed_instance_is_deleted_by_its_job_and_a_404() -> None:
    operation = replace(DONE, name="REMOVE")
    known = recorded(memory=Memory(operation=operation))
    assert outcome(known, MISSING) == ("ask-by-name", "removed")
    assert outcome(known, Absence(True, at(10))) == ("record", "removed")
    failed = recorded(memory=Memory(operation=replace(operation, end=JobEnd.FAILED)))
    assert outcome(failed, MISSING) == ("remember", "missing-once")


def test_an_instance_unknown_to_us_is_adopted_by_a_job_or_only_reported() -> None:
    assert outcome(None, seen(evidence=Evidence.LIST)) == ("ask", "unknown-to-us")
    assert outcome(None, seen()) == ("record", "adopted")
    report = replace(POLICY, adopt=False)
    assert outcome(None, seen(), report) == ("report", "unknown-to-us")
    assert outcome(None, Working("CREATE", 5, at(10)), report) == ("report", "unknown-to-us")


def test_a_deleted_instance_that_is_seen_again_returns() -> None:
    known = recorded(status=Status.DELETED, backend_status="")
    assert outcome(known, MISSING) == ("nothing", "agrees")
    assert outcome(known, seen()) == ("record", "returned")
    assert outcome(known, seen(evidence=Evidence.LIST)) == ("ask", "list-suspects")


MEMORIES = (
    SETTLED,
    Memory(witness=("ERROR_wrongnode", at(2))),
    Memory(missing=(NOON, NOON + timedelta(seconds=40))),
    *(
        Memory(operation=Operation(name, job_id, NOON, end, ended_at))
        for name in ("CREATE", "REBOOT", "REMOVE", "SHUTDOWN")
        for job_id in (None, 5)
        for end, ended_at in ((None, None), *((e, at(5).not_after) for e in JobEnd))
    ),
)
INTERVALS = (at(-5), at(0.5), at(10), at(7200))
OBSERVED: tuple[Seen, ...] = (
    *(seen(word, e, i) for word in STATUS_OF_WORD for e in Evidence for i in INTERVALS),
    *(
        replace(seen(interval=i), status=None, backend_status=None, evidence=e)
        for i in INTERVALS
        for e in (Evidence.JOB, Evidence.FOREIGN_JOB)
    ),
    *(Absence(by_name, i) for by_name in (False, True) for i in INTERVALS),
    *(Working(o, 5, i) for o in ("CREATE", "REBOOT", "SHUTDOWN") for i in INTERVALS),
    *(Ended(o, 5, end, i) for o in ("CREATE", "REMOVE") for end in JobEnd for i in INTERVALS),
)
KNOWN = (
    None,
    *(
        Recorded(status, word, Configuration(memory=4), at(0), memory)
        for status in Status
        for word in ("", "running", "ERROR_wrongnode")
        for memory in MEMORIES
    ),
)


def broken_promise(known: Recorded | None, observed: Seen, decision: Decision) -> str:
    """Return the promise that a decision breaks, if any."""
    status = next((c for c in decision.changes if c.field == "status"), None)
    if decision.changes and decision.action is not Action.RECORD:
        return "only what is recorded changes anything"
    if known is None:
        return ""
    if decision.changes and not observed.interval.begins_after(known.observed):
        return "nothing older than the recorded changes it"
    if status is not None and isinstance(observed, Observation):
        if observed.status is None:
            return "what says nothing about the state changes none"
        by_list = observed.evidence is Evidence.LIST
        if by_list and observed.backend_status not in LIST_ONLY:
            return "a list convicts of its own words only"
    if status is not None and status.after is Status.DELETED:
        if not (isinstance(observed, Absence) and observed.by_name):
            return "nothing is deleted without a 404"
        operation = known.memory.operation
        removed = operation and operation.name == "REMOVE" and operation.end is JobEnd.SUCCESS
        if not (removed or known.memory.missing):
            return "nothing is deleted without two lists or its REMOVE job"
    operation = known.memory.operation
    is_open = operation and operation.job_id and operation.end is None
    if is_open and decision.changes and not isinstance(observed, Working):
        return "in flight is not drift"
    return ""


def test_the_table_is_complete_and_keeps_every_promise() -> None:
    for known, observed in product(KNOWN, OBSERVED):
        decision = decide(known, observed, POLICY)
        assert not broken_promise(known, observed, decision), (known, observed, decision)
