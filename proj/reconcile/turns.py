"""The right to take a turn at a cluster, for a while; and the epoch that its moments belong to.

A turn is a lease in the cluster's row with a token: what it leaves behind is written only while
the token is still in the row. A clock that has jumped since the last turn, or a database that
is another, begins a new epoch, in which every older moment is void.
"""

import logging
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Literal

from django.db import connection, transaction
from django.db.models import F, Q

from proj.inventory import schema, statements
from proj.inventory.models import (
    Cluster,
    Hold,
    Installation,
    Job,
    Question,
    Request,
    new_generation,
)
from proj.reconcile import memo
from proj.reconcile.context import BACKWARDS, Clock
from proj.reconcile.settings import Tuning

logger = logging.getLogger(__name__)

Kind = Literal["look", "follow", "await"]

FORWARDS = timedelta(minutes=10)
"""A turn later than this after the last one cannot tell a pause from a clock that has jumped."""
CONCURRENT = 50
"""The row's version may seem to go back by so much: threads read it in another order."""


@dataclass(slots=True)
class Turn:
    """A cluster that is ours for the moment, and what is to be left in its row."""

    cluster: Cluster
    token: str
    at: datetime
    """When it was taken."""
    kind: Kind
    seconds: float
    """How long its lease lasts."""
    now: Clock
    values: dict[str, Any] = field(default_factory=dict)
    told: Mapping[str, Any] = field(default_factory=dict)

    @property
    def memo(self) -> memo.Memo:
        """What this process remembers of the cluster."""
        return memo.recall(self.cluster.pk, self.cluster.generation)

    def lock(self) -> bool:
        """Lock the cluster's row for the present transaction; False where the turn is over.

        The lease begins anew: whoever has so much to do is alive.
        """
        until = self.now() + timedelta(seconds=self.seconds)
        mine = {"pk": self.cluster.pk, f"{self.kind}_token": self.token}  # guard: token
        return bool(statements.update(Cluster, {f"{self.kind}_until": until}, **mine))


@contextmanager
def turn(
    name: str, kind: Kind, seconds: float, *, now: Clock, told: Mapping[str, str] | None = None
) -> Iterator[Turn | None]:
    """Hold the cluster for one kind of turn; None while somebody else does, or it is not there.

    ``Turn.values`` are written as the turn ends, unless it is another's by then.
    """
    taken = take(name, kind, seconds, now=now, told=told)
    if taken is None:
        yield None
        return
    try:
        yield taken
    finally:
        release(taken)


def take(
    name: str, kind: Kind, seconds: float, *, now: Clock, told: Mapping[str, str] | None = None
) -> Turn | None:
    """Begin a turn that ends after ``seconds`` by itself; None while it is another's.

    Args:
        name: the cluster.
        kind: which turn.
        seconds: how long the lease lasts.
        now: the clock.
        told: what else the same statement is to tell of the cluster: SQL by name, in ``Turn.told``.
    """
    token, at = secrets.token_hex(8), now()
    # A lease that ends later than any that begins now was dated by another clock.
    until = at + timedelta(seconds=seconds)
    moment, end = (connection.ops.adapt_datetimefield_value(it) for it in (at, until))
    table, other = Cluster._meta.db_table, Installation._meta.db_table
    more = "".join(f", ({sql}) AS {it}" for it, sql in (told or {}).items())
    rows = Cluster.objects.raw(
        f"UPDATE {table} SET {kind}_until = %s, {kind}_token = %s, version = version + 1"
        f" WHERE name = %s AND ({kind}_until IS NULL OR {kind}_until < %s OR {kind}_until > %s)"
        f" RETURNING *, (SELECT MIN(generation) FROM {other}) AS database,"
        f" (SELECT MAX(id) FROM django_migrations) AS newest_migration{more}",
        [end, token, name, moment, end],
    )
    cluster = next(iter(rows), None)
    if cluster is None:
        return None
    if has_jumped(cluster.moment, at):  # guard
        # Whoever stood still since, while others went on, is not a clock that went back.
        at = now()
    newest = getattr(cluster, "newest_migration", 0)
    if not schema.is_same_at(newest):  # guard
        _say_that_versions_differ(newest)
        release(Turn(cluster, token, at, kind, seconds, now, {"moment": cluster.moment}))
        return None
    _keep_epoch(cluster, getattr(cluster, "database", None), kind, at=at)
    found = {it: getattr(cluster, it) for it in told or ()}
    return Turn(cluster, token, at, kind, seconds, now, told=found)


@lru_cache(maxsize=1)
def _say_that_versions_differ(_newest: int) -> None:
    """Say once in each process why it does nothing."""
    logger.error("no turn is taken: the database is of another version than this code: see /readyz")


def keep(name: str, kind: Kind, token: str, seconds: float, *, now: Clock) -> Turn | None:
    """Go on with a turn begun before; None where it is another's by now."""
    at = now()
    kept = statements.update(
        Cluster,
        {f"{kind}_until": at + timedelta(seconds=seconds)},
        name=name,
        **{f"{kind}_token": token},  # guard: token
    )
    cluster = statements.find(Cluster, name=name) if kept else None
    return None if cluster is None else Turn(cluster, token, at, kind, seconds, now)


def release(held: Turn) -> bool:
    """End a turn, and leave its values in the row; False where it was another's already."""
    left = {
        "moment": held.at,
        **held.values,
        f"{held.kind}_until": None,
        f"{held.kind}_token": "",
    }
    mine = {f"{held.kind}_token": held.token}  # guard: token
    return bool(statements.update(Cluster, left, pk=held.cluster.pk, **mine))


def is_due(turn: datetime | None, tuning: Tuning, *, at: datetime) -> bool:
    """Whether a turn's time has come; one set too far ahead was set by a clock that was ahead."""
    return turn is None or not at < turn <= at + _furthest(tuning)


def due(kind: Literal["look", "follow", "ask"], tuning: Tuning, *, at: datetime) -> Q:
    """Return the condition that a cluster's turn of this kind is due."""
    turn = f"next_{kind}_at"
    ahead = Q(**{f"{turn}__gt": at + _furthest(tuning)})
    return Q(paused=False) & (Q(**{turn: None}) | Q(**{f"{turn}__lte": at}) | ahead)


def _furthest(tuning: Tuning) -> timedelta:
    return 2 * timedelta(seconds=max(tuning.look_period, tuning.retry_cap))


def locked(cluster: Cluster) -> Cluster | None:
    """Lock the cluster's row for the present transaction, and read it; None where it is gone.

    Before any question and any instance of it.
    """
    mine = Cluster.objects.select_for_update(no_key=True).filter(pk=cluster.pk)
    return mine.order_by().first()


def has_jumped(last: datetime | None, at: datetime) -> bool:
    """Whether the clock may have jumped since the last turn; a pause cannot be told from it."""
    return last is None or not last - BACKWARDS <= at <= last + FORWARDS


def begin_epoch(cluster: Cluster, generation: str, *, at: datetime, keeping: Kind | None) -> None:
    """Void every moment of the cluster's rows. Instances are void by their number of the epoch.

    Args:
        cluster: whose; its row is read anew.
        generation: of the database.
        at: now, by the new clock.
        keeping: the turn that finds it out goes on.
    """
    with transaction.atomic():
        found = locked(cluster)
        if found is None:
            return
        if found.generation == generation and not has_jumped(found.moment, at):  # guard
            # Another turn has found it out before.
            cluster.refresh_from_db()
            return
        over = {
            f"{kind}_{part}": None if part == "until" else ""
            for kind in ("look", "follow", "await")
            for part in ("until", "token")
            if kind != keeping
        }
        Cluster.objects.filter(pk=cluster.pk).update(
            **over,
            epoch=F("epoch") + 1,
            generation=generation,
            moment=at,
            next_look_at=None,
            next_follow_at=None,
            next_ask_at=None,
            looked_not_before=None,
            looked_not_after=None,
            followed_since=None,
            read_not_before=None,
            read_not_after=None,
            feed_gap_since=None,
            agreed_digest="",
            looks=0,
            feeds=0,
            audit_at=None,
            asked_at=None,
            settled_at=None,
        )
        cluster.refresh_from_db()
        redate(cluster, at=at)


def redate(cluster: Cluster, *, at: datetime) -> None:
    """Bring the rows of other epochs into this one, as if they had been written now."""
    epoch = cluster.epoch
    Question.objects.filter(cluster=cluster).exclude(epoch=epoch).update(
        epoch=epoch, wanted_since=at, newer_than=at, token="", claimed_at=None,
        unstarted_at=None, job_id=None, answer=None, attempts=0, retry_at=None, listed=None,
    )  # fmt: skip
    wishes = Request.objects.filter(cluster=cluster, state=Request.State.OPEN)
    wishes.exclude(epoch=epoch).update(
        epoch=epoch, requested_at=at, scoped_at=None, blocked_since=None, absent_at=None
    )
    Job.objects.filter(cluster=cluster).exclude(epoch=epoch).update(
        epoch=epoch, seen_first=at, seen_last=at, running_since=None, unstarted_at=None
    )
    Hold.objects.filter(cluster=cluster).exclude(epoch=epoch).update(
        epoch=epoch, since=at, seen_at=at, approved_at=None
    )


def _keep_epoch(cluster: Cluster, database: str | None, kind: Kind, *, at: datetime) -> None:
    if database is None:
        database = Installation.objects.create().generation
    remembered = memo.recall(cluster.pk, database)
    went_back = cluster.version < remembered.version - CONCURRENT
    if went_back and cluster.generation == database:  # guard
        # A row that is older than one seen before comes from a backup.
        database = new_generation()
        Installation.objects.update(generation=database)
    if cluster.generation != database or has_jumped(cluster.moment, at):
        begin_epoch(cluster, database, at=at, keeping=kind)
    else:
        cluster.moment = at
    remembered = memo.recall(cluster.pk, cluster.generation)
    remembered.version = max(remembered.version, cluster.version)
