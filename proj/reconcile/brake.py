"""The brake: which changes are so many at once that an operator must see them first."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from proj.observation import Status

BRAKED = {Status.DELETED: "would become DELETED", Status.STOPPED: "would leave ACTIVE for STOPPED"}
"""What takes something away; UNKNOWN takes nothing away and passes freely."""


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """One instance that would change, from what to what."""

    key: str
    """Its uuid, or its name where it has none."""
    name: str = field(compare=False)
    """For people: who is renamed meanwhile is the same."""
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Limits:
    """The shares of a cluster's instances above which a change is held."""

    deleted_share: float = 0.2
    stopped_share: float = 0.5
    at_least: int = 3
    """This many may always go: small clusters are not held for one instance."""

    def most(self, status: Status, known: int) -> float:
        """Return how many of ``known`` instances may go to DELETED or STOPPED."""
        share = self.deleted_share if status is Status.DELETED else self.stopped_share
        return max(self.at_least, share * known)


def is_braked(before: str, after: str) -> bool:
    """Whether such a change counts: to DELETED, or from ACTIVE to STOPPED."""
    if after == Status.DELETED:
        return before != Status.DELETED
    return after == Status.STOPPED and before == Status.ACTIVE


def reason_to_hold(
    entries: Iterable[Entry],
    *,
    recent: Iterable[Entry],
    known: int,
    limits: Limits,
    is_list_empty: bool = False,
) -> str:
    """Say why these changes must wait for approval; nothing when they may pass.

    Args:
        entries: what would change now, and what is held already.
        recent: what has changed in the last minutes.
        known: instances recorded that the backend has shown, and that are not gone.
        limits: how many may go.
        is_list_empty: the list that says so has nobody: no small number excuses it.
    """
    coming, gone_by = set(entries), set(recent)
    for status, text in BRAKED.items():
        mine = {it.key for it in coming if it.after == status}
        before = {it.key for it in gone_by if it.after == status} - mine
        is_too_many = len(mine) + len(before) > limits.most(status, known)
        if mine and (is_too_many or (is_list_empty and status == Status.DELETED)):
            just_now = f", {len(before)} did just now" if before else ""
            return f"{len(mine)} of {known} instances {text}{just_now}"
    return ""


def digest(entries: Iterable[Entry]) -> str:
    """Return what names exactly these entries."""
    lines = [f"{it.key} {it.before} {it.after}" for it in sorted(set(entries))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
