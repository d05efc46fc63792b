"""A cluster in memory, the engine over it, and words to tell a scene with."""

from dataclasses import dataclass

import pytest

from proj.inventory.models import Hold, Instance, Request, Transition
from proj.reconcile import memo, requests
from tests.world import invariants
from tests.world.engine import Engine
from tests.world.world import World


@dataclass
class Scene:
    """One cluster, and the engine that keeps to it."""

    world: World
    engine: Engine

    def go_on(self, seconds: float, *, step: float = 1.0) -> None:
        """Let beat, workers and time go on."""
        for _ in range(max(1, round(seconds / step))):
            self.engine.beat()
            self.world.clock.wait(step)

    def pause(self, seconds: float) -> None:
        """Let time go on while every worker stands still."""
        self.world.clock.wait(seconds)

    def row(self, name: str) -> Instance:
        """Return what is recorded of the living instance of this name."""
        return Instance.objects.exclude(status="DELETED").get(name=name)

    def rows(self, name: str) -> list[str]:
        """Return the statuses of all that were ever recorded under this name, oldest first."""
        return list(
            Instance.objects.filter(name=name).order_by("pk").values_list("status", flat=True)
        )

    def state(self, name: str) -> str:
        """Return the recorded status and word."""
        row = self.row(name)
        return f"{row.status} {row.backend_status}".strip()

    def ask(self, name: str) -> Request:
        """Wish an instance to be confirmed, as the host system does."""
        engine = self.engine
        return requests.request_instance(
            engine.cluster, name, tuning=engine.tuning, at=self.world.clock()
        )

    def ask_all(self, kind: str) -> Request:
        """Wish the whole cluster to be confirmed, or a plan."""
        engine = self.engine
        return requests.request_cluster(
            engine.cluster, kind=Request.Kind(kind), tuning=engine.tuning, at=self.world.clock()
        )

    def holds(self) -> list[Hold]:
        """Return what waits for an operator."""
        return list(Hold.objects.filter(current=True, approved_at=None))

    def transitions(self, name: str) -> list[tuple[str, object, object]]:
        """Return what changed of an instance, oldest first."""
        found = Transition.objects.filter(instance__name=name).order_by("pk")
        return [(it.field, it.before, it.after) for it in found]

    def problems(self) -> list[str]:
        """Return where the recorded is not as it is, and what is left over."""
        return invariants.diverged(self.engine)


@pytest.fixture
def make_scene(transactional_db: None):
    """Make a scene over a world, everything in it recorded."""

    def make(*names: str, world: World | None = None, **tuning: object) -> Scene:
        memo.forget()
        world = world or World()
        for place, name in enumerate(names):
            world.create(name, node=f"node{place % 3 + 1}")
        engine = Engine(world)
        if tuning:
            from dataclasses import replace

            engine.tuning = replace(engine.tuning, **tuning)
        engine.add_cluster()
        scene = Scene(world, engine)
        scene.go_on(90)
        assert not scene.problems()
        return scene

    return make


@pytest.fixture
def scene(make_scene) -> Scene:
    """Three instances that run: web, vm1 and vm11."""
    return make_scene("web", "vm1", "vm11")
