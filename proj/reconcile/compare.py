"""Compare one list of all instances with what is recorded; nothing is written here."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import connection
from django.db.models import BigIntegerField, TextField
from django.db.models.expressions import RawSQL
from django.db.models.functions import Cast, Coalesce

from proj.backend import Look, Unreadable
from proj.inventory import statements
from proj.inventory.models import Cluster, Instance
from proj.observation import CONFIGURATION_FIELDS, Observation, Status
from proj.reconcile import brake, rows
from proj.reconcile.brake import Entry
from proj.reconcile.decide import (
    Action,
    Decision,
    Listed,
    Policy,
    Recorded,
    Rule,
    Unlisted,
    decide,
)
from proj.reconcile.memo import Agreed
from proj.reconcile.resolve import completes, living_with_uuid

CHUNK = 1000
"""Records whose rows are read at a time."""

DECISIVE = (
    "name", "revision", "status", "backend_status", *CONFIGURATION_FIELDS, "epoch",
    "observed_not_before", "observed_not_after", "stale_before", "differs", "missing_first",
    "missing_last",
)  # fmt: skip
"""What a decision reads of a row, beside its uuid."""

_PRINT = f"hash_record_extended(ROW({', '.join(DECISIVE)}), %s)"
"""All of them as one number, by PostgreSQL: it costs a fifth of what they cost as text."""


@dataclass(frozen=True, slots=True)
class Sight:
    """One instance that the list has news about."""

    seen: Listed | Unlisted
    decision: Decision
    uuid: str | None
    name: str
    recorded: Recorded | None


@dataclass(slots=True)
class Comparison:
    """What one list comes to."""

    news: list[Sight] = field(default_factory=list)
    """Whatever is to be kept, asked or reported."""
    agreed: Agreed = field(default_factory=set)
    findings: list[dict[str, Any]] = field(default_factory=list)
    is_complete: bool = True
    """The whole body came, and every record could be read, none twice."""
    tells_who: bool = True
    """Every record says whom it is about, if no more: who is in none of them is missing."""
    undecided: set[str] = field(default_factory=set)
    """Names of those that this list is too old, or too early, to judge."""
    renamed: dict[str, str] = field(default_factory=dict)
    """Announced name -> the full one by which the list has it."""

    @property
    def agrees(self) -> bool:
        """Whether nothing differs, is missing, cannot be read or is too new to be judged."""
        return self.is_complete and not (self.news or self.findings or self.undecided)

    def entries(self) -> list[Entry]:
        """Return what a hold would name: whatever would take something away."""
        return [entry for sight in self.news if (entry := _entry(sight)) is not None]


def compare(
    cluster: Cluster, look: Look, policy: Policy, before: Agreed, *, at: datetime
) -> Comparison:
    """Decide for every instance that the list has, or lacks.

    One that agreed ``before``, and of which neither the record nor the row has changed since, is
    not decided about again: the decision depends on nothing else, and both are compared whole.
    """
    found = Comparison()
    living = _living(cluster)
    places = _places(look, found)
    unsure = []
    for key, (place, mark) in places.items():
        known = hash((key, mark, living.get(key)))
        if known in before:
            found.agreed.add(known)
        else:
            unsure.append(place)
    marks = {key: mark for key, (_, mark) in places.items()} if unsure else {}
    listed = set(places)
    strangers: list[Observation] = []
    for chunk in chunks(unsure, CHUNK):
        seen = []
        for record in look.read(chunk):
            if isinstance(record, Unreadable):
                who = record.uuid and record.instance
                _cannot_read(found, record.instance, record.problem, tells_who=bool(who))
                listed |= {record.uuid or "", record.instance or ""}
            else:
                seen.append(record)
        strangers += _compare_listed(cluster, seen, policy, found, marks, living, listed, at=at)
    if strangers:
        _compare_strangers(cluster, strangers, policy, found, listed)
    if found.tells_who:
        missing = [key for key in living if key not in listed]
        for chunk in chunks(missing, CHUNK):
            _compare_missing(cluster, chunk, look, policy, found, at=at)
    return found


def _living(cluster: Cluster) -> dict[str, int]:
    """Return a print of every instance that is not gone, by uuid, or by name where it has none.

    And of those that are, and that a list has shown since.

    The print is equal within one process for rows that are equal in all that a decision reads.
    """
    mine = Instance.objects.filter(rows.LIVES_OR_RETURNS, cluster=cluster).order_by()
    if connection.vendor == "postgresql":
        number = RawSQL(_PRINT, (cluster.epoch,), output_field=BigIntegerField())
        return dict(statements.plain(mine.values_list(Coalesce("uuid", "name"), number)))
    texts = mine.values_list("uuid", *(Cast(name, TextField()) for name in DECISIVE))
    return {row[0] or row[1]: hash((cluster.epoch, row)) for row in statements.plain(texts)}


def _places(look: Look, found: Comparison) -> dict[str, tuple[int, int]]:
    """Return where each instance stands in the list, and the print of its record."""
    prints = look.prints()
    has_uuids = any(uuid for _, uuid, _ in prints)
    twice_uuids = _twice([uuid for _, uuid, _ in prints if uuid])
    twice_names = _twice([name for name, _, _ in prints])
    places = {}
    for place, (name, uuid, mark) in enumerate(prints):
        if name in twice_names or uuid in twice_uuids:
            _cannot_read(found, name, "the list has it twice")
        elif has_uuids and not uuid:
            _cannot_read(found, name, "its record has no uuid, and others have")
        else:
            places[uuid or name] = (place, mark)
    return places


def _twice(texts: Sequence[str]) -> set[str]:
    if len(set(texts)) == len(texts):
        return set()
    return {text for text, number in Counter(texts).items() if number > 1}


def _cannot_read(
    found: Comparison, name: str | None, problem: str, *, tells_who: bool = False
) -> None:
    found.is_complete = False
    found.tells_who &= tells_who
    found.findings.append({"instance": name, "problem": problem})


def _compare_listed(
    cluster: Cluster,
    seen: Sequence[Observation],
    policy: Policy,
    found: Comparison,
    marks: dict[str, int],
    living: dict[str, int],
    listed: set[str],
    *,
    at: datetime,
) -> list[Observation]:
    """Decide for those that are recorded; returns those that are not."""
    mine = Instance.objects.filter(cluster=cluster).order_by()
    known = {row.uuid: row for row in mine.filter(uuid__in=[it.uuid for it in seen if it.uuid])}
    named = mine.filter(rows.HAS_NO_LASTING_UUID, name__in=[it.instance for it in seen])
    by_name = {row.name: row for row in named if rows.is_known_by_name(row, listed)}
    has_uuid = living_with_uuid(cluster, seen)
    strangers = []
    for it in seen:
        row = (known.get(it.uuid) if it.uuid else None) or by_name.get(it.instance)
        if row is None and it.uuid is None and it.instance in has_uuid:
            _cannot_read(found, it.instance, "its record has no uuid, and it is known by one")
            continue
        if row is None:
            strangers.append(it)
            continue
        listed.add(row.uuid or row.name)
        recorded = rows.recorded_of(row, cluster, at=at)
        decision = decide(recorded, Listed(it), policy)
        key = it.uuid or it.instance
        takes_uuid = it.uuid is not None and row.uuid != it.uuid
        if takes_uuid or decision.action is Action.ASK or decision.memory is not None:
            found.news.append(Sight(Listed(it), decision, it.uuid, it.instance, recorded))
        elif (
            decision.rule is Rule.AGREES and not recorded.is_gone and key in marks and key in living
        ):
            found.agreed.add(hash((key, marks[key], living[key])))
        else:
            found.undecided.add(row.name)
    return strangers


def _compare_strangers(
    cluster: Cluster,
    strangers: Sequence[Observation],
    policy: Policy,
    found: Comparison,
    listed: set[str],
) -> None:
    """An announced creation is the single unrecorded one whose name its own begins."""
    mine = Instance.objects.filter(cluster=cluster, uuid=None).order_by()
    announced = list(mine.filter(backend_status="", status=Status.BUILD))
    for row in announced:
        fitting = [it for it in strangers if completes(it.instance, row.name)]
        if len(fitting) == 1 and fitting[0].instance not in found.renamed.values():
            found.renamed[row.name] = fitting[0].instance
            listed.add(row.name)
    for it in strangers:
        decision = decide(None, Listed(it), policy)
        found.news.append(Sight(Listed(it), decision, it.uuid, it.instance, None))
        if decision.action is Action.REPORT:
            problem = "Ganeti has it and the database has not"
            found.findings.append({"instance": it.instance, "problem": problem})


def _compare_missing(
    cluster: Cluster,
    keys: Sequence[str],
    look: Look,
    policy: Policy,
    found: Comparison,
    *,
    at: datetime,
) -> None:
    mine = Instance.objects.filter(rows.LIVES_OR_RETURNS, cluster=cluster).order_by()
    missing = [*mine.filter(uuid__in=keys), *mine.filter(uuid=None, name__in=keys)]
    for row in missing:
        recorded = rows.recorded_of(row, cluster, at=at)
        decision = decide(recorded, Unlisted(look.interval), policy)
        if decision.action is Action.ASK or decision.memory is not None:
            sight = Sight(Unlisted(look.interval), decision, row.uuid, row.name, recorded)
            found.news.append(sight)
        elif decision.rule is Rule.STALE:
            found.undecided.add(row.name)


def _entry(sight: Sight) -> Entry | None:
    recorded, memory = sight.recorded, sight.decision.memory
    if recorded is None or memory is None or not recorded.was_shown:
        return None
    state = memory.differs.get("state")
    after = Status.DELETED if memory.missing else state.value[0] if state else None
    if after is None or not brake.is_braked(recorded.state[0], after):
        return None
    return Entry(sight.uuid or sight.name, recorded.name, recorded.state[0].value, after.value)


def chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield the items so many at a time."""
    chunk: list[Any] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
