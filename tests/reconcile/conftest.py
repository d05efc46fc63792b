"""A cluster in memory, and the engine that works on it as the test says."""

from dataclasses import dataclass, replace
from typing import Any

import pytest

from proj.inventory.models import Question
from proj.reconcile import memo
from tests.fixtures.driven import Driven, Engine
from tests.world.world import World


@dataclass
class Stage(Driven):
    """A cluster in memory, and its engine."""

    world: World

    def asked(self) -> list[str]:
        """Return whom our query jobs asked about, in their order."""
        return [str(it.about) for it in self.world.requests if it.method == "submit_query"]

    def questions(self) -> list[str]:
        """Return about whom somebody wants evidence."""
        mine = Question.objects.filter(cluster=self.engine.cluster)
        return list(mine.values_list("name", flat=True))

    def tune(self, **values: Any) -> None:
        """Change numbers of the engine."""
        self.engine.tuning = replace(self.engine.tuning, **values)


def make_stage(count: int = 0, name: str = "alpha", **values: Any) -> Stage:
    """Return a stage with so many instances that run and are recorded, vm0 the first."""
    memo.forget()
    world = World()
    homes = list(world.truth.nodes)
    for number in range(count):
        world.create(f"vm{number}", node=homes[number % len(homes)])
    engine = Engine(world, name)
    engine.add_cluster(**values)
    stage = Stage(engine, world)
    if count:
        assert stage.run("all").outcome == "reconciled"
        stage.go_on(90)
        assert stage.recorded() == dict.fromkeys(world.names(), "ACTIVE running")
    return stage


@pytest.fixture
def empty(transactional_db: None) -> Stage:
    """An engine over an empty cluster."""
    return make_stage()


@pytest.fixture
def ten(transactional_db: None) -> Stage:
    """An engine that knows ten running instances, and is at rest."""
    return make_stage(10)
