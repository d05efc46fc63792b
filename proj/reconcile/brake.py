"""The brake: a mass change is held until an operator has looked at it."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from proj.observation import Status


@dataclass(frozen=True, slots=True)
class Limits:
    """The shares of a cluster's instances above which a change is held."""

    deleted_share: float = 0.2
    deleted_at_least: int = 3
    """This many may always go: small clusters are not held for one instance."""
    stopped_share: float = 0.5
    stopped_at_least: int = 3

    def at_least(self, status: Status) -> int:
        """How many may always go to this status, DELETED or STOPPED."""
        return self.deleted_at_least if status is Status.DELETED else self.stopped_at_least

    def share(self, status: Status) -> float:
        """Which share of a cluster's instances may."""
        return self.deleted_share if status is Status.DELETED else self.stopped_share


@dataclass(frozen=True, slots=True)
class Held:
    """Why a pass is held, and the fingerprint by which an approval knows it again."""

    reason: str
    fingerprint: str


def hold(
    *, known: int, listed: int, deleted: Iterable[str], stopped: Iterable[str], limits: Limits
) -> Held | None:
    """Return why these changes must wait for approval, or None when they may pass.

    Args:
        known: instances recorded and not DELETED.
        listed: instances in the list just read.
        deleted: names that would go from existing to DELETED.
        stopped: names that would go from ACTIVE to STOPPED.
    """
    deleted, stopped = sorted(deleted), sorted(stopped)
    reason = ""
    if known and not listed:
        reason = f"the list is empty, and {known} instances are recorded"
    elif len(deleted) > max(limits.deleted_at_least, limits.deleted_share * known):
        reason = f"{len(deleted)} of {known} instances would become DELETED"
    elif len(stopped) > max(limits.stopped_at_least, limits.stopped_share * known):
        reason = f"{len(stopped)} of {known} instances would leave ACTIVE for STOPPED"
    return Held(reason, fingerprint(deleted, stopped)) if reason else None


def fingerprint(deleted: Iterable[str], stopped: Iterable[str]) -> str:
    """Return what identifies a mass change: the same names going the same way."""
    lines = [f"{Status.DELETED} {name}" for name in sorted(deleted)]
    lines += [f"{Status.STOPPED} {name}" for name in sorted(stopped)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
