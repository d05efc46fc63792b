"""Select: decide for every instance of a look, and say whom to ask."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db.models import Q
from django.db.models.functions import Coalesce

from proj.backend import Look
from proj.inventory.models import Cluster, Instance, Pass, Query
from proj.observation import JobEnd, Observation, Status
from proj.reconcile import brake
from proj.reconcile.decide import (
    Absence,
    Action,
    Decision,
    Ended,
    Policy,
    Recorded,
    Rule,
    Seen,
    Working,
    decide,
)
from proj.reconcile.rows import looked_of, recorded_of
from proj.reconcile.settings import Tuning


@dataclass(slots=True)
class Selection:
    """What one look came to: a decision for every instance seen or missed."""

    decided: dict[str, tuple[Seen, Decision, Recorded | None]] = field(default_factory=dict)

    def names(self, action: Action) -> list[str]:
        """Return the instances for which ``action`` was decided."""
        return [name for name, (_, it, _) in self.decided.items() if it.action is action]

    def is_news(self) -> bool:
        """Whether anything is to be done about any instance."""
        return any(it.action is not Action.NOTHING for _, it, _ in self.decided.values())

    def agrees(self) -> bool:
        """Whether nothing differs, nothing is under way and nothing is too new to be judged."""
        settled = (Action.NOTHING, Rule.AGREES)
        return all((it.action, it.rule) == settled for _, it, _ in self.decided.values())


@dataclass(frozen=True, slots=True)
class Question:
    """Instances to be asked about, how urgently, and whether by their name only."""

    lane: Query.Lane
    names: list[str]
    by_name: bool = False


def select(cluster: Cluster, look: Look, ends: Mapping[int, JobEnd], policy: Policy) -> Selection:
    """Decide for every instance that the look saw, or that it missed."""
    rows = {row.name: row for row in Instance.objects.filter(cluster=cluster)}
    looked = looked_of(cluster)
    recorded = {name: recorded_of(row, looked) for name, row in rows.items()}
    selection = Selection()

    def weigh(name: str, seen: Seen) -> None:
        known = recorded.get(name)
        selection.decided[name] = (seen, decide(known, seen, policy), known)

    working = {work.instance: work for work in look.work}
    for observation in look.listed:
        weigh(observation.instance, observation)
    complete = all(record.instance is not None for record in look.unreadable)
    seen_names = {o.instance for o in look.listed} | {u.instance for u in look.unreadable}
    if complete:
        for name in recorded.keys() - seen_names:
            weigh(name, Absence(by_name=False, interval=look.interval))
    for name, work in working.items():
        weigh(name, Working(work.operation, work.job_id, look.interval))
    for name, known in recorded.items():
        operation = known.memory.operation
        if operation is None or operation.job_id is None or name in working:
            continue
        end = ends.get(operation.job_id)
        if end is not None:
            weigh(name, Ended(operation.name, operation.job_id, end, look.interval))
    return selection


def mass_change(selection: Selection, look: Look, limits: brake.Limits) -> brake.Held | None:
    """Return why this look must wait for an operator, or None."""
    known = 0
    deleted, stopped = [], []
    for name, (seen, decision, recorded) in selection.decided.items():
        # One that Ganeti never showed, like a build that failed, cannot vanish.
        if recorded is None or not recorded.backend_status:
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
    listed = look.size + len(look.work)
    return brake.hold(known=known, listed=listed, deleted=deleted, stopped=stopped, limits=limits)


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


def due_for_audit(cluster: Cluster, tuning: Tuning, *, at: datetime) -> list[str]:
    """Return those whose turn it is to be confirmed, oldest first, within the hourly budget."""
    per_look = max(1, round(cluster.jobs_per_hour * tuning.look_period / 3600))
    due = Q(confirmed_at=None) | Q(confirmed_at__lt=at - cluster.confirm_max_age / 2)
    waiting = Query.objects.filter(cluster=cluster, state__in=Query.UNFINISHED)
    names = list(
        Instance.objects.filter(due, cluster=cluster)
        .filter(Q(ask_after=None) | Q(ask_after__lte=at))
        .exclude(status=Status.DELETED)
        # A query would wait for the lock that the job holds on its instance.
        .exclude(operation_job_id__isnull=False, operation_end="")
        .exclude(name__in=waiting.values("instance"))
        .order_by(Coalesce("confirmed_at", at - timedelta(days=36500)))
        .values_list("name", flat=True)[:per_look]
    )
    if not names:
        return names
    spent = Query.objects.filter(
        cluster=cluster, lane=Query.Lane.AUDIT, submitted_at__gt=at - timedelta(hours=1)
    ).count()
    return names[: max(0, cluster.jobs_per_hour - spent)]
