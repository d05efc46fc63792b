"""Holds: mass changes that wait for an operator. A hold holds what it names, and nothing else."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q

from proj.inventory import statements
from proj.inventory.models import Cluster, Hold, Instance, Transition
from proj.observation import Status
from proj.reconcile import brake, rows
from proj.reconcile.brake import Entry
from proj.reconcile.settings import Tuning

RECENTLY = timedelta(minutes=10)
"""What has changed in this time counts together with what is to change now."""


class CannotBeApproved(Exception):
    """Why a hold cannot be approved; the text says what to do."""


def entries_of(hold: Hold) -> list[Entry]:
    """Return what a hold names; an entry that cannot be read names nothing."""
    entries = hold.entries if isinstance(hold.entries, list) else []
    return [
        Entry(*(str(part) for part in entry))
        for entry in entries
        if isinstance(entry, list) and len(entry) == 4
    ]


def held_keys(cluster: Cluster) -> set[str]:
    """Return the instances that wait for an operator and are not to be asked about."""
    current = statements.find_all(Hold, cluster=cluster.pk, current=True)
    waiting = [hold for hold in current if hold.approved_at is None]
    return {entry.key for hold in waiting for entry in entries_of(hold)}


def _approved(cluster: Cluster, tuning: Tuning, *, at: datetime) -> list[Hold]:
    """Return the holds whose approval still lasts."""
    since = at - timedelta(seconds=tuning.hold_for)
    found = Hold.objects.filter(cluster=cluster, approved_at__lte=at)
    return list(found.filter(approved_at__gt=since))  # guard: approved_at__gt


def _passing(cluster: Cluster, approved: Iterable[Hold], *, at: datetime) -> set[Entry]:
    """Return the changes that an operator has let through, and that may pass still.

    Those do of which lists have said so all the time: what was written, or was over, is another
    change where it comes again.
    """
    passing: set[Entry] = set()
    for hold in approved:
        entries = entries_of(hold)
        begun = _said_since(cluster, entries, at=at)
        approved_at = hold.approved_at or at
        passing |= {it for it in entries if it.key in begun and begun[it.key] <= approved_at}
    return passing


def _said_since(cluster: Cluster, entries: Sequence[Entry], *, at: datetime) -> dict[str, datetime]:
    """Return since when lists say of instances that their state is another, or that they lack."""
    keys = [it.key for it in entries]
    mine = Instance.objects.filter(cluster=cluster)
    mine = mine.filter(epoch=cluster.epoch)  # guard: epoch
    found = {}
    for row in mine.filter(Q(uuid__in=keys) | Q(uuid=None, name__in=keys)):
        memory = rows.memory_of(row, at=at)
        state = memory.differs.get("state")
        begun = memory.missing[0] if memory.missing else state.status_begun if state else None
        if begun is not None:
            found[rows.key_of(row)] = begun
    return found


def weigh(
    cluster: Cluster,
    entries: Sequence[Entry],
    tuning: Tuning,
    *,
    at: datetime,
    is_list_empty: bool = False,
) -> tuple[str, set[Entry]]:
    """Say why these changes must wait, or nothing, and which of them were not let through.

    The one place where the brake is put on, whatever evidence the changes rest on.
    """
    approved = _approved(cluster, tuning, at=at)
    free = _passing(cluster, approved, at=at)
    coming = {entry for entry in entries if entry not in free}
    if not coming:
        return "", set()
    current = Hold.objects.filter(cluster=cluster, current=True, approved_at=None)
    waiting = {entry for hold in current for entry in entries_of(hold)} - free
    known = (
        Instance.objects.filter(cluster=cluster)
        .exclude(status=Status.DELETED)
        .exclude(backend_status="")
        .count()
    )
    reason = brake.reason_to_hold(
        coming | waiting,
        recent=_changed(cluster, approved, at=at),
        known=known,
        limits=tuning.limits,
        is_list_empty=is_list_empty,
    )
    return reason, coming


def renew(
    cluster: Cluster,
    entries: Sequence[Entry],
    tuning: Tuning,
    *,
    at: datetime,
    is_list_empty: bool,
) -> Hold | None:
    """Have what a look found held, or let go of what it did not find; the caller is the look."""
    # What waits is what this look found, and nothing that an earlier one did.
    mine = Hold.objects.filter(cluster=cluster, current=True, approved_at=None)
    waiting = set(mine.values_list("digest", flat=True))
    Hold.objects.filter(cluster=cluster, current=True).update(current=False)
    old = at - timedelta(seconds=tuning.hold_for)
    Hold.objects.filter(cluster=cluster, approved_at__lte=old).update(approved_at=None)
    reason, coming = weigh(cluster, entries, tuning, at=at, is_list_empty=is_list_empty)
    if not reason:
        return None
    digest = brake.digest(coming)
    values: dict[str, Any] = {
        "entries": [[it.key, it.name, it.before, it.after] for it in sorted(coming)],
        "reason": reason,
        "epoch": cluster.epoch,
        "seen_at": at,
        "current": True,
    }
    if digest not in waiting:
        # The same change as one that was approved, or was over, is another where it comes again.
        values |= {"since": at, "approved_at": None}
    found, _ = Hold.objects.update_or_create(cluster=cluster, digest=digest, defaults=values)
    return found


def approve(hold: Hold, tuning: Tuning, *, at: datetime) -> list[Entry]:
    """Let exactly what a hold names pass, while it still differs and for an hour at most.

    Raises:
        CannotBeApproved: it is older than the time in which it may be.
    """
    oldest = at - timedelta(seconds=tuning.hold_for)
    mine = Hold.objects.filter(Q(seen_at__gt=oldest) | Q(current=True), pk=hold.pk)
    with transaction.atomic():
        # First, as a look does that may be renewing just this hold.
        Cluster.objects.filter(pk=hold.cluster_id).update(next_look_at=at)
        if not mine.update(approved_at=at):  # guard
            raise CannotBeApproved(
                f"hold {hold.pk} is over: no look has found it for an hour; see what is held now"
            )
    return entries_of(hold)


def _changed(cluster: Cluster, approved: Sequence[Hold], *, at: datetime) -> set[Entry]:
    """Return what was recorded of late of what the brake counts, and nobody has let through.

    An approval lets through the first change of each entry that comes after it, and no other.
    """
    since = min([at - RECENTLY, *(hold.approved_at or at for hold in approved)])
    changed = (
        Transition.objects.filter(
            instance__cluster=cluster, field="status", at__gt=since, at__lte=at
        )
        .filter(after__in=[Status.DELETED.value, Status.STOPPED.value])
        .order_by("pk")
        .values_list("instance__uuid", "instance__name", "before", "after", "at")
    )
    granted = {
        (entry, hold.pk): hold.approved_at or at for hold in approved for entry in entries_of(hold)
    }
    found = set()
    for uuid, name, before, after, changed_at in changed:
        entry = Entry(uuid or name, name, str(before), str(after))
        mine = [key for key, begun in granted.items() if key[0] == entry and begun <= changed_at]
        for key in mine:
            del granted[key]
        if not mine and changed_at > at - RECENTLY and brake.is_braked(entry.before, entry.after):
            found.add(entry)
    return found
