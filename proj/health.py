"""What is missing for the service to do its work, one line each."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from django.conf import settings
from django.db import Error, connection
from django.db.models import Exists, F, Max, OuterRef, Q, QuerySet
from redis.exceptions import RedisError

from proj.clock import now
from proj.inventory import schema
from proj.inventory.fleet import held, is_queue_read
from proj.inventory.models import Cluster, Instance, Question
from proj.inventory.schema import Schema
from proj.reconcile import holds, rows, shown
from proj.wiring import tuning

PERIODS = 5
"""A cluster's turn may be late by so many periods before beat is taken for dead."""
FAILURES = 7
"""So many readings in a row that failed, and were backed off from, take more than a minute."""
EXAMINED = 1000
NAMED = 5
"""Instances that are late: so many are looked at, and so many named."""


def problems() -> Iterator[str]:
    """Yield a line for each thing that is missing; nothing when all is well."""
    at = None
    try:
        at = now()
    except RedisError:
        yield "no answer from Redis (REDIS_URL)"
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except Error:
        yield "no answer from the database (DATABASE_URL)"
        return
    found = schema.compare()
    if found is Schema.BEHIND:
        yield "the database lacks migrations: manage.py migrate"
        return
    if found is Schema.AHEAD:
        yield "the database is of a later version than this code: install that version"
        return
    if at is not None:
        if _is_nobody_looking(at):
            yield "no cluster was looked at when it was due: do beat and the worker `ganeti` run?"
        yield from _broken_promises(at)


def _broken_promises(at: datetime) -> Iterator[str]:
    """Yield a line for each cluster whose changes may be recorded later than is promised."""
    bound = tuning().bound
    for cluster in Cluster.objects.filter(paused=False):
        is_unlisted = cluster.listed_at is not None and cluster.listed_at < at - bound
        if cluster.failures >= FAILURES or is_unlisted:
            why = _error(cluster) or "its looks do not end: see the log of the worker `ganeti`"
            yield f"{cluster.name}: its instances cannot be listed: {why}"
        elif _is_list_incomplete(cluster, at - bound):
            yield f"{cluster.name}: no complete list since long: {_finding(cluster)}"
        if _is_queue_unread(cluster, at):
            yield f"{cluster.name}: its job queue could not be read: no bound holds for changes"
    unasked = _was_not_asked_since(at - bound) | Q(ask_failures__gt=0)
    for cluster in _with_questions_since(at - bound).filter(unasked):
        why = "nobody asks them: does the worker `ganeti` run?"
        if cluster.ask_failures:
            why = f"cannot be asked: {_error(cluster)}"
        yield f"{cluster.name}: questions wait, and {why}"
    for cluster in _with_answers_since(at - bound):
        yield f"{cluster.name}: answers wait to be settled: does the worker `reconcile` run?"
    late = Instance.objects.filter(
        Q(differs_since__lt=at - 2 * bound) | Q(missing_first__lt=at - 2 * bound),
        cluster__paused=False, cluster__failures=0, cluster__follow_failures=0,
        epoch=F("cluster__epoch"),
    )  # fmt: skip
    late = late.filter(rows.LIVES_OR_RETURNS)
    found = list(late.select_related("cluster").order_by("pk")[:EXAMINED])
    for row in [it for it in found if it not in _excused(found, at)][:NAMED]:
        since = min(filter(None, (row.differs_since, row.missing_first)))
        yield f"{row}: what lists say since {since:%H:%M:%S} is not recorded yet"


def _is_queue_unread(cluster: Cluster, at: datetime) -> bool:
    """Whether its job queue was not read for PROOF_WITHIN; one that was just added is awaited."""
    if cluster.read_not_after is not None:
        return not is_queue_read(cluster, at=at)
    looks = settings.PROOF_WITHIN / settings.LOOK_PERIOD_MIN
    return cluster.follow_failures >= FAILURES or cluster.looks > max(1, looks)


def _error(cluster: Cluster) -> str:
    return cluster.last_error.removeprefix(f"{cluster.name}: ")


def _is_list_incomplete(cluster: Cluster, since: datetime) -> bool:
    """Whether the lists since then were incomplete: one that is cut short by its digest was not."""
    looked = cluster.looked_not_after
    is_old = cluster.looks > PERIODS if looked is None else looked < since
    return is_old and not cluster.agreed_digest and bool(cluster.findings)


def _finding(cluster: Cluster) -> str:
    first = cluster.findings[0]
    return f"{first.get('instance')}: {first.get('problem')}"


def _with_questions_since(since: datetime) -> "QuerySet[Cluster]":
    """Return the clusters of which somebody may be asked about, and has waited since then."""
    waiting = Question.objects.filter(
        Q(retry_at=None) | Q(retry_at__lt=since),
        cluster=OuterRef("pk"), token="", epoch=OuterRef("epoch"), wanted_since__lt=since,
    )  # fmt: skip
    return Cluster.objects.filter(Exists(waiting), paused=False, failures=0, follow_failures=0)


def _with_answers_since(since: datetime) -> "QuerySet[Cluster]":
    """Return the clusters where an answer waits to a question that is as old as this."""
    waiting = Question.objects.filter(
        cluster=OuterRef("pk"),
        answer__isnull=False,
        epoch=OuterRef("epoch"),
        wanted_since__lt=since,
    )
    settled = Q(settled_at=None) | Q(settled_at__lt=since)
    return Cluster.objects.filter(settled, Exists(waiting), paused=False)


def _was_not_asked_since(since: datetime) -> Q:
    is_overdue = Q(next_ask_at=None) | Q(next_ask_at__lt=since)
    return is_overdue & (Q(asked_at=None) | Q(asked_at__lt=since)) & Q(ask_failures=0)


def _excused(found: Sequence[Instance], at: datetime) -> set[Instance]:
    """Return those that wait by right: for a job, for an operator, or while a job gainsays lists.

    By a constant number of statements.
    """
    states = shown.task_states(found, at=at)
    clusters = {row.cluster_id for row in found}
    waiting = held(Cluster.objects.filter(pk__in=clusters)) if clusters else ()
    keys = {(hold.cluster_id, it.key) for hold in waiting for it in holds.entries_of(hold)}
    return {
        row
        for row in found
        if states[row.pk]
        or (row.cluster_id, rows.key_of(row)) in keys
        or (row.missing_first is None and _is_disputed(row, at))
    }


def _is_disputed(row: Instance, at: datetime) -> bool:
    differs = rows.differs_of(row.differs, at=at).values()
    return bool(differs) and all(it.acquittals or it.asleep_until for it in differs)


def _is_nobody_looking(at: datetime) -> bool:
    """Whether every turn that was set has passed; each look, also one that failed, sets the next.

    One cluster that hangs proves nothing, and one that was just added has no turn yet.
    """
    clusters = Cluster.objects.filter(paused=False)
    newest: datetime | None = clusters.aggregate(newest=Max("next_look_at"))["newest"]
    patience = max(PERIODS * settings.LOOK_PERIOD, timedelta(seconds=30))
    return newest is not None and newest < at - patience
