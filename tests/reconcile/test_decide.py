"""The decision as a table: each row says what is recorded, what is seen, what follows, and why."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest

from proj.ganeti.states import JOB_BLIND, LIST_ONLY, STATUS_OF_WORD
from proj.observation import Configuration, Interval, Observation, Status
from proj.reconcile import decide as room
from proj.reconcile.decide import (
    NOTHING_KEPT,
    Absent,
    Action,
    Answer,
    Change,
    Decision,
    Difference,
    Listed,
    Memory,
    OpenJob,
    Policy,
    QueueRead,
    Recorded,
    Rule,
    Seen,
    Unlisted,
    under_way,
)
from tests.world.engine import ganeti_policy, plain_policy

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
POLICY = ganeti_policy()
REPORT = replace(POLICY, adopt=False)


def moment(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def at(seconds: float, *, lasting: float = 1) -> Interval:
    """Return what was read so many seconds after the recorded began to be read."""
    return Interval(moment(seconds), moment(seconds + lasting))


def recorded(word: str = "running", **values: Any) -> Recorded:
    """Return an instance that was read from second 0 to second 1."""
    state = (STATUS_OF_WORD[word], word)
    return replace(Recorded("vm1", state, Configuration(memory=4), at(0)), **values)


GONE = recorded(state=(Status.DELETED, ""))
BUILD = recorded(state=(Status.BUILD, ""))
FAILED = recorded(state=(Status.ERROR, ""))


def told(
    word: str | None = "running", seconds: float = 10, *, name: str = "vm1", **made_of: Any
) -> Observation:
    """Return what is read at a second; a word of None tells no state."""
    return Observation(
        instance=name,
        status=None if word is None else STATUS_OF_WORD[word],
        backend_status=word,
        configuration=Configuration(**({"memory": 4} | made_of)),
        interval=at(seconds),
    )


def listed(*arguments: Any, is_proof: bool = False, **made_of: Any) -> Listed:
    return Listed(told(*arguments, **made_of), is_proof)


def answer(*arguments: Any, **made_of: Any) -> Answer:
    return Answer(told(*arguments, **made_of))


def state_of(word: str) -> tuple[Status, str]:
    return STATUS_OF_WORD[word], word


def differs(
    value: Any, since: float = 10, last: float | None = None, *, anew: float | None = None,
    **values: Any,
) -> Difference:  # fmt: skip
    """Return what lists have said since a second, and, with no job between, since ``anew``."""
    first = moment(since if anew is None else anew)
    return Difference(value, moment(since), first, at(since if last is None else last), **values)


def keeping(**differs: Difference) -> Memory:
    return Memory(differs)


def state_kept(word: str, *seconds: float, **values: Any) -> Memory:
    return keeping(state=differs(state_of(word), *seconds, **values))


def missing(first: float, last: float) -> Memory:
    return Memory(missing=(moment(first), moment(last)))


def job(
    status: Status | None = None, since: float | None = 5, *, operation: str = "X", **values: bool
) -> OpenJob:
    """Return a job that was seen running at a second, or only waits."""
    return OpenJob(operation, status, None if since is None else moment(since), **values)


WAITING = job(since=None)
ANNOUNCED = job(since=None, announced=True)


def moved(before: str, after: str) -> tuple[Change, ...]:
    """Return the changes of a state from one word to another; "" is a state before any word."""
    pairs = zip(("status", "backend_status"), state_of(before), state_of(after), strict=True)
    return tuple(Change(name, old, new) for name, old, new in pairs if old != new)


CRASHES = moved("running", "ERROR_down")
MEMORY = Change("memory", 4, 8)


def nothing(rule: Rule, memory: Memory | None = None, *, confirms: bool = False) -> Decision:
    return Decision(Action.NOTHING, rule, memory=memory, confirms=confirms)


def ask(rule: Rule, memory: Memory | None = None) -> Decision:
    return Decision(Action.ASK, rule, memory=memory)


def record(
    rule: Rule, *changes: Change, memory: Memory | None = None, confirms: bool = False
) -> Decision:
    return Decision(Action.RECORD, rule, changes, memory, confirms)


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    reason: str
    recorded: Recorded | None
    seen: Seen
    expected: Decision
    policy: Policy = POLICY


LISTS = [
    Case(
        "a list that overlaps the recorded, and tells only what no job can, asks for none",
        recorded(observed=at(9.5)), listed(tags=("a",)), nothing(Rule.OVERLAPS),
    ),
    Case(
        "a list that agrees writes nothing",
        recorded(), listed(), nothing(Rule.AGREES),
    ),
    Case(
        "a list that agrees again ends what earlier lists said",
        recorded(memory=state_kept("ERROR_down", 5)), listed(), nothing(Rule.AGREES, NOTHING_KEPT),
    ),
    Case(
        "an instance that a list shows is missing no longer",
        recorded(memory=missing(3, 5)), listed(), nothing(Rule.AGREES, NOTHING_KEPT),
    ),
    Case(
        "a list that differs is kept, and only raises the question",
        recorded(), listed("ERROR_down"),
        ask(Rule.LIST_SUSPECTS, state_kept("ERROR_down", 10)),
    ),
    Case(
        "of what is made otherwise each field is kept by itself",
        recorded(), listed(memory=8, vcpus=2),
        ask(Rule.LIST_SUSPECTS, keeping(memory=differs(8), vcpus=differs(2))),
    ),
    Case(
        "a name is a field that may differ like others",
        recorded(), listed(name="shop"), ask(Rule.LIST_SUSPECTS, keeping(name=differs("shop"))),
    ),
    Case(
        "a list that says the same again agrees with the first",
        recorded(memory=state_kept("ERROR_down", 5)), listed("ERROR_down"),
        ask(Rule.LIST_SUSPECTS, state_kept("ERROR_down", 5, 10)),
    ),
    Case(
        "a list that says something else is the first of its own",
        recorded(memory=state_kept("USER_down", 5)), listed("ERROR_down"),
        ask(Rule.LIST_SUSPECTS, state_kept("ERROR_down", 10, status_since=moment(5))),
    ),
    Case(
        "of another status it has said nothing before",
        recorded(memory=state_kept("ERROR_nodedown", 5)), listed("ERROR_down"),
        ask(Rule.LIST_SUSPECTS, state_kept("ERROR_down", 10)),
    ),
    Case(
        "since when a status is said survives more than one change of word",
        recorded(memory=state_kept("USER_down", 7, status_since=moment(5))), listed("ERROR_down"),
        ask(Rule.LIST_SUSPECTS, state_kept("ERROR_down", 10, status_since=moment(5))),
    ),
    Case(
        "a list that began before the last one agrees with nobody",
        recorded(memory=state_kept("ERROR_down", 5, 12)), listed("ERROR_down"),
        ask(Rule.LIST_SUSPECTS, state_kept("ERROR_down", 10)),
    ),
    Case(
        "the same list once more takes nothing back",
        recorded(memory=state_kept("ERROR_down", 5, 10)), listed("ERROR_down"),
        ask(Rule.LIST_SUSPECTS, state_kept("ERROR_down", 5, 10)),
    ),
    Case(
        "what a job has denied goes on being said, and asked about rarer",
        recorded(observed=at(5), memory=state_kept("ERROR_down", 4, acquittals=1)),
        listed("ERROR_down"),
        ask(Rule.LIST_SUSPECTS, state_kept("ERROR_down", 4, 10, acquittals=1)),
    ),
    Case(
        "and so does what no job can tell",
        recorded(observed=at(5), memory=state_kept("ERROR_wrongnode", 4)),
        listed("ERROR_wrongnode"),
        nothing(Rule.LIST_SUSPECTS, state_kept("ERROR_wrongnode", 4, 10)),
    ),
    Case(
        "of lists of which the first began before a job on it ended, this is the first since",
        recorded(
            observed=at(5), stale_before=moment(6), memory=state_kept("ERROR_wrongnode", 4)
        ),
        listed("ERROR_wrongnode"),
        nothing(Rule.LIST_SUSPECTS, state_kept("ERROR_wrongnode", 4, 10, anew=10)),
    ),
    Case(
        "and go on where it ended as the first of them began",
        recorded(
            observed=at(5), stale_before=moment(4), memory=state_kept("ERROR_wrongnode", 4)
        ),
        listed("ERROR_wrongnode"),
        nothing(Rule.LIST_SUSPECTS, state_kept("ERROR_wrongnode", 4, 10)),
    ),
    Case(
        "and where it was last read in another epoch",
        recorded(observed=None, memory=state_kept("ERROR_down", 4)), listed("ERROR_down"),
        ask(Rule.LIST_SUSPECTS, state_kept("ERROR_down", 4, 10)),
    ),
    Case(
        "a difference that the list no longer has is forgotten, and the others stay",
        recorded(memory=keeping(memory=differs(8, 5), name=differs("shop", 5))), listed(memory=8),
        ask(Rule.LIST_SUSPECTS, keeping(memory=differs(8, 5, 10))),
    ),
    Case(
        "what a job has contradicted is not asked about before its time",
        recorded(memory=state_kept("ERROR_down", 5, asleep_until=moment(11))), listed("ERROR_down"),
        nothing(
            Rule.LIST_SUSPECTS, state_kept("ERROR_down", 5, 10, asleep_until=moment(11))
        ),
    ),
    Case(
        "in its time it is asked about once more, and the bound of proof begins anew",
        recorded(memory=state_kept("ERROR_down", 5, acquittals=2, asleep_until=moment(10))),
        listed("ERROR_down"),
        ask(
            Rule.LIST_SUSPECTS,
            state_kept("ERROR_down", 10, acquittals=2, status_since=moment(5)),
        ),
    ),
    Case(
        "one difference that sleeps does not keep another from being asked about",
        recorded(memory=state_kept("ERROR_down", 5, asleep_until=moment(99))),
        listed("ERROR_down", memory=8),
        ask(
            Rule.LIST_SUSPECTS,
            keeping(
                state=differs(state_of("ERROR_down"), 5, 10, asleep_until=moment(99)),
                memory=differs(8),
            ),
        ),
    ),
    *(
        Case(
            f"no job is asked about {word}, which only lists can tell",
            recorded(), listed(word), nothing(Rule.LIST_SUSPECTS, state_kept(word, 10)),
        )
        for word in sorted(LIST_ONLY)
    ),
    Case(
        "what lists say in place of a word of their own is asked about",
        recorded("ERROR_wrongnode"), listed("ERROR_down"),
        ask(Rule.LIST_SUSPECTS, state_kept("ERROR_down", 10)),
    ),
    Case(
        "no job is asked about tags, which only lists can tell",
        recorded(configuration=Configuration(memory=4, tags=())), listed(tags=("a",)),
        nothing(Rule.LIST_SUSPECTS, keeping(tags=differs(("a",)))),
    ),
    Case(
        "a field that nobody has told yet, and only lists tell, is recorded from the first",
        recorded(), listed(tags=("a",)),
        record(Rule.FIRST_TOLD, Change("tags", None, ("a",)), memory=NOTHING_KEPT),
    ),
    Case(
        "a field that nobody has told yet, and a job can tell, is asked about",
        recorded(), listed(vcpus=2), ask(Rule.LIST_SUSPECTS, keeping(vcpus=differs(2))),
    ),
    Case(
        "beside a difference it waits for that",
        recorded(), listed("ERROR_down", tags=("a",)),
        ask(
            Rule.LIST_SUSPECTS,
            keeping(state=differs(state_of("ERROR_down")), tags=differs(("a",))),
        ),
    ),
    Case(
        "a list that ended before the recorded began is stale",
        recorded(observed=at(20)), listed("ERROR_down"), nothing(Rule.STALE),
    ),
    Case(
        "a list that began before a job on the instance ended is stale",
        recorded(stale_before=moment(10.5)), listed("ERROR_down"), nothing(Rule.STALE),
    ),
    Case(
        "a list that began as the job ended is not stale",
        recorded(stale_before=moment(10)), listed("ERROR_down"),
        ask(Rule.LIST_SUSPECTS, state_kept("ERROR_down", 10)),
    ),
    Case(
        "a list that overlaps the recorded, and differs, is asked about and not kept",
        recorded(observed=at(10.5)), listed("ERROR_down"), ask(Rule.OVERLAPS),
    ),
    Case(
        "a list that ends as the recorded begins overlaps it",
        recorded(observed=at(11)), listed("ERROR_down"), ask(Rule.OVERLAPS),
    ),
    Case(
        "a list that begins as the recorded ends overlaps it",
        recorded(observed=at(9)), listed("ERROR_down"), ask(Rule.OVERLAPS),
    ),
    Case(
        "a list that overlaps the recorded, and agrees, ends nothing that earlier ones said",
        recorded(observed=at(10.5), memory=state_kept("ERROR_down", 5)), listed(),
        nothing(Rule.AGREES),
    ),
    Case(
        "to what was read in another epoch every list is newer",
        recorded(observed=None), listed("ERROR_down"),
        ask(Rule.LIST_SUSPECTS, state_kept("ERROR_down", 10)),
    ),
    Case(
        "a DELETED one that a list shows is asked about",
        GONE, listed(), ask(Rule.LIST_SUSPECTS, state_kept("running", 10)),
    ),
    Case(
        "one that is not known is asked about, to be adopted",
        None, listed(), ask(Rule.UNKNOWN_TO_US),
    ),
    Case(
        "one that is not known is only reported where the operator says so",
        None, listed(), Decision(Action.REPORT, Rule.UNKNOWN_TO_US), REPORT,
    ),
    Case(
        "one that is not known, and that two lists and a reading agree on, is adopted unconfirmed",
        None, listed(is_proof=True),
        record(
            Rule.ADOPTED, Change("status", None, Status.ACTIVE),
            Change("backend_status", None, "running"), Change("memory", None, 4),
            Change("name", None, "vm1"), memory=NOTHING_KEPT,
        ),
    ),
    Case(
        "nor do two lists adopt anybody where the operator wants reports",
        None, listed(is_proof=True), Decision(Action.REPORT, Rule.UNKNOWN_TO_US), REPORT,
    ),
    Case(
        "of a known one two lists settle nothing before the queue was read",
        recorded(), listed("ERROR_down", is_proof=True),
        ask(Rule.LIST_SUSPECTS, state_kept("ERROR_down", 10)),
    ),
]  # fmt: skip

MISSING = [
    Case(
        "the first list that lacks it is kept",
        recorded(), Unlisted(at(10)), nothing(Rule.MISSING_ONCE, missing(10, 10)),
    ),
    Case(
        "what lists said of one that they lack now is forgotten",
        recorded(memory=state_kept("ERROR_down", 5)), Unlisted(at(10)),
        nothing(Rule.MISSING_ONCE, missing(10, 10)),
    ),
    Case(
        "a second one too soon after it proves no more",
        recorded(memory=missing(10, 10)), Unlisted(at(19.9)),
        nothing(Rule.MISSING_ONCE, missing(10, 19.9)),
    ),
    Case(
        "two that are far enough apart are asked about",
        recorded(memory=missing(10, 10)), Unlisted(at(20)),
        ask(Rule.MISSING_TWICE, missing(10, 20)),
    ),
    Case(
        "an operator may want them farther apart",
        recorded(memory=missing(10, 10)), Unlisted(at(20)),
        nothing(Rule.MISSING_ONCE, missing(10, 20)),
        replace(POLICY, gone_after=timedelta(seconds=60)),
    ),
    Case(
        "without a time between them one list is not two",
        recorded(), Unlisted(at(10)), nothing(Rule.MISSING_ONCE, missing(10, 10)),
        replace(POLICY, gone_after=timedelta(0)),
    ),
    Case(
        "a list that began before the one that was kept is the first",
        recorded(memory=missing(12, 12)), Unlisted(at(10)),
        nothing(Rule.MISSING_ONCE, missing(10, 10)),
    ),
    Case("a DELETED one is missing rightly", GONE, Unlisted(at(10)), nothing(Rule.AGREES)),
    Case(
        "and what lists said of its return is over",
        replace(GONE, memory=state_kept("running", 5)), Unlisted(at(10)),
        nothing(Rule.AGREES, NOTHING_KEPT),
    ),
    Case(
        "a failed creation that left nothing is missing rightly",
        FAILED, Unlisted(at(10)), nothing(Rule.AGREES),
    ),
    Case(
        "an instance on a wrong node is an ERROR that was shown, and is missed",
        recorded("ERROR_wrongnode"), Unlisted(at(10)),
        nothing(Rule.MISSING_ONCE, missing(10, 10)),
    ),
    Case(
        "a build that was never shown is missed like others",
        BUILD, Unlisted(at(10)), nothing(Rule.MISSING_ONCE, missing(10, 10)),
    ),
    Case("nobody is missed whom nobody knows", None, Unlisted(at(10)), nothing(Rule.AGREES)),
    Case(
        "a list that is older than the recorded misses nobody",
        recorded(observed=at(20)), Unlisted(at(10)), nothing(Rule.STALE),
    ),
    Case(
        "a list that overlaps the recorded misses nobody",
        recorded(observed=at(9.5)), Unlisted(at(10)), nothing(Rule.STALE),
    ),
    Case(
        "a list that began before a job on the instance ended misses nobody",
        recorded(stale_before=moment(10.5)), Unlisted(at(10)), nothing(Rule.STALE),
    ),
]  # fmt: skip

LACKING = missing(10, 20)

ABSENT = [
    Case(
        "whether a creation goes on that no reading has shown of late, nobody knows",
        replace(BUILD, memory=LACKING, jobs=(job(Status.BUILD, is_believed=False),)),
        Absent(at(22)), nothing(Rule.IN_FLIGHT),
    ),
    Case(
        "two lists and a 404 after them prove it gone",
        recorded(memory=LACKING), Absent(at(22)),
        record(
            Rule.GONE, Change("status", Status.ACTIVE, Status.DELETED),
            Change("backend_status", "running", ""), memory=NOTHING_KEPT, confirms=True,
        ),
    ),
    Case(
        "a 404 alone proves nothing",
        recorded(), Absent(at(22)), nothing(Rule.MISSING_ONCE),
    ),
    Case(
        "one list and a 404 prove nothing",
        recorded(memory=missing(10, 10)), Absent(at(22)), nothing(Rule.MISSING_ONCE),
    ),
    Case(
        "a 404 that began with the second list is not after it",
        recorded(memory=LACKING), Absent(at(20)), nothing(Rule.MISSING_ONCE),
    ),
    Case(
        "a 404 from before the recorded is asked for again",
        recorded(memory=LACKING, observed=at(30)), Absent(at(22)), ask(Rule.STALE),
    ),
    Case(
        "a 404 that overlaps the recorded is asked for again",
        recorded(memory=LACKING, observed=at(21.5)), Absent(at(22)), ask(Rule.STALE),
    ),
    Case(
        "a 404 from before the end of a job on the instance is asked for again",
        recorded(memory=LACKING, stale_before=moment(22.5)), Absent(at(22)), ask(Rule.STALE),
    ),
    Case(
        "what a running job works on is not gone yet",
        recorded(memory=LACKING, jobs=(job(),)), Absent(at(22)), nothing(Rule.IN_FLIGHT),
    ),
    Case(
        "nor what a host system says that it works on",
        recorded(memory=LACKING, jobs=(ANNOUNCED,)), Absent(at(22)), nothing(Rule.IN_FLIGHT),
    ),
    Case(
        "a job that only waits holds up no proof that it is gone",
        recorded(memory=LACKING, jobs=(WAITING,)), Absent(at(22)),
        record(
            Rule.GONE, Change("status", Status.ACTIVE, Status.DELETED),
            Change("backend_status", "running", ""), memory=NOTHING_KEPT, confirms=True,
        ),
    ),
    Case(
        "a build that was never shown and that no job makes any more has failed",
        replace(BUILD, memory=LACKING), Absent(at(22)),
        record(
            Rule.CREATE_FAILED, Change("status", Status.BUILD, Status.ERROR),
            memory=NOTHING_KEPT, confirms=True,
        ),
    ),
    Case(
        "a build has not failed while its job waits",
        replace(BUILD, memory=LACKING, jobs=(WAITING,)), Absent(at(22)), nothing(Rule.IN_FLIGHT),
    ),
    Case(
        "a build has not failed by a 404 alone",
        BUILD, Absent(at(22)), nothing(Rule.MISSING_ONCE),
    ),
    Case(
        "a forthcoming one that was shown, and is gone, is DELETED",
        recorded("forthcoming", memory=LACKING), Absent(at(22)),
        record(
            Rule.GONE, Change("status", Status.BUILD, Status.DELETED),
            Change("backend_status", "forthcoming", ""), memory=NOTHING_KEPT, confirms=True,
        ),
    ),
    Case(
        "a DELETED one stays so, and that is confirmed",
        replace(GONE, memory=LACKING), Absent(at(22)), nothing(Rule.AGREES, confirms=True),
    ),
    Case(
        "a failed creation stays so, and that is confirmed",
        replace(FAILED, memory=LACKING), Absent(at(22)), nothing(Rule.AGREES, confirms=True),
    ),
    Case(
        "a 404 from before a job on it ended confirms nothing",
        replace(GONE, stale_before=moment(30)), Absent(at(22)), nothing(Rule.AGREES),
    ),
    Case("a 404 for whom nobody knows is right", None, Absent(at(22)), nothing(Rule.AGREES)),
]  # fmt: skip

ANSWERS = [
    Case(
        "a job that agrees confirms and changes nothing",
        recorded(), answer(), record(Rule.AGREES, confirms=True),
    ),
    Case(
        "a job that differs convicts, field by field",
        recorded(), answer("ERROR_down", memory=8),
        record(Rule.JOB_CONVICTS, *CRASHES, MEMORY, confirms=True),
    ),
    Case(
        "a job that agrees with the lists ends what they said",
        recorded(memory=state_kept("ERROR_down", 5)), answer("ERROR_down"),
        record(Rule.JOB_CONVICTS, *CRASHES, memory=NOTHING_KEPT, confirms=True),
    ),
    Case(
        "a job that shows another name renames",
        recorded(), answer(name="shop"),
        record(Rule.JOB_CONVICTS, Change("name", "vm1", "shop"), confirms=True),
    ),
    Case(
        "an answer finds one that lists lacked",
        recorded(memory=LACKING), answer("running", 22),
        record(Rule.AGREES, memory=NOTHING_KEPT, confirms=True),
    ),
    Case(
        "a job that contradicts the lists lets them sleep for an eighth of the doubt",
        recorded(memory=state_kept("ERROR_down", 5)), answer(),
        record(
            Rule.AGREES, confirms=True,
            memory=state_kept("ERROR_down", 5, acquittals=1, asleep_until=moment(11 + 15)),
        ),
    ),
    Case(
        "with each time twice as long",
        recorded(memory=state_kept("ERROR_down", 5, acquittals=2)), answer(),
        record(
            Rule.AGREES, confirms=True,
            memory=state_kept("ERROR_down", 5, acquittals=3, asleep_until=moment(11 + 60)),
        ),
    ),
    Case(
        "but no longer than a change may take: it may have become true",
        recorded(memory=state_kept("ERROR_down", 5, acquittals=40)), answer(),
        record(
            Rule.AGREES, confirms=True,
            memory=state_kept(
                "ERROR_down", 5, acquittals=41,
                asleep_until=moment(11 + 120),
            ),
        ),
    ),
    Case(
        "a field that no job tells is left to the lists",
        recorded(memory=keeping(tags=differs(("a",), 5))), answer(),
        record(Rule.AGREES, confirms=True),
    ),
    Case(
        "a field that this answer does not tell is left as it is",
        recorded(memory=keeping(vcpus=differs(2, 5))), answer(),
        record(Rule.AGREES, confirms=True),
    ),
    Case(
        "a word that only lists can tell is neither convicted nor contradicted by another",
        recorded(memory=state_kept("ERROR_nodedown", 5)), answer(),
        record(Rule.AGREES, confirms=True),
    ),
    *(
        Case(
            f"{word} of the primary does not acquit a recorded {word_of_list}",
            recorded(word_of_list), answer(word), nothing(Rule.LIST_WORD_STANDS),
        )
        for word_of_list, words in JOB_BLIND.items()
        for word in sorted(words)
    ),
    *(
        Case(
            f"{word} of the primary convicts nobody of whom the last list says {word_of_list}",
            recorded(memory=state_kept(word_of_list, 5)), answer(word),
            nothing(Rule.LIST_WORD_STANDS),
        )
        for word_of_list, words in JOB_BLIND.items()
        for word in sorted(words)
    ),
    Case(
        "where the last list no longer says so the job acquits",
        recorded("ERROR_wrongnode", memory=state_kept("ERROR_down", 5)), answer("ERROR_down"),
        record(
            Rule.JOB_CONVICTS, *moved("ERROR_wrongnode", "ERROR_down"), memory=NOTHING_KEPT,
            confirms=True,
        ),
    ),
    Case(
        "a word that no wrong node explains acquits",
        recorded("ERROR_wrongnode"), answer(),
        record(Rule.JOB_CONVICTS, *moved("ERROR_wrongnode", "running"), confirms=True),
    ),
    Case(
        "who is blind for the state still tells what it is made of, and confirms nothing",
        recorded("ERROR_wrongnode"), answer("ERROR_down", memory=8),
        record(Rule.JOB_CONVICTS, MEMORY),
    ),
    Case(
        "who is blind for the state settles what lists said of the rest",
        recorded("ERROR_wrongnode", memory=keeping(memory=differs(8, 5))), answer("ERROR_down"),
        nothing(
            Rule.LIST_WORD_STANDS,
            keeping(memory=differs(8, 5, acquittals=1, asleep_until=moment(11 + 15))),
        ),
    ),
    Case(
        "a static query tells no state, and what it tells is recorded",
        recorded("ADMIN_down"), answer(None, memory=8), record(Rule.JOB_CONVICTS, MEMORY),
    ),
    Case(
        "a static query that agrees confirms nothing",
        recorded(), answer(None), nothing(Rule.AGREES),
    ),
    Case(
        "a static query settles what lists said of what it tells",
        recorded(memory=keeping(memory=differs(8, 5))), answer(None),
        nothing(
            Rule.AGREES, keeping(memory=differs(8, 5, acquittals=1, asleep_until=moment(11 + 15)))
        ),
    ),
    Case(
        "a backend may tell a status without a word of its own",
        recorded(), Answer(replace(told(), backend_status=None)),
        record(
            Rule.JOB_CONVICTS, Change("backend_status", "running", ""), confirms=True,
        ),
    ),
    Case(
        "an answer from before the recorded is asked for again",
        recorded(observed=at(20)), answer("ERROR_down"), ask(Rule.STALE),
    ),
    Case(
        "an answer from before the end of a job on the instance is asked for again",
        recorded(stale_before=moment(10.5)), answer("ERROR_down"), ask(Rule.STALE),
    ),
    Case(
        "an answer that overlaps the recorded, and differs, is asked for again",
        recorded(observed=at(9.5)), answer("ERROR_down"), ask(Rule.OVERLAPS),
    ),
    Case(
        "an answer that overlaps the recorded, and agrees, confirms it",
        recorded(observed=at(9.5)), answer(), nothing(Rule.AGREES, confirms=True),
    ),
    Case(
        "one that is blind, and overlaps, confirms nothing",
        recorded("ERROR_wrongnode", observed=at(9.5)), answer("ERROR_down"),
        nothing(Rule.AGREES),
    ),
    Case(
        "while a reboot runs its status stands, and the word beside it is what was read",
        recorded(state=(Status.REBOOT, "running"), jobs=(job(Status.REBOOT),)),
        answer("ERROR_down"),
        record(
            Rule.JOB_CONVICTS, Change("backend_status", "running", "ERROR_down"), confirms=True
        ),
    ),
    Case(
        "a job that has no status of its own defers nothing: the query held the lock",
        recorded(jobs=(job(),)), answer("ERROR_down"),
        record(Rule.JOB_CONVICTS, *CRASHES, confirms=True),
    ),
    Case(
        "a reboot that only waits defers nothing",
        recorded(jobs=(job(Status.REBOOT, None),)), answer("ERROR_down"),
        record(Rule.JOB_CONVICTS, *CRASHES, confirms=True),
    ),
    Case(
        "a status of an operation that is over ends by an answer that says what was before",
        recorded(state=(Status.REBOOT, "running")), answer(),
        record(Rule.JOB_CONVICTS, Change("status", Status.REBOOT, Status.ACTIVE), confirms=True),
    ),
    Case(
        "a DELETED one that a job shows returns",
        GONE, answer(),
        record(
            Rule.RETURNED, Change("status", Status.DELETED, Status.ACTIVE),
            Change("backend_status", "", "running"), confirms=True,
        ),
    ),
    Case(
        "a DELETED one does not return with the status of an operation on its name",
        replace(GONE, jobs=(job(Status.REBOOT),)), answer(),
        record(
            Rule.RETURNED, Change("status", Status.DELETED, Status.ACTIVE),
            Change("backend_status", "", "running"), confirms=True,
        ),
    ),
    Case(
        "a static query is no proof that a DELETED one exists",
        GONE, answer(None, memory=8), ask(Rule.STALE),
    ),
    Case(
        "one that is not known is adopted by a job",
        None, answer(),
        record(
            Rule.ADOPTED, Change("status", None, Status.ACTIVE),
            Change("backend_status", None, "running"), Change("memory", None, 4),
            Change("name", None, "vm1"), memory=NOTHING_KEPT, confirms=True,
        ),
    ),
    Case(
        "one that is not known is only reported where the operator says so",
        None, answer(), Decision(Action.REPORT, Rule.UNKNOWN_TO_US), REPORT,
    ),
    Case(
        "nobody is adopted by a static query",
        None, answer(None), ask(Rule.UNKNOWN_TO_US),
    ),
]  # fmt: skip

READ = QueueRead(at(100))
"""A reading of the queue long after the two lists that follow."""

LONG = state_kept("ERROR_down", 10, 70)
"""Two lists that are a bound of proof apart."""

READINGS = [
    Case("a reading says nothing of whom nobody knows", None, READ, nothing(Rule.AGREES)),
    Case(
        "a reading says nothing of what nobody works on or disputes",
        recorded(), READ, nothing(Rule.AGREES),
    ),
    Case(
        "a reboot that runs is shown",
        recorded(jobs=(job(Status.REBOOT),)), READ,
        record(Rule.OPERATION_BEGAN, Change("status", Status.ACTIVE, Status.REBOOT)),
    ),
    Case(
        "a reboot that a host system has announced is shown",
        recorded(jobs=(job(Status.REBOOT, None, announced=True),)), READ,
        record(Rule.OPERATION_BEGAN, Change("status", Status.ACTIVE, Status.REBOOT)),
    ),
    Case(
        "a reboot that is shown already is waited for",
        recorded(state=(Status.REBOOT, "running"), jobs=(job(Status.REBOOT),), memory=LONG),
        READ, nothing(Rule.IN_FLIGHT),
    ),
    Case(
        "a reboot that only waits has done nothing",
        recorded(jobs=(job(Status.REBOOT, None),)), READ, nothing(Rule.AGREES),
    ),
    Case(
        "of two that run the later one is shown",
        recorded(jobs=(job(Status.REBOOT), job(Status.REBUILD), job())), READ,
        record(Rule.OPERATION_BEGAN, Change("status", Status.ACTIVE, Status.REBUILD)),
    ),
    Case(
        "a creation of what was shown can only fail",
        recorded(jobs=(job(Status.BUILD),)), READ, nothing(Rule.AGREES),
    ),
    Case(
        "a creation of what failed before is a build",
        replace(FAILED, jobs=(job(Status.BUILD),)), READ,
        record(Rule.OPERATION_BEGAN, Change("status", Status.ERROR, Status.BUILD)),
    ),
    Case(
        "a job on a name that is DELETED revives nobody",
        replace(GONE, jobs=(job(Status.REBOOT),)), READ, nothing(Rule.AGREES),
    ),
    Case(
        "two lists a bound of proof apart find one that was DELETED, where no job could",
        replace(GONE, memory=state_kept("running", 10, 70)), READ,
        record(
            Rule.RETURNED, Change("status", "DELETED", "ACTIVE"),
            Change("backend_status", "", "running"), memory=NOTHING_KEPT,
        ),
    ),
    Case(
        "but nothing else that they say of it counts",
        replace(GONE, memory=keeping(memory=differs(8, 10, 70))), READ,
        nothing(Rule.LIST_SUSPECTS),
    ),
    Case(
        "two lists a bound of proof apart, and this reading, settle what no job could",
        recorded(memory=LONG), READ,
        record(Rule.TWO_LISTS_AGREE, *CRASHES, memory=NOTHING_KEPT),
    ),
    Case(
        "two lists that are less apart leave time for a job",
        recorded(memory=state_kept("ERROR_down", 10, 69)), READ, nothing(Rule.LIST_SUSPECTS),
    ),
    Case(
        "one list settles nothing, whatever the bound",
        recorded(memory=state_kept("ERROR_down", 10)), READ, nothing(Rule.LIST_SUSPECTS),
        replace(POLICY, proof_within=timedelta(0)),
    ),
    Case(
        "a reading that began before the second list had ended settles nothing",
        recorded(memory=LONG), QueueRead(at(71)), nothing(Rule.LIST_SUSPECTS),
    ),
    *(
        Case(
            f"{word}, which only lists can tell, is settled by the first two",
            recorded(memory=state_kept(word, 10, 12)), READ,
            record(Rule.TWO_LISTS_AGREE, *moved("running", word), memory=NOTHING_KEPT),
        )
        for word in sorted(LIST_ONLY)
    ),
    Case(
        "but not by one",
        recorded(memory=state_kept("ERROR_wrongnode", 10)), READ, nothing(Rule.LIST_SUSPECTS),
    ),
    Case(
        "tags, which only lists can tell, are settled by the first two",
        recorded(memory=keeping(tags=differs(("a",), 10, 12))), READ,
        record(Rule.TWO_LISTS_AGREE, Change("tags", None, ("a",)), memory=NOTHING_KEPT),
    ),
    Case(
        "what is settled does not take along what is not",
        recorded(
            memory=keeping(memory=differs(8, 30, 70), state=differs(state_of("ERROR_down"), 10, 70))
        ),
        READ,
        record(Rule.TWO_LISTS_AGREE, *CRASHES, memory=keeping(memory=differs(8, 30, 70))),
    ),
    Case(
        "what a job has just contradicted is not settled by the lists that it contradicted",
        recorded(memory=state_kept("ERROR_down", 10, 70, asleep_until=moment(99))), READ,
        nothing(Rule.LIST_SUSPECTS),
    ),
    Case(
        "whatever jobs on it ended between, where every list said the same",
        recorded(memory=LONG, stale_before=moment(70)), READ,
        record(Rule.TWO_LISTS_AGREE, *CRASHES, memory=NOTHING_KEPT),
    ),
    Case(
        "unless one ended after the last list began",
        recorded(memory=LONG, stale_before=moment(70.5)), READ, nothing(Rule.LIST_SUSPECTS),
    ),
    Case(
        "nor is what only they tell, where one has ended since the last",
        recorded(memory=keeping(tags=differs(("a",), 10, 70)), stale_before=moment(70.5)), READ,
        nothing(Rule.LIST_SUSPECTS),
    ),
    Case(
        "a word of theirs is not settled where the state was read since",
        recorded(memory=state_kept("ERROR_wrongnode", 10, 12), observed=at(14)), READ,
        nothing(Rule.LIST_SUSPECTS),
    ),
    Case(
        "but tags are, of which that told nothing",
        recorded(memory=keeping(tags=differs(("a",), 10, 12)), observed=at(14)), READ,
        record(Rule.TWO_LISTS_AGREE, Change("tags", None, ("a",)), memory=NOTHING_KEPT),
    ),
    Case(
        "what no reading has shown of late is not shown",
        recorded(jobs=(job(Status.REBOOT, is_believed=False),)), READ, nothing(Rule.AGREES),
    ),
    Case(
        "a word of lists is not settled by two with the end of a job between",
        recorded(memory=state_kept("ERROR_wrongnode", 10, 12), stale_before=moment(10.5)), READ,
        nothing(Rule.LIST_SUSPECTS),
    ),
    Case(
        "nor by the first after it",
        recorded(
            memory=state_kept("ERROR_wrongnode", 10, 12, anew=12), stale_before=moment(10.5)
        ),
        READ, nothing(Rule.LIST_SUSPECTS),
    ),
    Case(
        "a job that ended as the first of the two began leaves them good",
        recorded(memory=state_kept("ERROR_wrongnode", 10, 12), stale_before=moment(10)), READ,
        record(Rule.TWO_LISTS_AGREE, *moved("running", "ERROR_wrongnode"), memory=NOTHING_KEPT),
    ),
    Case(
        "also where other fields were read between them",
        recorded(memory=LONG, observed=at(20)), READ,
        record(Rule.TWO_LISTS_AGREE, *CRASHES, memory=NOTHING_KEPT),
    ),
    Case(
        "but what no job can tell they do: an answer about the rest came between them",
        recorded(memory=state_kept("ERROR_wrongnode", 10, 12), observed=at(11)), READ,
        record(Rule.TWO_LISTS_AGREE, *moved("running", "ERROR_wrongnode"), memory=NOTHING_KEPT),
    ),
    Case(
        "to what was read in another epoch both lists are newer",
        recorded(memory=LONG, observed=None), READ,
        record(Rule.TWO_LISTS_AGREE, *CRASHES, memory=NOTHING_KEPT),
    ),
    Case(
        "and under a job that began between them",
        recorded(memory=LONG, jobs=(job(since=11),)), READ,
        record(Rule.TWO_LISTS_AGREE, *CRASHES, memory=NOTHING_KEPT),
    ),
    Case(
        "as under several",
        recorded(memory=LONG, jobs=(job(since=2), job(since=11))), READ,
        record(Rule.TWO_LISTS_AGREE, *CRASHES, memory=NOTHING_KEPT),
    ),
    Case(
        "as under one that was announced",
        recorded(memory=LONG, jobs=(ANNOUNCED,)), READ,
        record(Rule.TWO_LISTS_AGREE, *CRASHES, memory=NOTHING_KEPT),
    ),
    Case(
        "a job that only waits defers nothing",
        recorded(memory=state_kept("ERROR_wrongnode", 10, 12), jobs=(WAITING,)), READ,
        record(Rule.TWO_LISTS_AGREE, *moved("running", "ERROR_wrongnode"), memory=NOTHING_KEPT),
    ),
    Case(
        "under a running job a node that is down takes the whole bound of proof",
        recorded(memory=state_kept("ERROR_nodedown", 10, 12), jobs=(job(),)), READ,
        nothing(Rule.LIST_SUSPECTS),
    ),
    Case(
        "and is settled then",
        recorded(memory=state_kept("ERROR_nodedown", 10, 70), jobs=(job(),)), READ,
        record(Rule.TWO_LISTS_AGREE, *moved("running", "ERROR_nodedown"), memory=NOTHING_KEPT),
    ),
    Case(
        "a wrong node, as each migration causes it, waits for the end of the job",
        recorded(memory=state_kept("ERROR_wrongnode", 10, 70), jobs=(job(),)), READ,
        nothing(Rule.LIST_SUSPECTS),
    ),
    Case(
        "a wrong node waits for the end of what was announced",
        recorded(memory=state_kept("ERROR_wrongnode", 10, 70), jobs=(ANNOUNCED,)), READ,
        nothing(Rule.LIST_SUSPECTS),
    ),
    Case(
        "a name waits for the end of the job",
        recorded(memory=keeping(name=differs("shop", 10, 70)), jobs=(job(),)), READ,
        nothing(Rule.LIST_SUSPECTS),
    ),
    Case(
        "a name with nobody at work is settled like other fields",
        recorded(memory=keeping(name=differs("shop", 10, 70))), READ,
        record(Rule.TWO_LISTS_AGREE, Change("name", "vm1", "shop"), memory=NOTHING_KEPT),
    ),
    Case(
        "what it is made of does not wait for the end of the job",
        recorded(memory=keeping(memory=differs(8, 10, 70)), jobs=(job(),)), READ,
        record(Rule.TWO_LISTS_AGREE, MEMORY, memory=NOTHING_KEPT),
    ),
]  # fmt: skip

TABLE = [*LISTS, *MISSING, *ABSENT, *ANSWERS, *READINGS]


def wrong(case: Case) -> str:
    """Return what is wrong with what is decided about a row of the table, if anything."""
    decision = room.decide(case.recorded, case.seen, case.policy)
    if decision == case.expected:
        return ""
    return f"{case.reason}:\n{decision}\nin place of\n{case.expected}"


@pytest.mark.parametrize("case", TABLE, ids=lambda case: case.reason)
def test_what_follows(case: Case) -> None:
    assert not wrong(case), wrong(case)


def test_every_rule_has_a_row() -> None:
    assert {case.expected.rule for case in TABLE} == set(Rule)


def test_every_row_has_a_reason_of_its_own() -> None:
    by_kind = [(type(case.seen), case.reason) for case in TABLE]
    assert len(set(by_kind)) == len(by_kind)


def test_a_node_that_is_down_or_offline_is_unknown_on_either_road() -> None:
    for word in ("ERROR_nodedown", "ERROR_nodeoffline"):
        by_job = room.decide(recorded(), answer(word), POLICY)
        by_list = room.decide(recorded(memory=state_kept(word, 10, 12)), READ, POLICY)
        for decision in (by_job, by_list):
            assert Change("status", Status.ACTIVE, Status.UNKNOWN) in decision.changes


# What else the decision tells


def test_gone_takes_two_lists_some_time_apart_and_a_404() -> None:
    row = recorded()
    for seen, rule in (
        (Absent(at(9)), Rule.MISSING_ONCE),
        (Unlisted(at(10)), Rule.MISSING_ONCE),
        (Absent(at(12)), Rule.MISSING_ONCE),
        (Unlisted(at(15)), Rule.MISSING_ONCE),
        (Absent(at(17)), Rule.MISSING_ONCE),
        (Unlisted(at(21)), Rule.MISSING_TWICE),
        (Absent(at(23)), Rule.GONE),
    ):
        decision = room.decide(row, seen, POLICY)
        assert decision.rule is rule, seen
        row = replace(row, memory=decision.memory or row.memory)


def test_an_older_observation_is_stale_and_one_that_overlaps_is_asked_again() -> None:
    for begin, rule in ((5, Rule.STALE), (9.5, Rule.OVERLAPS), (10.5, Rule.OVERLAPS)):
        decision = room.decide(recorded(observed=at(10)), answer("ERROR_down", begin), POLICY)
        assert (decision.action, decision.rule) == (Action.ASK, rule)


def test_a_job_that_asks_the_primary_only_does_not_acquit_a_wrong_node() -> None:
    for word in JOB_BLIND["ERROR_wrongnode"]:
        decision = room.decide(recorded("ERROR_wrongnode"), answer(word), POLICY)
        assert (decision.rule, decision.confirms) == (Rule.LIST_WORD_STANDS, False)


def test_an_adopted_instance_is_one_event_and_a_changed_one_is_one_for_each_field() -> None:
    adopted = room.decide(None, answer(), POLICY)
    assert room.trail(adopted) == (Change("status", None, Status.ACTIVE),)
    convicted = room.decide(recorded(), answer("ERROR_down", memory=8), POLICY)
    assert room.trail(convicted) == (*CRASHES, MEMORY)
    assert room.trail(room.decide(recorded(), listed(tags=("a",)), POLICY)) == ()


def test_what_sleeps_needs_no_job_before_its_time() -> None:
    asleep = state_kept("ERROR_down", 5, asleep_until=moment(10))
    needs = [room.needs_job(asleep, POLICY, at=moment(second)) for second in (9, 10, 11)]
    assert needs == [False, True, True]


@pytest.mark.parametrize(
    ("row", "status"),
    [
        (recorded(), None),
        (recorded(jobs=(job(),)), None),
        (recorded(jobs=(job(Status.REBOOT),)), Status.REBOOT),
        (recorded(jobs=(job(Status.REBOOT, None),)), None),
        (recorded(jobs=(job(Status.BUILD),)), None),
        (replace(BUILD, jobs=(job(Status.BUILD),)), Status.BUILD),
        (replace(GONE, jobs=(job(Status.REBOOT),)), None),
    ],
)
def test_only_what_has_begun_and_has_a_status_of_its_own_is_under_way(
    row: Recorded, status: Status | None
) -> None:
    assert under_way(row) is status


# The whole of it

MEMORIES = (
    NOTHING_KEPT,
    missing(2, 20),
    LONG,
    state_kept("ERROR_wrongnode", 10, 70),
    keeping(name=differs("shop", 10, 70), tags=differs(("a",), 10, 70)),
)
INTERVALS = (at(-5), at(0.5), at(10), at(7200))
SEEN: tuple[Seen, ...] = (
    *(
        kind(told(word, second))
        for kind in (Listed, Answer)
        for word in (*STATUS_OF_WORD, None)
        for second in (-5, 0.5, 10, 7200)
        if not (kind is Listed and word is None)
    ),
    *(Listed(told(word, 10), is_proof=True) for word in STATUS_OF_WORD),
    *(kind(interval) for kind in (Unlisted, Absent, QueueRead) for interval in INTERVALS),
)
KNOWN = (
    None,
    *(
        recorded(state=(status, word), observed=observed, memory=memory, jobs=jobs)
        for status in Status
        for word in ("", "running", "ERROR_wrongnode")
        for observed in (None, at(0))
        for memory in MEMORIES
        for jobs in ((), (WAITING,), (job(),), (job(Status.REBOOT),), (job(Status.BUILD),))
    ),
)


def broken_promise(known: Recorded | None, seen: Seen, decision: Decision) -> str:
    """Return the promise that a decision breaks, if any."""
    if decision.changes and decision.action is not Action.RECORD:
        return "only what is recorded changes anything"
    if known is None:
        return ""
    status = next((it for it in decision.changes if it.field == "status"), None)
    is_newer = known.observed is None or seen.interval.begins_after(known.observed)
    if decision.changes and isinstance(seen, Answer | Absent) and not is_newer:
        return "nothing older than the recorded changes it"
    if status is None:
        return ""
    if isinstance(seen, Listed | Unlisted):
        return "no list convicts by itself"
    if status.after is Status.DELETED and not (isinstance(seen, Absent) and known.memory.missing):
        return "nothing is deleted without two lists and a 404"
    if known.is_gone and not isinstance(seen, Answer | QueueRead):
        return "only proof of existence revives"
    running = [it.status for it in known.jobs if it.has_begun and it.status]
    if Status.REBOOT in running and status.after not in (Status.REBOOT, Status.ACTIVE):
        return "" if known.is_gone else "what is under way is no drift"
    return ""


def test_the_decision_is_total_and_keeps_every_promise() -> None:
    for known, seen in product(KNOWN, SEEN):
        decision = room.decide(known, seen, POLICY)
        assert not broken_promise(known, seen, decision), (known, seen, decision)


def test_without_words_of_its_own_a_backend_has_its_jobs_believed() -> None:
    decision = room.decide(recorded("ERROR_wrongnode"), answer("ERROR_down"), plain_policy())
    assert decision.rule is Rule.JOB_CONVICTS
