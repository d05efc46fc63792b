"""Decided: what follows from the recorded and the observed, by one pure function.

Nothing here reads a clock, a database or a network. ``RULES`` in ``docs/decisions.md`` is the
same table in prose; the name of a rule is the one that plans, ``explain``, transitions and
metrics show.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from proj.observation import (
    Configuration,
    Evidence,
    Interval,
    JobEnd,
    Observation,
    Status,
)


class Rule(StrEnum):
    """Why a decision fell as it did."""

    AGREES = "agrees"
    JOB_CONVICTS = "job-convicts"
    LIST_SUSPECTS = "list-suspects"
    FIRST_OF_TWO_LISTS = "first-of-two-lists"
    TWO_LISTS_AGREE = "two-lists-agree"
    LIST_WORD_STANDS = "list-word-stands"
    STALE = "stale"
    OVERLAPS = "overlaps"
    IN_FLIGHT = "in-flight"
    OPERATION_BEGAN = "operation-began"
    OPERATION_ENDED = "operation-ended"
    CREATE_FAILED = "create-failed"
    UNKNOWN_TO_US = "unknown-to-us"
    ADOPTED = "adopted"
    RETURNED = "returned"
    MISSING_ONCE = "missing-once"
    MISSING_TWICE = "missing-twice"
    GONE = "gone"
    REMOVED = "removed"


class Action(StrEnum):
    """What is to be done about it."""

    NOTHING = "nothing"
    RECORD = "record"
    """Write the changes."""
    ASK = "ask"
    """Issue a query job: the evidence raises a question that only a job can answer."""
    ASK_BY_NAME = "ask-by-name"
    """Ask for this very name: a 404 is the last proof that is missing."""
    REMEMBER = "remember"
    """Keep what the list said until a second list agrees."""
    REPORT = "report"
    """Show it to the operator."""


@dataclass(frozen=True, slots=True)
class Operation:
    """A job of Ganeti's that works, or worked, on an instance."""

    name: str
    job_id: int | None
    since: datetime
    end: JobEnd | None = None
    ended_at: datetime | None = None
    """When we learnt of its end, not when it ended."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What is kept about an instance until a question about it is settled."""

    operation: Operation | None = None
    witness: tuple[str, Interval] | None = None
    """The word of the last list, where it differed from the recorded one."""
    missing: tuple[datetime, datetime] | None = None
    """When the first and the last complete list that lacked the instance began."""


SETTLED = Memory()


@dataclass(frozen=True, slots=True)
class Recorded:
    """The database's row for one instance, as the decision needs it."""

    status: Status
    backend_status: str
    configuration: Configuration
    observed: Interval
    memory: Memory = SETTLED


@dataclass(frozen=True, slots=True)
class Absence:
    """An instance was not there: not in a complete list, or a 404 for its very name."""

    by_name: bool
    interval: Interval


@dataclass(frozen=True, slots=True)
class Working:
    """An open job in the queue works on the instance."""

    operation: str
    job_id: int | None
    interval: Interval
    announced: bool = False
    """The host system says so; its job may not have an id yet."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that worked on the instance is final."""

    operation: str
    job_id: int
    end: JobEnd
    interval: Interval


Seen = Observation | Absence | Working | Ended


@dataclass(frozen=True, slots=True)
class Policy:
    """What an operator may choose, and what a backend says about its own words."""

    adopt: bool = True
    gone_after: timedelta = timedelta(seconds=30)
    """The least time between the two lists that prove an instance gone."""
    operation_grace: timedelta = timedelta(hours=1)
    """How long an announced operation may go without a job id."""
    list_only: frozenset[str] = frozenset()
    """Words that only the list of all instances can give; two lists must agree on them."""
    job_blind: Mapping[str, frozenset[str]] | None = None
    """List-only word -> the words a job gives in its place, which neither acquit nor convict."""


@dataclass(frozen=True, slots=True)
class Change:
    """One field that is to change."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, why, and which fields change by it."""

    action: Action
    rule: Rule
    changes: tuple[Change, ...] = ()
    memory: Memory | None = None
    """What to keep from now on; None leaves it as it is."""


TRANSITIONAL: Mapping[str, Status] = {
    "CREATE": Status.BUILD,
    "REBOOT": Status.REBOOT,
    "REINSTALL": Status.REBUILD,
}


def decide(recorded: Recorded | None, seen: Seen, policy: Policy) -> Decision:
    """Return what follows from ``seen`` for the instance recorded as ``recorded``."""
    match seen:
        case Observation():
            return _on_observation(recorded, seen, policy)
        case Absence():
            return _on_absence(recorded, seen, policy)
        case Working():
            return _on_working(recorded, seen, policy)
        case Ended():
            return _on_ended(recorded, seen)


def differences(recorded: Recorded, seen: Observation) -> tuple[Change, ...]:
    """Name every field in which the observed departs from the recorded, status first."""
    changes = []
    if seen.status is not None:
        if seen.status is not recorded.status:
            changes.append(Change("status", recorded.status, seen.status))
        if seen.backend_status != recorded.backend_status:
            changes.append(Change("backend_status", recorded.backend_status, seen.backend_status))
    changes += configuration_changes(recorded.configuration, seen.configuration)
    return tuple(changes)


def configuration_changes(before: Configuration, after: Configuration) -> list[Change]:
    """Name the fields that differ; a field the evidence does not tell is not compared."""
    pairs = (
        (field.name, getattr(before, field.name), getattr(after, field.name))
        for field in fields(Configuration)
    )
    return [Change(name, old, new) for name, old, new in pairs if new is not None and old != new]


def trail(decision: Decision) -> tuple[Change, ...]:
    """Return the changes worth telling: an adopted instance is one event, not one per field."""
    if decision.rule is Rule.ADOPTED:
        return tuple(change for change in decision.changes if change.field == "status")
    return decision.changes


def _on_observation(recorded: Recorded | None, seen: Observation, policy: Policy) -> Decision:
    proves = seen.evidence is not Evidence.LIST and seen.status is not None
    if recorded is None:
        return _on_stranger(seen, policy, proves=proves)
    if seen.interval.not_after < recorded.observed.not_before:
        return Decision(Action.NOTHING, Rule.STALE)
    operation = recorded.memory.operation
    if _is_open(operation, seen.interval, policy):
        return Decision(Action.NOTHING, Rule.IN_FLIGHT)
    changes = differences(recorded, seen)
    if not seen.interval.begins_after(recorded.observed):
        if changes:
            return Decision(Action.ASK, Rule.OVERLAPS)
        return Decision(Action.NOTHING, Rule.AGREES)
    if operation is not None:
        if proves and _began_after_end(operation, seen.interval):
            return Decision(Action.RECORD, Rule.OPERATION_ENDED, changes, SETTLED)
        return Decision(Action.ASK, Rule.OPERATION_ENDED)
    if seen.evidence is Evidence.LIST:
        return _on_list(recorded, seen, changes, policy)
    return _on_job(recorded, seen, changes, policy)


def _on_stranger(seen: Observation, policy: Policy, *, proves: bool) -> Decision:
    if not policy.adopt:
        return Decision(Action.REPORT, Rule.UNKNOWN_TO_US)
    if not proves:
        return Decision(Action.ASK, Rule.UNKNOWN_TO_US)
    changes = (
        Change("status", None, seen.status),
        Change("backend_status", None, seen.backend_status),
        *configuration_changes(Configuration(), seen.configuration),
    )
    return Decision(Action.RECORD, Rule.ADOPTED, changes)


def _on_list(
    recorded: Recorded, seen: Observation, changes: tuple[Change, ...], policy: Policy
) -> Decision:
    if not changes:
        if recorded.memory == SETTLED:
            return Decision(Action.NOTHING, Rule.AGREES)
        return Decision(Action.REMEMBER, Rule.AGREES, memory=SETTLED)
    word = seen.backend_status or ""
    if word == recorded.backend_status:
        return Decision(Action.ASK, Rule.LIST_SUSPECTS, memory=_if_new(SETTLED, recorded))
    memory = Memory(witness=(word, seen.interval))
    if word not in policy.list_only:
        # Only where a job cannot see what was recorded does it matter that the list moved on.
        moved_on = recorded.backend_status in (policy.job_blind or {})
        kept = memory if moved_on else SETTLED
        return Decision(Action.ASK, Rule.LIST_SUSPECTS, memory=_if_new(kept, recorded))
    witness = recorded.memory.witness
    if witness is not None and _is_second(word, seen.interval, witness):
        state = tuple(c for c in changes if c.field in ("status", "backend_status"))
        return Decision(Action.RECORD, Rule.TWO_LISTS_AGREE, state, SETTLED)
    return Decision(Action.REMEMBER, Rule.FIRST_OF_TWO_LISTS, memory=memory)


def _if_new(memory: Memory, recorded: Recorded) -> Memory | None:
    return None if memory == recorded.memory else memory


def _on_job(
    recorded: Recorded, seen: Observation, changes: tuple[Change, ...], policy: Policy
) -> Decision:
    if recorded.status is Status.DELETED and seen.status is None:
        return Decision(Action.ASK, Rule.RETURNED)
    if seen.status is None:
        rule = Rule.JOB_CONVICTS if changes else Rule.AGREES
        action = Action.RECORD if changes else Action.NOTHING
        return Decision(action, rule, changes)
    if _is_blind(recorded, seen, policy):
        return Decision(Action.NOTHING, Rule.LIST_WORD_STANDS)
    if not changes:
        return Decision(Action.RECORD, Rule.AGREES, memory=SETTLED)
    rule = Rule.RETURNED if recorded.status is Status.DELETED else Rule.JOB_CONVICTS
    return Decision(Action.RECORD, rule, changes, SETTLED)


def _is_second(word: str, interval: Interval, witness: tuple[str, Interval]) -> bool:
    witnessed, earlier = witness
    return witnessed == word and interval.begins_after(earlier)


def _is_blind(recorded: Recorded, seen: Observation, policy: Policy) -> bool:
    """Whether a job cannot see what the last list said."""
    witness = recorded.memory.witness
    last_list_word = witness[0] if witness else recorded.backend_status
    blind_words = (policy.job_blind or {}).get(last_list_word, frozenset())
    return seen.backend_status in blind_words


def _on_absence(recorded: Recorded | None, seen: Absence, policy: Policy) -> Decision:
    if recorded is None or recorded.status is Status.DELETED:
        return Decision(Action.NOTHING, Rule.AGREES)
    if not seen.interval.begins_after(recorded.observed):
        return Decision(Action.NOTHING, Rule.STALE)
    operation = recorded.memory.operation
    if _is_open(operation, seen.interval, policy):
        return Decision(Action.NOTHING, Rule.IN_FLIGHT)
    if operation is not None and operation.end is not None:
        if not _began_after_end(operation, seen.interval):
            return Decision(Action.NOTHING, Rule.OPERATION_ENDED)
        if operation.name == "CREATE" and operation.end is JobEnd.FAILED:
            changes = (Change("status", recorded.status, Status.ERROR),)
            return Decision(Action.RECORD, Rule.CREATE_FAILED, changes, SETTLED)
        if operation.name == "REMOVE" and operation.end is JobEnd.SUCCESS:
            if not seen.by_name:
                return Decision(Action.ASK_BY_NAME, Rule.REMOVED)
            return Decision(Action.RECORD, Rule.REMOVED, _deleted(recorded), SETTLED)
    if seen.by_name:
        return _on_missing_name(recorded, seen, policy)
    return _on_missing_row(recorded, seen, policy)


def _on_missing_name(recorded: Recorded, seen: Absence, policy: Policy) -> Decision:
    missing = recorded.memory.missing
    if (
        missing is not None
        and missing[1] - missing[0] >= policy.gone_after
        and seen.interval.not_before > missing[1]
    ):
        return Decision(Action.RECORD, Rule.GONE, _deleted(recorded), SETTLED)
    return Decision(Action.NOTHING, Rule.MISSING_ONCE)


def _on_missing_row(recorded: Recorded, seen: Absence, policy: Policy) -> Decision:
    before = recorded.memory.missing
    first = before[0] if before else seen.interval.not_before
    memory = replace(recorded.memory, witness=None, missing=(first, seen.interval.not_before))
    if before is not None and seen.interval.not_before - first >= policy.gone_after:
        return Decision(Action.ASK_BY_NAME, Rule.MISSING_TWICE, memory=memory)
    return Decision(Action.REMEMBER, Rule.MISSING_ONCE, memory=memory)


def _deleted(recorded: Recorded) -> tuple[Change, ...]:
    changes = [Change("status", recorded.status, Status.DELETED)]
    if recorded.backend_status:
        changes.append(Change("backend_status", recorded.backend_status, ""))
    return tuple(changes)


def _on_working(recorded: Recorded | None, seen: Working, policy: Policy) -> Decision:
    memory = Memory(Operation(seen.operation, seen.job_id, seen.interval.not_before))
    status = TRANSITIONAL.get(seen.operation)
    if recorded is None:
        if status is not Status.BUILD:
            return Decision(Action.NOTHING, Rule.IN_FLIGHT)
        if not (policy.adopt or seen.announced):
            return Decision(Action.REPORT, Rule.UNKNOWN_TO_US)
        began = (Change("status", None, status),)
        return Decision(Action.RECORD, Rule.OPERATION_BEGAN, began, memory)
    known = recorded.memory.operation
    if known is not None and known.job_id is not None:
        if known.job_id == seen.job_id:
            return Decision(Action.NOTHING, Rule.IN_FLIGHT)
        if known.end is None and (seen.job_id is None or known.job_id > seen.job_id):
            return Decision(Action.NOTHING, Rule.IN_FLIGHT)
    if not seen.interval.begins_after(recorded.observed):
        return Decision(Action.NOTHING, Rule.STALE)
    changes: tuple[Change, ...] = ()
    if status is not None and status is not recorded.status:
        changes = (Change("status", recorded.status, status),)
    return Decision(Action.RECORD, Rule.OPERATION_BEGAN, changes, memory)


def _on_ended(recorded: Recorded | None, seen: Ended) -> Decision:
    if recorded is None:
        # Whoever else it may be, the next list shows.
        is_new = seen.operation == "CREATE" and seen.end is not JobEnd.FAILED
        return Decision(Action.ASK if is_new else Action.NOTHING, Rule.OPERATION_ENDED)
    known = recorded.memory.operation
    if known is not None and known.job_id not in (None, seen.job_id):
        if known.end is None:
            return Decision(Action.NOTHING, Rule.IN_FLIGHT)
        if (known.job_id or 0) > seen.job_id:
            return Decision(Action.ASK, Rule.OPERATION_ENDED)
    elif known is not None and known.end is not None:
        return Decision(Action.ASK, Rule.OPERATION_ENDED)
    since = known.since if known is not None else seen.interval.not_before
    ended = Operation(seen.operation, seen.job_id, since, seen.end, seen.interval.not_after)
    memory = replace(recorded.memory, operation=ended)
    return Decision(Action.ASK, Rule.OPERATION_ENDED, memory=memory)


def _is_open(operation: Operation | None, interval: Interval, policy: Policy) -> bool:
    """Whether an operation is still to be waited for."""
    if operation is None or operation.end is not None:
        return False
    if operation.job_id is not None:
        return True
    return interval.not_before - operation.since < policy.operation_grace


def _began_after_end(operation: Operation, interval: Interval) -> bool:
    return operation.ended_at is None or interval.not_before > operation.ended_at
