"""LOOK: list all instances, keep where they differ, and want evidence about those.

It neither reads nor awaits the queue, and waits for nothing that is open.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q

from proj.backend import BackendError, Busy, Look, Misconfigured
from proj.inventory.models import Cluster, Hold, Instance, Priority, Question, Request
from proj.observation import Interval, Observation, Status
from proj.reconcile import holds, questions, requests, rows, turns
from proj.reconcile.compare import Comparison, Sight, compare
from proj.reconcile.context import Context, backoff
from proj.reconcile.decide import Action, Listed, Policy, Unlisted
from proj.reconcile.questions import Wanted
from proj.reconcile.record import Item, Settled, in_batches, record
from proj.reconcile.resolve import name_row
from proj.reconcile.rows import Stranger
from proj.reconcile.settings import Tuning
from proj.reconcile.turns import Turn, turn

SOURCE = "lists"

HERD = 10
"""Fewer clusters than these may be looked at all at once."""

FASTER, SLOWER = 0.5, 1.5
"""By what the pace changes after a look that had news, and after one that had none."""

LATER = timedelta(seconds=1)
"""When to look again at a cluster that has no request to spare."""


_LEVEL = {
    "revisions": f"SELECT COALESCE(SUM(revision), 0) FROM {Instance._meta.db_table}"
    f" WHERE cluster_id = {Cluster._meta.db_table}.id",
    "is_requested": f"SELECT COUNT(*) FROM {Request._meta.db_table} WHERE state = 'open'"
    f" AND kind <> 'plan' AND cluster_id = {Cluster._meta.db_table}.id",
    "is_held": f"SELECT COUNT(*) FROM {Hold._meta.db_table} WHERE (current OR approved_at"
    f" IS NOT NULL) AND cluster_id = {Cluster._meta.db_table}.id",
}
"""What the rows' revisions add up to, whether somebody waits, and whether anything is held, or
was let through and may have to be called back."""


@dataclass(frozen=True, slots=True)
class After:
    """What a look leaves to be done at once."""

    ask: bool = False
    """Questions wait to be issued."""
    follow: bool = False
    """A request waits for a reading of the queue."""


def look(name: str, context: Context) -> After:
    """Take the look that is due, periodic or for a request; safe to call at any time."""
    tuning = context.tuning
    with turn(name, "look", tuning.look_lease, now=context.now, told=_LEVEL) as held:
        if held is None or held.cluster.paused:
            return After()
        if not turns.is_due(held.cluster.next_look_at, tuning, at=held.at):
            return After()
        try:
            return _look(held, context)
        except Busy:
            held.values["next_look_at"] = context.now() + LATER
        except BackendError as error:
            _failed(held, error, tuning, at=context.now())
    return After()


def due(tuning: Tuning, *, at: datetime) -> list[str]:
    """Return the clusters whose turn it is."""
    mine = Cluster.objects.filter(turns.due("look", tuning, at=at))
    return list(mine.values_list("name", flat=True))


def spread_herd(tuning: Tuning, *, at: datetime) -> None:
    """Give clusters that nobody looked at for a whole period, as after a restart, turns apart."""
    long_ago = at - timedelta(seconds=tuning.look_period)
    herd = list(Cluster.objects.filter(next_look_at__lt=long_ago, paused=False))
    if len(herd) < HERD:
        return
    for cluster in herd:
        cluster.next_look_at = at + timedelta(seconds=random.random() * tuning.look_period)
    Cluster.objects.bulk_update(herd, ["next_look_at"], batch_size=500)


def _look(held: Turn, context: Context) -> After:
    cluster, memo, tuning = held.cluster, held.memo, context.tuning
    revisions, is_requested = int(held.told["revisions"]), bool(held.told["is_requested"])
    backend = context.connect(cluster)
    if cluster.is_failing:
        backend.version()
    is_full = (
        is_requested or not memo.has_looked or cluster.looks % max(1, tuning.full_look_each) == 0
    )
    if not is_full and cluster.agreed_digest and revisions == cluster.agreed_revisions:
        seen = backend.look_unless(cluster.agreed_digest)
    else:
        seen = backend.look()
    if isinstance(seen, Interval):
        held.values |= _looked(cluster, seen, tuning, is_restless=False)
        return After()
    if seen.interval.not_after - held.at > timedelta(seconds=tuning.look_lease / 2):
        # A list that was long in coming leaves time to be compared.
        with transaction.atomic():
            held.lock()
    policy = context.policy_of(cluster)
    found = compare(cluster, seen, policy, memo.agreed, at=context.now())
    is_asked = bool(found.news or held.told["is_held"]) and _keep(
        held, seen, found, policy, context
    )
    memo.agreed, memo.has_looked = found.agreed, True
    held.values |= _looked(
        cluster, seen.interval, tuning, is_restless=_is_restless(found, tuning, seen.interval)
    )
    held.values |= _found(seen, found, revisions)
    relook = _relook_in(found, tuning, seen.interval)
    if relook is not None:
        again = seen.interval.not_after + timedelta(seconds=relook)
        held.values["next_look_at"] = min(held.values["next_look_at"], again)
    if is_requested and found.is_complete:
        with transaction.atomic():
            # What was not kept is in nobody's scope.
            if held.lock():
                requests.scope(cluster, seen, suspects=len(found.news))
    if is_requested and not cluster.ask_failures:
        # Of --all nothing differs, and everything is asked about.
        held.values["next_ask_at"] = seen.interval.not_after
    return After(ask=is_asked or is_requested, follow=is_requested)


def _keep(held: Turn, seen: Look, found: Comparison, policy: Policy, context: Context) -> bool:
    """Keep what the list said, and want evidence; returns whether anything is wanted."""
    cluster, at = held.cluster, seen.interval.not_after
    entries, kept, is_asked = found.entries(), set(), False
    if entries or held.told["is_held"]:
        with transaction.atomic():
            if not held.lock():  # guard
                return False
            hold = holds.renew(
                cluster, entries, context.tuning, at=context.now(), is_list_empty=seen.size == 0
            )
        kept = set() if hold is None else {entry.key for entry in holds.entries_of(hold)}

    def work(batch: Sequence[Sight]) -> None:
        nonlocal is_asked
        with transaction.atomic():
            if not held.lock():  # guard
                return
            wanted = _keep_batch(cluster, batch, found, policy, context)
        wanted = [it for it in wanted if (it.uuid or it.name) not in kept]  # guard
        with transaction.atomic():
            if wanted and held.lock():
                # Who could not be asked for other reasons may be gone, which only a 404 proves.
                each = timedelta(seconds=context.tuning.proof_within)
                questions.ask(cluster, wanted, Priority.SUSPECT, at=at, override_each=each)
                is_asked = True

    def spoil(sight: Sight, error: Exception) -> None:
        # What was not kept was not compared: this list confirms nobody.
        found.is_complete = False
        found.findings.append({"instance": sight.name, "problem": f"cannot be kept: {error}"})

    in_batches(found.news, work, spoil)
    return is_asked


def _keep_batch(
    cluster: Cluster,
    batch: Sequence[Sight],
    found: Comparison,
    policy: Policy,
    context: Context,
) -> list[Wanted]:
    names = {sight.name for sight in batch}
    for announced, full in found.renamed.items():
        if full in names:
            nameless = Instance.objects.filter(cluster=cluster, uuid=None, name=announced)
            for row in nameless.filter(backend_status="").exclude(status=Status.DELETED):
                name_row(row, full)
    items = [Item(sight.seen, sight.uuid, sight.name, SOURCE) for sight in batch]
    settled = record(cluster, items, policy, context.tuning, now=context.now)
    strangers = [it for it in settled if it.row is None and it.decision.action is Action.ASK]
    return [*_of_strangers(cluster, strangers), *_of_known(settled)]


def _of_known(settled: Sequence[Settled]) -> list[Wanted]:
    """Return whom to ask about: evidence is to be newer than the first list that said so."""
    wanted = []
    for it in settled:
        if it.row is None or it.decision.action is not Action.ASK:
            continue
        memory, seen = it.decision.memory, it.seen
        newer_than = seen.interval.not_before
        if memory is not None:
            firsts = [difference.first for difference in memory.differs.values()]
            newer_than = max(firsts, default=memory.missing[0] if memory.missing else newer_than)
        name = seen.seen.instance if isinstance(seen, Listed) else it.row.name
        wanted.append(Wanted(it.row.uuid, name, newer_than))
    return wanted


def _of_strangers(cluster: Cluster, settled: Sequence[Settled]) -> list[Wanted]:
    """Return whom to ask about, with what the lists have said of each so far."""
    if not settled:
        return []
    asked = Question.objects.filter(
        Q(uuid__in=[it.item.uuid for it in settled if it.item.uuid])
        | Q(uuid=None, name__in=[it.item.name for it in settled if not it.item.uuid]),
        cluster=cluster,
    )  # fmt: skip
    before = {question.uuid or question.name: question.listed for question in asked}
    wanted = []
    for it in settled:
        assert isinstance(it.seen, Listed)
        seen = it.seen.seen
        earlier = rows.stranger_of(before.get(seen.uuid or seen.instance))
        stranger = _continued(earlier, seen, followed_since=cluster.followed_since)
        newer_than = stranger.first
        if earlier is not None and _says_the_same(earlier, seen):
            # What asks already need not be asked once more because lists begin anew.
            newer_than = min(newer_than, earlier.first)
        wanted.append(Wanted(seen.uuid, seen.instance, newer_than, stranger.to_json()))
    return wanted


def _says_the_same(earlier: Stranger, seen: Observation) -> bool:
    return replace(earlier.seen, interval=seen.interval) == seen


def _continued(
    earlier: Stranger | None, seen: Observation, *, followed_since: datetime | None
) -> Stranger:
    """Return what lists say of one that is not recorded: since when, and what the last said.

    Those from before the queue was followed do not count: see ``Cluster.followed_since``.
    """
    first = seen.interval.not_before
    if (
        earlier is not None
        and _says_the_same(earlier, seen)
        and earlier.first <= earlier.seen.interval.not_before < first
        and (followed_since is None or followed_since <= earlier.first)
    ):
        first = earlier.first
    return Stranger(first, seen)


def _found(seen: Look, found: Comparison, revisions: int) -> dict[str, Any]:
    agreed = {
        "agreed_digest": seen.digest if found.agrees else "",
        "agreed_revisions": revisions,
    }
    values = {**agreed, "listed": seen.size, "findings": found.findings[:MOST_FINDINGS]}
    if found.is_complete:
        values |= {
            "looked_not_before": seen.interval.not_before,
            "looked_not_after": seen.interval.not_after,
        }
    return values


MOST_FINDINGS = 200


def _is_restless(found: Comparison, tuning: Tuning, interval: Interval) -> bool:
    """Whether anything is new: what is not settled keeps the fast pace for a while only."""
    since = interval.not_before - timedelta(seconds=tuning.proof_within)
    return any(_first(sight) >= since for sight in found.news if sight.recorded is not None) or any(
        sight.decision.action is Action.ASK for sight in found.news if sight.recorded is None
    )


def _first(sight: Sight) -> datetime:
    memory, begun = sight.decision.memory, sight.seen.interval.not_before
    if memory is None:
        return begun
    if memory.missing is not None:
        return memory.missing[0]
    return max((it.first for it in memory.differs.values()), default=begun)


def _relook_in(found: Comparison, tuning: Tuning, interval: Interval) -> float | None:
    """Return in how many seconds a further list may prove what this one and earlier ones say."""
    waits = []
    for sight in found.news:
        memory = sight.decision.memory
        if memory is None:
            continue
        since = (interval.not_before - _first(sight)).total_seconds()
        if isinstance(sight.seen, Unlisted):
            if since < tuning.gone_after:
                waits.append(tuning.gone_after - since)
        elif since == 0 and sight.decision.action is not Action.ASK and memory.differs:
            waits.append(tuning.relook_after)
    return min(waits, default=None)


def _looked(
    cluster: Cluster, read: Interval, tuning: Tuning, *, is_restless: bool
) -> dict[str, Any]:
    """Return what a look that succeeded leaves in the cluster's row."""
    pace = (cluster.pace or tuning.look_period) * (FASTER if is_restless else SLOWER)
    pace = min(max(pace, tuning.look_period_min), tuning.look_period)
    # Never later: what is promised counts in periods.
    spread = 0.9 + random.random() * 0.1
    return {
        "moment": read.not_after,
        "listed_at": read.not_after,
        "failures": 0,
        "last_error": "",
        "pace": pace,
        "looks": cluster.looks + 1,
        "next_look_at": read.not_after + timedelta(seconds=pace * spread),
    }


def _failed(held: Turn, error: BackendError, tuning: Tuning, *, at: datetime) -> None:
    failures = held.cluster.failures + 1
    wait = backoff(failures, base=tuning.retry_base, cap=tuning.retry_cap)
    pause = max(wait, timedelta(seconds=tuning.look_period_min))
    held.values |= {"failures": failures, "last_error": str(error), "next_look_at": at + pause}
    if isinstance(error, Misconfigured):
        requests.refuse(held.cluster, str(error), at=at)
