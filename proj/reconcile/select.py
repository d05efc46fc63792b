"""Select: decide for every instance of a look, and say whom to ask."""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db import connection
from django.db.models import Q
from django.db.models.functions import Coalesce

from proj.backend import Look, Unreadable
from proj.inventory.models import Cluster, Instance, Pass, Query
from proj.observation import Observation, Status
from proj.reconcile import brake, memo
from proj.reconcile.decide import (
    SETTLED,
    Absence,
    Action,
    Decision,
    Policy,
    Recorded,
    Rule,
    Seen,
    decide,
)
from proj.reconcile.rows import looked_of, recorded_of
from proj.reconcile.settings import Tuning

ROWS_BY_NAME = 500
"""Up to so many rows are fetched by their names, more by fetching all."""


@dataclass(slots=True)
class Selection:
    """What one look came to: a decision for every instance that may have news."""

    decided: dict[str, tuple[Seen, Decision, Recorded | None]] = field(default_factory=dict)
    agreed: int = 0
    """How many more agreed as they did before."""
    unreadable: list[Unreadable] = field(default_factory=list)

    def names(self, action: Action) -> list[str]:
        """Return the instances for which ``action`` was decided."""
        return [name for name, (_, it, _) in self.decided.items() if it.action is action]

    def is_news(self) -> bool:
        """Whether anything is to be done about any instance."""
        idle = (Action.NOTHING, Action.REPORT)
        return any(it.action not in idle for _, it, _ in self.decided.values())

    def agrees(self) -> bool:
        """Whether nothing differs, is under way, cannot be read or is too new to be judged."""
        settled = (Action.NOTHING, Rule.AGREES)
        return not self.unreadable and all(
            (it.action, it.rule) == settled for _, it, _ in self.decided.values()
        )


@dataclass(frozen=True, slots=True)
class Question:
    """Instances to be asked about, how urgently, and whether by their name only."""

    lane: Query.Lane
    names: list[str]
    by_name: bool = False


def select(cluster: Cluster, look: Look, policy: Policy) -> Selection:
    """Decide for every instance that the look saw, or that it missed.

    One that agreed before, and of which neither the record nor the row has changed since, is
    not decided about again.
    """
    known = Instance.objects.filter(cluster=cluster).exclude(status=Status.DELETED)
    revisions = dict(known.values_list("name", "revision"))
    before, agreed = memo.recall(cluster.pk), memo.Agreed()
    prints = look.prints()
    places = []
    for place, (name, mark) in enumerate(prints):
        if name in before and before[name] == (mark, revisions.get(name)):
            agreed[name] = before[name]
        else:
            places.append(place)
    selection = Selection(agreed=len(agreed))
    sights: dict[str, Seen] = {}
    for record in look.read(places):
        if isinstance(record, Unreadable):
            selection.unreadable.append(record)
        else:
            sights[record.instance] = record
    hidden = {record.instance for record in selection.unreadable}
    # A record whose name cannot be read may be anybody's who seems to be missing.
    if None not in hidden:
        for name in revisions.keys() - agreed.keys() - sights.keys() - hidden:
            sights[name] = Absence(by_name=False, interval=look.interval)
    marks = dict(prints)
    rows, looked = _rows(cluster, sights), looked_of(cluster)
    for name, seen in sights.items():
        row = rows.get(name)
        recorded = recorded_of(row, looked) if row else None
        decision = decide(recorded, seen, policy)
        selection.decided[name] = (seen, decision, recorded)
        if row and recorded and _is_settled(recorded, decision):
            agreed[name] = (marks[name], row.revision)
    memo.keep(cluster.pk, agreed)
    return selection


def _rows(cluster: Cluster, names: Collection[str]) -> dict[str, Instance]:
    rows = Instance.objects.filter(cluster=cluster)
    if len(names) <= ROWS_BY_NAME:
        rows = rows.filter(name__in=list(names))
    return {row.name: row for row in rows}


def _is_settled(recorded: Recorded, decision: Decision) -> bool:
    return (
        recorded.memory == SETTLED
        and recorded.status is not Status.DELETED
        and (decision.action, decision.rule) == (Action.NOTHING, Rule.AGREES)
    )


def mass_change(selection: Selection, look: Look, limits: brake.Limits) -> brake.Held | None:
    """Return why this look must wait for an operator, or None."""
    known = selection.agreed
    deleted, stopped = [], []
    for name, (seen, decision, recorded) in selection.decided.items():
        # One that Ganeti never showed, like a build that failed, cannot vanish; and what a job
        # of Ganeti's own did to one is no surprise.
        if recorded is None or not recorded.backend_status or recorded.memory.operation:
            continue
        known += 1
        if isinstance(seen, Absence):
            if decision.rule in (Rule.MISSING_ONCE, Rule.MISSING_TWICE):
                deleted.append(name)
        elif (
            recorded.status is Status.ACTIVE
            and decision.action in (Action.ASK, Action.RECORD)
            and getattr(seen, "status", None) is Status.STOPPED
        ):
            stopped.append(name)
    return brake.hold(
        known=known, listed=look.size, deleted=deleted, stopped=stopped, limits=limits
    )


def passes_freely(seen: Seen, decision: Decision) -> bool:
    """Whether a decision is carried out even in a pass that is held: UNKNOWN takes nothing away."""
    return (
        isinstance(seen, Observation)
        and seen.status is Status.UNKNOWN
        and decision.action in (Action.RECORD, Action.REMEMBER)
    )


def questions(
    pass_of: Pass, look: Look, selection: Selection, audit: list[str], *, at: datetime
) -> list[Question]:
    """Return whom to ask: suspects, names to be proven gone, and those whose turn it is."""
    suspects = _not_backing_off(pass_of.cluster, selection.names(Action.ASK), at=at)
    asked = [
        Question(Query.Lane.SUSPECT, suspects),
        Question(Query.Lane.SUSPECT, selection.names(Action.ASK_BY_NAME), by_name=True),
    ]
    if pass_of.looks == 0:
        everybody = pass_of.kind == Pass.Kind.ALL
        rest = [seen.instance for seen in look.listed] if everybody else audit
        known = set(suspects)
        asked.append(Question(Query.Lane.AUDIT, [name for name in rest if name not in known]))
    return [question for question in asked if question.names]


def _not_backing_off(cluster: Cluster, names: list[str], *, at: datetime) -> list[str]:
    """Leave out those whose queries failed again and again, until their time has come."""
    if not names:
        return names
    waiting = set(
        Instance.objects.filter(cluster=cluster, ask_after__gt=at).values_list("name", flat=True)
    )
    return [name for name in names if name not in waiting]


@dataclass(frozen=True, slots=True)
class Known:
    """What the rows of a cluster come to, without reading them one by one."""

    revisions: int
    """Another number than before: a row changed by which later decisions may differ."""
    working: int
    """Instances on which an operation is under way or has just ended."""
    due: int
    """Instances that may be due for the audit."""


def known_rows(cluster: Cluster, *, at: datetime) -> Known:
    """Count the rows of a cluster, by one statement."""
    old = connection.ops.adapt_datetimefield_value(at - cluster.confirm_max_age / 2)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT COALESCE(SUM(revision), 0), COUNT(*) FILTER (WHERE operation <> ''),"
            " COUNT(*) FILTER (WHERE confirmed_at IS NULL OR confirmed_at < %s"
            " OR ask_failures > 0 OR flapping_since IS NOT NULL)"
            f" FROM {Instance._meta.db_table} WHERE cluster_id = %s",
            [old, cluster.pk],
        )
        return Known(*(int(number) for number in cursor.fetchone()))


def due_for_audit(cluster: Cluster, tuning: Tuning, *, at: datetime) -> list[str]:
    """Return those whose turn it is to be confirmed, oldest first, within the hourly budget.

    One whose queries failed is due again, before its confirmation is old, when its wait is over;
    one that flapped, when it may have come to rest.
    """
    per_look = max(1, round(cluster.jobs_per_hour * tuning.look_period / 3600))
    due = (
        Q(confirmed_at=None)
        | Q(confirmed_at__lt=at - cluster.confirm_max_age / 2)
        | Q(ask_failures__gt=0)
        | Q(flapping_since__isnull=False, confirmed_at__lt=at - tuning.flapping.window)
    )
    waiting = Query.objects.filter(cluster=cluster, state__in=Query.UNFINISHED)
    names = list(
        Instance.objects.filter(due, cluster=cluster)
        .filter(Q(ask_after=None) | Q(ask_after__lte=at))
        .exclude(status=Status.DELETED)
        # A query would wait for the lock that the job holds on its instance.
        .exclude(operation_job_id__isnull=False, operation_end="")
        .exclude(name__in=waiting.values("instance"))
        .order_by(Coalesce("confirmed_at", at - timedelta(days=36500)), "pk")
        .values_list("name", flat=True)[:per_look]
    )
    if not names:
        return names
    spent = Query.objects.filter(
        cluster=cluster, lane=Query.Lane.AUDIT, submitted_at__gt=at - timedelta(hours=1)
    ).count()
    return names[: max(0, cluster.jobs_per_hour - spent)]
