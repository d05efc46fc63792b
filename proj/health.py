"""What is missing for the service to do its work, one line each."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import islice

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
from proj.reconcile.context import BACKWARDS
from proj.wiring import tuning

PERIODS = 5
"""A cluster's turn may be late by so many periods before beat is taken for dead."""
FAILURES = 7
"""So many readings in a row that failed, and were backed off from, take more than a minute."""
PAGE = 1000
NAMED = 5
"""Instances that are late: so many are looked at together, and so many named."""


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
    bound, unreadable = tuning().bound, []
    clusters = Cluster.objects.filter(paused=False).annotate(
        has_questions=Exists(_questions_since(at - bound)),
        has_answers=Exists(_answers_since(at - bound)),
    )
    for cluster in clusters:
        # Also of an epoch before: whoever looks at it sets it anew at once.
        listed = cluster.listed_at
        is_unlisted = listed is not None and not at - bound <= listed <= at + BACKWARDS
        if cluster.failures >= FAILURES or is_unlisted:
            why = _error(cluster) or "its looks do not end: see the log of the worker `ganeti`"
            yield f"{cluster.name}: its instances cannot be listed: {why}"
            unreadable.append(cluster.pk)
        elif _is_list_incomplete(cluster, at - bound):
            yield f"{cluster.name}: no complete list since long: {_finding(cluster)}"
        if _is_queue_unread(cluster, at):
            yield f"{cluster.name}: its job queue could not be read: no bound holds for changes"
            unreadable.append(cluster.pk)
        if cluster.has_questions and cluster.ask_failures:
            yield f"{cluster.name}: questions wait, and cannot be asked: {_error(cluster)}"
        elif _is_unasked(cluster, at - bound, has_questions=cluster.has_questions):
            yield f"{cluster.name}: nobody asks about it: does the worker `on-demand` run?"
        if cluster.has_answers and not _is_later(at - bound, cluster.settled_at):
            why = "does the worker `reconcile` run?"
            yield f"{cluster.name}: answers wait to be settled: {why}"
    late = Instance.objects.filter(
        Q(differs_since__lt=at - 2 * bound) | Q(missing_first__lt=at - 2 * bound),
        rows.LIVES_OR_RETURNS, cluster__paused=False, epoch=F("cluster__epoch"),
    ).exclude(cluster__in=unreadable)  # fmt: skip
    for row in islice(_unexcused(late, at), NAMED):
        since = min(filter(None, (row.differs_since, row.missing_first)))
        yield f"{row}: what lists say since {since:%H:%M:%S} is not recorded yet"


def _unexcused(late: "QuerySet[Instance]", at: datetime) -> Iterator[Instance]:
    """Yield those that do not wait by right."""
    for page in rows.pages(late.select_related("cluster"), PAGE):
        excused = _excused(page, at)
        yield from (row for row in page if row not in excused)


def _is_unasked(cluster: Cluster, since: datetime, *, has_questions: bool) -> bool:
    """Whether no chain has seen since then whether anything is to be asked, as each look has it."""
    if cluster.asked_at is None:
        return has_questions
    return cluster.asked_at < since and not cluster.is_failing


def _is_later(than: datetime, *moments: datetime | None) -> bool:
    """Whether any of these moments is no earlier."""
    return any(moment is not None and moment >= than for moment in moments)


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


def _questions_since(since: datetime) -> "QuerySet[Question]":
    """Return a cluster's questions that might be asked, and have waited since then."""
    return Question.objects.filter(
        Q(retry_at=None) | Q(retry_at__lt=since),
        cluster=OuterRef("pk"), token="", epoch=OuterRef("epoch"), wanted_since__lt=since,
    )  # fmt: skip


def _answers_since(since: datetime) -> "QuerySet[Question]":
    """Return a cluster's answers that wait to be settled, to questions that are as old as this."""
    return Question.objects.filter(
        cluster=OuterRef("pk"),
        answer__isnull=False,
        epoch=OuterRef("epoch"),
        wanted_since__lt=since,
    )


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
