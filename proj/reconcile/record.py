"""The one road from evidence to the database; only a BUILD is begun elsewhere, in ``feed.py``.

Whatever the source, evidence comes here in batches: the rows of all instances concerned are
locked and read, each is decided about by the one ``decide()``, and what follows is written in
the same transaction. A batch of one and of ten thousand take the same code.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from django.db import InterfaceError, OperationalError
from django.db.models import Q, QuerySet

from proj.inventory import statements
from proj.inventory.models import Cluster, Instance, Transition
from proj.names import is_instance_name
from proj.observation import Interval, to_json
from proj.reconcile import brake, holds, rows
from proj.reconcile.brake import Entry
from proj.reconcile.context import Clock
from proj.reconcile.decide import (
    Absent,
    Action,
    Answer,
    Decision,
    Listed,
    Policy,
    QueueRead,
    Rule,
    Seen,
    decide,
    trail,
)
from proj.reconcile.resolve import completes, is_announced, living_with_uuid, name_row
from proj.reconcile.rows import OLDEST
from proj.reconcile.settings import Tuning

BATCH = 500
"""Instances whose rows are locked at a time."""

BY_LISTS = (Rule.TWO_LISTS_AGREE, Rule.RETURNED)
"""The rules by which lists settle what is recorded."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Item:
    """One piece of evidence, whom it is about, and where it came from."""

    seen: Seen
    uuid: str | None
    """Of the one who was asked about or listed; None where only the name is known."""
    name: str
    source: str
    job_id: int | None = None


@dataclass(slots=True)
class Settled:
    """What became of one item."""

    item: Item
    seen: Seen
    """What the item is evidence of, for this row."""
    decision: Decision
    row: Instance | None
    is_held: bool = False
    """The brake kept it from being written."""


@dataclass(slots=True)
class _Draft:
    """A row as it will be, and which of its columns are to be written."""

    row: Instance
    values: dict[str, Any] = field(default_factory=dict)
    trail: list[Transition] = field(default_factory=list)
    is_new: bool = False

    def set(self, values: Mapping[str, Any]) -> None:
        """Change columns."""
        self.values |= values
        for name, value in values.items():
            setattr(self.row, name, value)


def record(
    cluster: Cluster, items: Sequence[Item], policy: Policy, tuning: Tuning, *, now: Clock
) -> list[Settled]:
    """Decide on the rows as they are now, and write what follows, in the present transaction.

    Args:
        cluster: whose instances, as it was read by the turn.
        items: the evidence; several pieces about one instance are taken in their order.
        policy: the cluster's.
        tuning: the engine's numbers.
        now: the clock; read when the rows are locked, so that none of their moments lies ahead.
    """
    known = _Rows(cluster, items)
    at = now()
    jobs = rows.JobsByInstance([job for job in rows.open_jobs(cluster) if not job.is_query])
    believed_since = rows.believed_since(cluster, tuning, at=at)
    settled: list[Settled] = []
    changed: set[int] = set()
    for item in items:
        for row, seen in known.about(item):
            recorded = None
            if row is not None:
                its = jobs.on(row)
                recorded = rows.recorded_of(row, cluster, its, believed_since=believed_since, at=at)
            decision = decide(recorded, seen, policy)
            if seen.interval.not_after > at:  # guard
                # Dated by a clock that was ahead: it says nothing of now.
                decision = Decision(Action.ASK, Rule.STALE)
            elif row is not None and row.pk in changed:  # guard
                decision = Decision(Action.ASK, Rule.OVERLAPS)
            settled.append(Settled(item, seen, decision, row))
            if row is not None and decision.action is Action.RECORD:
                changed.add(row.pk)
            if (
                row is not None
                and isinstance(seen, Listed | Answer)
                and decision.rule not in (Rule.STALE, Rule.OVERLAPS)  # guard
            ):
                known.claim(row, seen)
    _brake(cluster, settled, tuning, at=at)
    for it in settled:
        if not it.is_held:
            _draft(known, it, cluster, tuning, at)
    known.write()
    return settled


def in_batches(
    items: Iterable[T], work: Callable[[list[T]], None], spoil: Callable[[T, Exception], None]
) -> None:
    """Work through items a batch at a time; a batch that fails is halved down to the culprit.

    Args:
        items: what is to be done.
        work: does a batch, in a transaction of its own.
        spoil: told of the one that cannot be done, and why.

    Raises:
        django.db.OperationalError: the database is away, or busy; nobody's fault.
    """
    waiting = list(items)
    batches = [waiting[start : start + BATCH] for start in range(0, len(waiting), BATCH)]
    while batches:
        batch = batches.pop(0)
        try:
            work(batch)
        except Exception as error:
            if is_of_database(error):
                raise
            if len(batch) == 1:
                spoil(batch[0], error)
            else:
                middle = len(batch) // 2
                batches[:0] = [batch[:middle], batch[middle:]]


def is_of_database(error: Exception) -> bool:
    """Whether an error says that the database is away, or busy, and nothing of what was written.

    What is too much for it at any time (class 54 of its codes) is the fault of what was written.
    """
    code = str(getattr(error.__cause__, "sqlstate", None) or "")
    return isinstance(error, OperationalError | InterfaceError) and not code.startswith("54")


class _Rows:
    """The rows of all instances that a batch is about, locked in the order of their keys."""

    def __init__(self, cluster: Cluster, items: Sequence[Item]) -> None:
        seen = [it.seen.seen for it in items if isinstance(it.seen, Listed | Answer)]
        told = {it.uuid for it in seen}
        uuids = told | {item.uuid for item in items}
        names = {it.instance for it in seen} | {it.name for it in items if it.uuid is None}
        self._drafts: dict[int, _Draft] = {}
        self._by_uuid: dict[str, Instance] = {}
        self._by_name: dict[str, Instance] = {}
        """Of those that have no lasting uuid."""
        self._new: list[_Draft] = []
        self._has_uuid = living_with_uuid(cluster, seen)
        for row in _of(cluster, uuids - {None}, names):
            if row.uuid:
                self._by_uuid[row.uuid] = row
            if rows.is_known_by_name(row, told):
                self._by_name[row.name] = row
        self.cluster = cluster

    def about(self, item: Item) -> list[tuple[Instance | None, Seen]]:
        """Return who is concerned by an item, and what it is evidence of for each.

        A reply that names another than the one asked says that the one asked is absent.
        """
        asked = self.find(item.uuid, item.name)
        if not isinstance(item.seen, Listed | Answer):
            return [(asked, item.seen)]
        if item.seen.seen.uuid is None and (  # guard
            item.seen.seen.instance in self._has_uuid or (asked is not None and asked.uuid)
        ):
            # Evidence without a uuid convicts nobody who has one.
            return []
        answering = self.find(item.seen.seen.uuid, item.seen.seen.instance)
        if asked is None or asked is answering or isinstance(item.seen, Listed):
            return [(answering, item.seen)]
        full = item.seen.seen.instance
        if answering is None and is_announced(asked) and completes(full, asked.name):
            # Ganeti has completed the name that it was announced by.
            name_row(asked, full)
            self._by_name.pop(asked.name, None)
            asked.name = full
            self._by_name[full] = asked
            return [(asked, item.seen)]
        return [(asked, Absent(item.seen.interval)), (answering, item.seen)]

    def find(self, uuid: str | None, name: str) -> Instance | None:
        """Return a row by uuid; else the one of exactly this name that has no lasting uuid."""
        found = self._by_uuid.get(uuid) if uuid else None
        return found or self._by_name.get(name)

    def claim(self, row: Instance, seen: Listed | Answer) -> None:
        """Give a row that had no lasting uuid the one that its name turned out to have."""
        uuid = seen.seen.uuid
        if uuid is None or row.uuid == uuid or (row.uuid and row.backend_status):
            return
        values: dict[str, Any] = {"uuid": uuid}
        if row.backend_status:
            # One that was announced keeps the id that the API gave it.
            values["api_id"] = UUID(uuid)
        if row.backend_status:
            self._by_name.pop(row.name, None)
        self._by_uuid.pop(row.uuid or "", None)
        self._by_uuid[uuid] = row
        self.draft(row).set({**values, "revision": row.revision + 1})

    def draft(self, row: Instance) -> _Draft:
        """Return what is to be written of a row."""
        return self._drafts.setdefault(row.pk, _Draft(row))

    def create(self, seen: Answer | Listed, at: datetime) -> _Draft:
        """Begin a row for one that was not known."""
        interval = seen.interval
        row = Instance(
            cluster=self.cluster, epoch=self.cluster.epoch, created_at=at,
            uuid=seen.seen.uuid, name=seen.seen.instance,
            observed_not_before=interval.not_before, observed_not_after=interval.not_after,
        )  # fmt: skip
        if row.uuid:
            row.api_id = UUID(row.uuid)
            self._by_uuid[row.uuid] = row
        else:
            self._by_name[row.name] = row
        draft = _Draft(row, is_new=True)
        self._new.append(draft)
        return draft

    def write(self) -> None:
        """Write every row that is to be another, and the trail."""
        for draft in self._new:
            draft.row.save(force_insert=True)
            for it in draft.trail:
                it.instance = draft.row
        by_shape: dict[tuple[str, ...], list[tuple[Mapping[str, Any], dict[str, Any]]]] = {}
        for key, draft in sorted(self._drafts.items()):
            if draft.values:
                by_shape.setdefault(tuple(draft.values), []).append((draft.values, {"pk": key}))
        for changes in by_shape.values():
            statements.update_each(Instance, changes)
        statements.insert(
            [it for draft in (*self._new, *self._drafts.values()) for it in draft.trail]
        )


def _of(
    cluster: Cluster, uuids: Iterable[str | None], names: Iterable[str]
) -> "QuerySet[Instance]":
    mine = Instance.objects.filter(cluster=cluster).filter(
        Q(uuid__in=list(uuids)) | (rows.HAS_NO_LASTING_UUID & Q(name__in=list(names)))
    )
    return mine.select_for_update().order_by("pk")


def _brake(cluster: Cluster, settled: Sequence[Settled], tuning: Tuning, *, at: datetime) -> None:
    """Hold back what would be too much at once."""
    entries = {}
    for it in settled:
        entry = entry_of(it.row, it.decision)
        if entry is not None and it.decision.action is Action.RECORD:
            entries[id(it)] = entry
    if not entries:
        return
    reason, coming = holds.weigh(cluster, list(entries.values()), tuning, at=at)
    for it in settled:
        it.is_held = bool(reason) and entries.get(id(it)) in coming


def entry_of(row: Instance | None, decision: Decision) -> Entry | None:
    """Return what a hold would name, where the decision takes something away."""
    after = next((it.after for it in decision.changes if it.field == "status"), None)
    if row is None or not row.backend_status or after is None:
        return None
    if not brake.is_braked(row.status, after):
        return None
    return Entry(rows.key_of(row), row.name, row.status, str(after))


def _draft(known: _Rows, it: Settled, cluster: Cluster, tuning: Tuning, at: datetime) -> None:
    decision, seen, row = it.decision, it.seen, it.row
    is_recorded = decision.action is Action.RECORD
    if row is None and not (is_recorded and isinstance(seen, Answer | Listed)):
        return
    if not (is_recorded or decision.memory is not None or decision.confirms):
        if row is not None and isinstance(seen, Answer | Absent):
            turn = {"audited_at": seen.interval.not_before}
            known.draft(row).set(_epoch(row, cluster) | turn)
        return
    if row is None:
        assert isinstance(seen, Answer | Listed)
        is_known = known.find(seen.seen.uuid, seen.seen.instance) is not None
        if is_known or not is_instance_name(seen.seen.instance):  # guard
            return
        draft = known.create(seen, at)
        it.row = draft.row
        values: dict[str, Any] = {}
    else:
        draft = known.draft(row)
        values = _epoch(row, cluster)
    row = draft.row
    if decision.memory is not None:
        values |= rows.values_of_memory(decision.memory)
    if is_recorded:
        values |= {change.field: to_json(change.after) for change in decision.changes}
        values |= _observed(_interval_of(it, row, cluster, at))
    if decision.confirms:
        values["confirmed_at"] = max(
            seen.interval.not_before, values.get("confirmed_at", row.confirmed_at) or OLDEST
        )
    if isinstance(seen, Answer | Absent):
        # Its turn is when the evidence began: what is wanted since has yet to have one.
        values["audited_at"] = seen.interval.not_before
    if not draft.is_new:
        values |= _counted(row, decision, tuning, at)
    if decision.changes or decision.memory is not None:
        values["revision"] = row.revision + 1
    fold = bool(values.get("flapping_since", row.flapping_since))
    if is_recorded:
        draft.trail += _trail(draft, it, at, fold=fold)
    draft.set(values)


def _interval_of(it: Settled, row: Instance, cluster: Cluster, at: datetime) -> Interval:
    """Return when the state was read that is recorded now.

    What lists settle was read by the last of them; an operation that began, by the reading,
    unless the instance itself was read since. What tells of other fields, and not of the state,
    or is gainsaid by lists about it, leaves it as old as it was.
    """
    observed = rows.observed_of(row, cluster, at=at)
    if isinstance(it.seen, Answer) and not it.decision.confirms:
        return observed or row.observed
    if it.decision.rule is Rule.OPERATION_BEGAN and observed is not None:
        return max(it.seen.interval, observed, key=lambda interval: interval.not_after)
    if it.decision.rule in BY_LISTS and isinstance(it.seen, QueueRead):
        kept, left = rows.differs_of(row.differs, at=at), it.decision.memory
        names = kept.keys() - (left.differs.keys() if left else set())
        if left and "state" in left.differs:
            return observed or row.observed
        lists = [kept[name].last for name in names]
        if observed is not None and "state" not in names:
            lists.append(observed)
        if lists:
            return max(lists, key=lambda interval: interval.not_after)
    return it.seen.interval


def _epoch(row: Instance, cluster: Cluster) -> dict[str, Any]:
    """Return the columns that void what a row holds of another epoch."""
    return {} if row.epoch == cluster.epoch else rows.void(cluster)


def _observed(interval: Interval) -> dict[str, Any]:
    return {
        "observed_not_before": interval.not_before,
        "observed_not_after": interval.not_after,
    }


def _counted(row: Instance, decision: Decision, tuning: Tuning, at: datetime) -> dict[str, Any]:
    """Count the changes of status within a window; too many of them are flapping."""
    changes = sum(change.field == "status" for change in decision.changes)
    since, count = row.changes_since, row.changes_in_window
    if not changes and row.flapping_since is None:
        return {}
    if since is None or not at - tuning.flapping.window <= since <= at:
        since, count = at, 0
    count += changes
    is_flapping = count > tuning.flapping.changes
    return {
        "changes_since": since,
        "changes_in_window": count,
        "flapping_since": (row.flapping_since or at) if is_flapping else None,
    }


def _trail(draft: _Draft, it: Settled, at: datetime, *, fold: bool) -> list[Transition]:
    new = []
    seen = it.seen
    word = seen.seen.backend_status if isinstance(seen, Listed | Answer) else None
    for change in trail(it.decision):
        values: dict[str, Any] = {
            "after": to_json(change.after),
            "backend_status": word or "",
            "rule": it.decision.rule.value,
            "source": it.item.source,
            "job_id": it.item.job_id,
            "at": at,
        }
        if fold:
            values["folded"] = _folded(draft.row, change.field)
        before = to_json(change.before)
        new.append(Transition(instance=draft.row, field=change.field, before=before, **values))
    return new


def _folded(row: Instance, field: str) -> int:
    """Take the last change of a field out of the history; returns for how many the next stands."""
    last = Transition.objects.filter(instance=row, field=field).order_by("-id").first()
    if last is None:
        return 0
    last.delete()
    return last.folded + 1
