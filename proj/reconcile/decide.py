"""Decided: what follows from the recorded and the evidence, by one pure function.

Nothing here reads a clock, a database or a network. ``docs/decisions.md`` is the same table in
prose; the name of a rule is the one that plans, ``explain``, transitions and metrics show.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from proj.observation import Configuration, Interval, Observation, Status


class Rule(StrEnum):
    """Why a decision fell as it did."""

    AGREES = "agrees"
    JOB_CONVICTS = "job-convicts"
    LIST_SUSPECTS = "list-suspects"
    TWO_LISTS_AGREE = "two-lists-agree"
    FIRST_TOLD = "first-told"
    LIST_WORD_STANDS = "list-word-stands"
    STALE = "stale"
    OVERLAPS = "overlaps"
    IN_FLIGHT = "in-flight"
    OPERATION_BEGAN = "operation-began"
    CREATE_FAILED = "create-failed"
    UNKNOWN_TO_US = "unknown-to-us"
    ADOPTED = "adopted"
    RETURNED = "returned"
    MISSING_ONCE = "missing-once"
    MISSING_TWICE = "missing-twice"
    GONE = "gone"


class Action(StrEnum):
    """What is to be done about it."""

    NOTHING = "nothing"
    RECORD = "record"
    """Write the changes, or, where there are none, that the instance was seen as it is recorded."""
    ASK = "ask"
    """The evidence raises, or leaves, a question that only newer evidence can answer."""
    REPORT = "report"
    """Show it to the operator."""


State = tuple[Status, str]
"""A status, and the backend's own word for it."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What the last lists said of one field, where it is not as recorded."""

    value: Any
    since: datetime
    """When the first of all the lists in a row that say so was asked for."""
    first: datetime
    """When the first of them was that no job on the instance has ended since."""
    last: Interval
    """Of the last one."""
    status_since: datetime | None = None
    """When the first of all the lists in a row that say this status was asked for, whatever their
    word for it; None where that is ``since``."""
    acquittals: int = 0
    """How often a job has contradicted it."""
    asleep_until: datetime | None = None
    """A disagreement that lasts is asked about rarer, but within the time of a proof."""

    @property
    def status_begun(self) -> datetime:
        """When the lists in a row began that say this status."""
        return self.status_since or self.since


@dataclass(frozen=True, slots=True)
class Memory:
    """What is kept of the last lists about an instance until it is settled."""

    differs: Mapping[str, Difference] = field(default_factory=dict)
    """By field; ``state`` stands for status and word together."""
    missing: tuple[datetime, datetime] | None = None
    """When the first and the last complete list that lacked it were asked for."""


NOTHING_KEPT = Memory()


@dataclass(frozen=True, slots=True)
class OpenJob:
    """A job in the queue that works on the instance."""

    operation: str
    status: Status | None
    """The API's word for an instance that this is done to."""
    running_since: datetime | None = None
    """End of the reading that first showed it running; None while it only waits."""
    announced: bool = False
    """A host system says so, and no reading has shown it yet."""
    is_believed: bool = True
    """A reading has shown it of late: otherwise it may be over, or may not."""

    @property
    def has_begun(self) -> bool:
        """Whether it is known to be doing something."""
        return self.is_believed and (self.running_since is not None or self.announced)


@dataclass(frozen=True, slots=True)
class Recorded:
    """The database's row for one instance, as the decision needs it."""

    name: str
    state: State
    configuration: Configuration
    observed: Interval | None
    """None where it was read in another epoch: everything is newer."""
    stale_before: datetime | None = None
    """A job on the instance ended then: what was read before says nothing any more."""
    memory: Memory = NOTHING_KEPT
    jobs: tuple[OpenJob, ...] = ()

    @property
    def is_gone(self) -> bool:
        """Whether it is recorded as gone."""
        return self.state[0] is Status.DELETED

    @property
    def was_shown(self) -> bool:
        """Whether the backend ever showed it, and did not take it away since."""
        return bool(self.state[1])


@dataclass(frozen=True, slots=True)
class Listed:
    """A list of all instances has it."""

    seen: Observation
    is_proof: bool = False
    """An earlier list said the same, and the queue was read since: there is no better proof."""

    @property
    def interval(self) -> Interval:
        """When the list was read."""
        return self.seen.interval


@dataclass(frozen=True, slots=True)
class Unlisted:
    """A complete list of all instances lacks it."""

    interval: Interval


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a query job, which held the lock of the instance."""

    seen: Observation

    @property
    def interval(self) -> Interval:
        """From the job's leaving to the result's arrival."""
        return self.seen.interval


@dataclass(frozen=True, slots=True)
class Absent:
    """A 404 for its very name, or somebody else's reply to it."""

    interval: Interval


@dataclass(frozen=True, slots=True)
class QueueRead:
    """The queue was read: the jobs recorded with the instance are those of this reading."""

    interval: Interval


Seen = Listed | Unlisted | Answer | Absent | QueueRead


@dataclass(frozen=True, slots=True)
class Policy:
    """What an operator may choose, and what a backend says about its own words."""

    proof_within: timedelta
    """So long a job may fail to prove what lists say; then lists that agree settle it."""
    gone_after: timedelta
    """The least time between the two lists that prove an instance gone."""
    doubt: timedelta
    """What a job has contradicted is asked about again within so long: it may have become true."""
    adopt: bool = True
    list_only: frozenset[str] = frozenset()
    """Words that two lists settle, and that no job is asked about."""
    ends_only: frozenset[str] = frozenset()
    """Those of them that any operation causes for a while: they wait for its end."""
    job_blind: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """List-only word -> the words a job gives in its place, which neither acquit nor convict."""
    list_fields: frozenset[str] = frozenset()
    """Fields that no job tells."""


DOUBLINGS = 3
"""What a job has contradicted is asked about again after an eighth of ``Policy.doubt``, then after
twice as long each time, up to all of it."""


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
    """What to keep of the lists from now on; None leaves it as it is."""
    confirms: bool = False
    """A job, blind to nothing, has found the instance as it will be recorded."""


def decide(recorded: Recorded | None, seen: Seen, policy: Policy) -> Decision:
    """Return what follows from ``seen`` for the instance recorded as ``recorded``."""
    match seen:
        case Listed():
            if recorded is None and seen.is_proof:
                return _on_stranger(seen.seen, policy, proves=False)
            return _on_list(recorded, seen.seen, policy)
        case Unlisted():
            return _on_missing_row(recorded, seen.interval, policy)
        case Answer():
            return _on_answer(recorded, seen.seen, policy)
        case Absent():
            return _on_missing_name(recorded, seen.interval, policy)
        case QueueRead():
            return _on_reading(recorded, seen.interval, policy)


def told_by(seen: Observation) -> dict[str, Any]:
    """Return every field that the evidence tells, ``state`` for status and word together."""
    told = {"name": seen.instance, **seen.configuration.told()}
    if seen.status is not None:
        told["state"] = (seen.status, seen.backend_status or "")
    return told


def differences(recorded: Recorded, told: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the fields told that are not as recorded."""
    return {name: value for name, value in told.items() if _recorded(recorded, name) != value}


def changes_to(recorded: Recorded | None, told: Mapping[str, Any]) -> tuple[Change, ...]:
    """Name every field that becomes another by what is told, the status first."""
    changes = []
    if "state" in told:
        before = recorded.state if recorded else (None, None)
        pairs = zip(("status", "backend_status"), before, told["state"], strict=True)
        changes += [Change(name, old, new) for name, old, new in pairs if old != new]
    for name in sorted(told.keys() - {"state"}):
        old = _recorded(recorded, name) if recorded else None
        if old != told[name]:
            changes.append(Change(name, old, told[name]))
    return tuple(changes)


def trail(decision: Decision) -> tuple[Change, ...]:
    """Return the changes worth telling: an adopted instance is one event, not one per field."""
    if decision.rule is Rule.FIRST_TOLD:
        return ()
    if decision.rule is Rule.ADOPTED:
        return tuple(change for change in decision.changes if change.field == "status")
    return decision.changes


def under_way(recorded: Recorded) -> Status | None:
    """Return the status of the operation under way, where it has one of its own.

    A creation has none for an instance that was shown: it can only fail.
    """
    if recorded.is_gone:
        return None
    found = [
        job.status
        for job in recorded.jobs
        if job.has_begun and not (job.status is Status.BUILD and recorded.was_shown)
    ]
    return next((status for status in reversed(found) if status is not None), None)


def needs_job(memory: Memory, policy: Policy, *, at: datetime) -> bool:
    """Whether a job could settle anything of what the lists say, and it is time to ask."""
    return any(
        not _is_of_lists(name, it.value, policy)
        and (it.asleep_until is None or it.asleep_until <= at)
        for name, it in memory.differs.items()
    )


def _recorded(recorded: Recorded, name: str) -> Any:
    if name in ("name", "state"):
        return getattr(recorded, name)
    return getattr(recorded.configuration, name)


def _is_of_lists(name: str, value: Any, policy: Policy) -> bool:
    """Whether only lists can tell this."""
    return name in policy.list_fields or (name == "state" and value[1] in policy.list_only)


def _is_stale(recorded: Recorded, interval: Interval) -> bool:
    """Whether a job on the instance has ended since this began, or newer evidence is recorded."""
    if recorded.stale_before is not None and interval.not_before < recorded.stale_before:
        return True
    return recorded.observed is not None and interval.not_after < recorded.observed.not_before


def _overlaps(recorded: Recorded, interval: Interval) -> bool:
    return recorded.observed is not None and not interval.begins_after(recorded.observed)


def _on_list(recorded: Recorded | None, seen: Observation, policy: Policy) -> Decision:
    if recorded is None:
        action = Action.ASK if policy.adopt else Action.REPORT
        return Decision(action, Rule.UNKNOWN_TO_US)
    if _is_stale(recorded, seen.interval):
        return Decision(Action.NOTHING, Rule.STALE)
    found = differences(recorded, told_by(seen))
    if _overlaps(recorded, seen.interval):
        if any(not _is_of_lists(name, value, policy) for name, value in found.items()):
            return Decision(Action.ASK, Rule.OVERLAPS)
        # What only lists tell, the next one tells.
        return Decision(Action.NOTHING, Rule.OVERLAPS if found else Rule.AGREES)
    if not found:
        memory = None if recorded.memory == NOTHING_KEPT else NOTHING_KEPT
        return Decision(Action.NOTHING, Rule.AGREES, memory=memory)
    if all(name in policy.list_fields and _recorded(recorded, name) is None for name in found):
        # Nothing is known that this could contradict, and nobody else could tell it.
        return Decision(Action.RECORD, Rule.FIRST_TOLD, changes_to(recorded, found), NOTHING_KEPT)
    kept = recorded.memory.differs
    differs = {
        name: _continued(name, kept.get(name), value, seen.interval, recorded.stale_before)
        for name, value in found.items()
    }
    memory = Memory(differs)
    if needs_job(memory, policy, at=seen.interval.not_before):
        return Decision(Action.ASK, Rule.LIST_SUSPECTS, memory=memory)
    return Decision(Action.NOTHING, Rule.LIST_SUSPECTS, memory=memory)


def _continued(
    name: str,
    kept: Difference | None,
    value: Any,
    interval: Interval,
    stale_before: datetime | None,
) -> Difference:
    begun = interval.not_before
    if kept is None or kept.last.not_before > begun:
        return Difference(value, begun, begun, interval)
    is_same_status = name == "state" and kept.value[0] is value[0]
    anew = Difference(
        value, begun, begun, interval, status_since=kept.status_begun if is_same_status else None
    )
    if kept.value != value:
        return anew
    if kept.asleep_until is not None and kept.asleep_until <= begun:
        # It is asked about once more, and the time in which a proof may come begins anew.
        return replace(anew, acquittals=kept.acquittals)
    if stale_before is not None and kept.first < stale_before:
        return replace(kept, first=begun, last=interval)
    return replace(kept, last=interval)


def _on_missing_row(recorded: Recorded | None, interval: Interval, policy: Policy) -> Decision:
    if recorded is None:
        return Decision(Action.NOTHING, Rule.AGREES)
    if recorded.is_gone or _is_known_failure(recorded):
        # What earlier lists said of its return is over.
        memory = None if recorded.memory == NOTHING_KEPT else NOTHING_KEPT
        return Decision(Action.NOTHING, Rule.AGREES, memory=memory)
    if _is_stale(recorded, interval) or _overlaps(recorded, interval):
        return Decision(Action.NOTHING, Rule.STALE)
    before = recorded.memory.missing
    first = interval.not_before if before is None else min(before[0], interval.not_before)
    memory = Memory(missing=(first, interval.not_before))
    if before is not None and interval.not_before - first >= policy.gone_after:
        return Decision(Action.ASK, Rule.MISSING_TWICE, memory=memory)
    return Decision(Action.NOTHING, Rule.MISSING_ONCE, memory=memory)


def _is_known_failure(recorded: Recorded) -> bool:
    """Whether this is a creation that failed and left nothing."""
    return recorded.state[0] is Status.ERROR and not recorded.was_shown


def _on_answer(recorded: Recorded | None, seen: Observation, policy: Policy) -> Decision:
    if recorded is None:
        return _on_stranger(seen, policy, proves=True)
    told = told_by(seen)
    if _is_stale(recorded, seen.interval) or (recorded.is_gone and "state" not in told):
        return Decision(Action.ASK, Rule.STALE)
    is_blind = "state" in told and _is_blind(recorded, told["state"][1], policy)
    confirms = "state" in told and not is_blind
    if is_blind:
        del told["state"]
    elif "state" in told:
        told["state"] = (under_way(recorded) or told["state"][0], told["state"][1])
    found = differences(recorded, told)
    if _overlaps(recorded, seen.interval):
        if found:
            return Decision(Action.ASK, Rule.OVERLAPS)
        return Decision(Action.NOTHING, Rule.AGREES, confirms=confirms)
    memory = _after_answer(recorded.memory, told, seen.interval, policy)
    if is_blind and not found:
        return Decision(Action.NOTHING, Rule.LIST_WORD_STANDS, memory=memory)
    rule = Rule.JOB_CONVICTS if found else Rule.AGREES
    if recorded.is_gone:
        rule = Rule.RETURNED
    changes = changes_to(recorded, told)
    if not confirms and not changes:
        return Decision(Action.NOTHING, Rule.AGREES, memory=memory)
    return Decision(Action.RECORD, rule, changes, memory, confirms)


def _on_stranger(seen: Observation, policy: Policy, *, proves: bool) -> Decision:
    if not policy.adopt:
        return Decision(Action.REPORT, Rule.UNKNOWN_TO_US)
    if seen.status is None:
        return Decision(Action.ASK, Rule.UNKNOWN_TO_US)
    changes = changes_to(None, told_by(seen))
    return Decision(Action.RECORD, Rule.ADOPTED, changes, NOTHING_KEPT, confirms=proves)


def _after_answer(
    memory: Memory, told: Mapping[str, Any], interval: Interval, policy: Policy
) -> Memory | None:
    """Keep what the answer could not tell, and note what it contradicted."""
    differs = {}
    for name, it in memory.differs.items():
        if name not in told or _is_of_lists(name, it.value, policy):
            differs[name] = it
        elif it.value != told[name]:
            wait = policy.doubt / 2 ** max(0, DOUBLINGS - it.acquittals)
            differs[name] = replace(
                it, acquittals=it.acquittals + 1, asleep_until=interval.not_after + wait
            )
    settled = Memory(differs)
    return None if settled == memory else settled


def _is_blind(recorded: Recorded, word: str, policy: Policy) -> bool:
    """Whether a job cannot see what the last list said."""
    kept = recorded.memory.differs.get("state")
    last_list_word = kept.value[1] if kept else recorded.state[1]
    return word in policy.job_blind.get(last_list_word, frozenset())


def _on_missing_name(recorded: Recorded | None, interval: Interval, policy: Policy) -> Decision:
    if recorded is None:
        return Decision(Action.NOTHING, Rule.AGREES)
    is_late = _is_stale(recorded, interval) or _overlaps(recorded, interval)
    if recorded.is_gone or _is_known_failure(recorded):
        return Decision(Action.NOTHING, Rule.AGREES, confirms=not is_late)
    if is_late:
        return Decision(Action.ASK, Rule.STALE)
    is_build = not recorded.was_shown
    if any(job.has_begun or is_build for job in recorded.jobs):
        return Decision(Action.NOTHING, Rule.IN_FLIGHT)
    missing = recorded.memory.missing
    if (
        missing is None
        or missing[1] - missing[0] < policy.gone_after
        or interval.not_before <= missing[1]
    ):
        return Decision(Action.NOTHING, Rule.MISSING_ONCE)
    rule, state = (
        (Rule.CREATE_FAILED, (Status.ERROR, "")) if is_build else (Rule.GONE, (Status.DELETED, ""))
    )
    changes = changes_to(recorded, {"state": state})
    return Decision(Action.RECORD, rule, changes, NOTHING_KEPT, confirms=True)


def _on_reading(recorded: Recorded | None, interval: Interval, policy: Policy) -> Decision:
    """Show an operation that has begun, and settle what two lists agree on."""
    if recorded is None:
        return Decision(Action.NOTHING, Rule.AGREES)
    status = under_way(recorded)
    if status is not None:
        if status is recorded.state[0]:
            return Decision(Action.NOTHING, Rule.IN_FLIGHT)
        began = (Change("status", recorded.state[0], status),)
        return Decision(Action.RECORD, Rule.OPERATION_BEGAN, began)
    kept = recorded.memory.differs
    settled = {
        name: it.value
        for name, it in kept.items()
        if _is_settled(recorded, name, it, interval, policy)
    }
    if recorded.is_gone and "state" not in settled:
        # What does not exist has no configuration that could change.
        settled = {}
    if settled:
        rule = Rule.RETURNED if recorded.is_gone else Rule.TWO_LISTS_AGREE
        left = Memory({name: it for name, it in kept.items() if name not in settled})
        return Decision(Action.RECORD, rule, changes_to(recorded, settled), left)
    return Decision(Action.NOTHING, Rule.LIST_SUSPECTS if kept else Rule.AGREES)


def _is_settled(
    recorded: Recorded, name: str, it: Difference, reading: Interval, policy: Policy
) -> bool:
    """Whether lists agree on it, and a reading of the queue that began after the last of them.

    Either there was time for a proof, and every list in it said the same, whatever jobs came and
    went; or no job can prove it, and two lists say so that no job on the instance came between.
    """
    ended, begun = recorded.stale_before, it.last.not_before
    if it.asleep_until is not None or it.last.not_after >= reading.not_before:
        return False
    if ended is not None and begun < ended:
        return False
    if name == "state" and _is_stale(recorded, it.last):
        return False
    is_worked_on = any(job.has_begun for job in recorded.jobs)
    if is_worked_on and _waits_for_end(name, it.value, policy):
        return False
    if it.since < begun and begun - it.since >= policy.proof_within:
        return True
    is_undisturbed = it.first < begun and (ended is None or it.first >= ended)
    return is_undisturbed and not is_worked_on and _is_of_lists(name, it.value, policy)


def _waits_for_end(name: str, value: Any, policy: Policy) -> bool:
    """Whether any operation may make it seem so for a while."""
    return name == "name" or (name == "state" and value[1] in policy.ends_only)
