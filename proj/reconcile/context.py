"""What every turn works with."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from proj.backend import Backend
from proj.inventory.models import Cluster
from proj.reconcile.decide import Policy
from proj.reconcile.settings import Tuning

Clock = Callable[[], datetime]

BACKWARDS = timedelta(seconds=5)
"""The clock may seem to go back by so much within an epoch: turns end in another order than they
read it, and a new master of Redis may be a little behind."""


@dataclass(frozen=True, slots=True)
class Context:
    """How to reach a cluster, by which rules and numbers, and on which clock."""

    connect: Callable[[Cluster], Backend]
    """May raise ``Misconfigured``; nothing is sent before the backend's first method is called."""
    policy_of: Callable[[Cluster], Policy]
    tuning: Tuning
    now: Clock


def backoff(attempt: int, *, base: float, cap: float) -> timedelta:
    """Return how long to wait before the next attempt: doubling, capped, spread by jitter.

    Args:
        attempt: failures so far, from 1.
        base: seconds after the first failure.
        cap: seconds at most.
    """
    seconds = min(cap, base * 2 ** min(max(attempt - 1, 0), 30))
    return timedelta(seconds=seconds * (0.5 + random.random() / 2))
