"""What twelve hours cost of a cluster in which nothing happens, on a simulated clock."""

from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from django.db import models

from bench.figures import Figure
from proj.inventory.models import (
    Cluster,
    Hold,
    Instance,
    Job,
    Question,
    Request,
    Transition,
)
from proj.reconcile import ask, look, memo
from tests.world.engine import Engine
from tests.world.world import World

INSTANCES = 100
HOURS = 12
EACH_HOUSE = 10
"""Seconds between two turns of housekeeping, as beat has it."""

STATED: Mapping[str, float] = {
    # One look each 54 to 60 s, one reading each 2 s, as beat comes each second, and two requests
    # more with each tenth; the audit asks each instance once, with a poll or two.
    "messages": HOURS * (67 + 1800 + 67) + 3 * INSTANCES,
    "requests": HOURS * (67 + 1800 * 1.1) + 3 * INSTANCES,
    "jobs": INSTANCES,
}
"""What docs/costs.md says of twelve hours at most."""


def at_rest(_: Path) -> list[Figure]:
    """Let beat, workers and time go on for twelve hours, and count."""
    world = World()
    world.create_many(INSTANCES)
    engine = Engine(world)
    cluster = engine.add_cluster(confirm_max_age=timedelta(hours=24))
    memo.forget()
    try:
        for _ in range(1200):
            beat(engine, Counter())
            if rows(cluster) == INSTANCES and engine.cluster.agreed_digest:
                break
        begun, before = len(world.requests), rows(cluster)
        found: Counter[str] = Counter()
        end = world.clock.real + timedelta(hours=HOURS)
        while world.clock.real < end:
            beat(engine, found)
        asked = Counter(it.method for it in world.requests[begun:])
        grown = rows(cluster) - before
    finally:
        Cluster.objects.all().delete()
        memo.forget()
    counts = {
        "messages": found.total(),
        "requests": asked.total(),
        "jobs": asked["submit_query"],
    }
    print(f"at rest for {HOURS} h: messages {dict(found)}, requests {dict(asked)}, rows {grown:+}")
    figures = [
        Figure(
            f"{HOURS} h of {INSTANCES} instances at rest: {name}", counts[name] / stated,
            f"the {stated:.0f} of docs/costs.md", "x", 1.0, 1.0,
        )
        for name, stated in STATED.items()
    ]  # fmt: skip
    return [
        *figures,
        Figure(
            f"{HOURS} h of {INSTANCES} instances at rest: rows more", grown, "none", "", 0, 0
        ),
    ]  # fmt: skip


def rows(cluster: Cluster) -> int:
    """Return how many rows there are of a cluster that may grow in number."""
    several: tuple[type[models.Model], ...] = (Instance, Job, Question, Request, Hold)
    mine = sum(model._default_manager.filter(cluster=cluster).count() for model in several)
    return mine + Transition.objects.filter(instance__cluster=cluster).count()


def beat(engine: Engine, sent: Counter[str]) -> None:
    """Let one second go by as beat and the workers do, and count what they send for the cluster."""
    at = engine.world.clock()
    if round(at.timestamp()) % EACH_HOUSE == 0:
        engine.housekeeping()
    row = engine.cluster
    if row.next_follow_at is None or row.next_follow_at <= at:
        sent["follow_jobs"] += 1
        engine.feed()
    if engine.name in look.due(engine.tuning, at=at):
        sent["query_cluster"] += 1
        engine.look()
    if engine.name in ask.due(engine.tuning, at=at):
        sent["issue_jobs"] += 1
        engine.ask()
    deadline = at + timedelta(seconds=1)
    while engine.messages and engine.world.clock.peek() < deadline:
        message = engine.messages.pop(0)
        sent[message.turn] += 1
        if message.turn == "step":
            engine.world.clock.wait(engine.tuning.poll_interval_min)
        engine.take(message)
    engine.world.clock.wait(max(0.0, (deadline - engine.world.clock.peek()).total_seconds()))
