"""Whatever brings the evidence, the same is decided."""

from itertools import product

import pytest

from tests.reconcile.conftest import Stage, make_stage
from tests.world.world import World

pytestmark = pytest.mark.django_db(transaction=True)

EVENTS = {
    "running": lambda world, name: world.start(name),
    "ADMIN_down": lambda world, name: world.stop(name),
    "ADMIN_offline": lambda world, name: world.offline(name),
    "ERROR_down": lambda world, name: (world.start(name), world.crash(name)),
    "ERROR_up": lambda world, name: world.run_unwanted(name),
    "USER_down": lambda world, name: (world.start(name), world.stop_inside(name)),
    "ERROR_wrongnode": lambda world, name: (world.start(name), world.wrong_node(name)),
}
PAIRS = list(product(EVENTS, EVENTS))


def become(world: World, name: str, word: str) -> None:
    """Bring an instance into a state."""
    EVENTS[word](world, name)
    machine = world.machine(name)
    assert world.truth.listed(machine) == word


def prepared(name: str) -> Stage:
    """Return a cluster with one instance for each pair of words, recorded with the first."""
    stage = make_stage(name=name, max_in_flight=20)
    for before, after in PAIRS:
        stage.world.create(f"{before}-{after}")
        become(stage.world, f"{before}-{after}", before)
    stage.go_on(120)
    assert stage.recorded() == expected({name: name.split("-")[0] for name in stage.world.names()})
    for before, after in PAIRS:
        become(stage.world, f"{before}-{after}", after)
    return stage


def expected(words: dict[str, str]) -> dict[str, str]:
    """Return what is to be recorded."""
    statuses = {"running": "ACTIVE", "ERROR_up": "ACTIVE", "ERROR_wrongnode": "ERROR"}
    return {name: f"{statuses.get(word, 'STOPPED')} {word}" for name, word in words.items()}


def test_a_look_a_request_for_each_and_somebody_elses_query_of_all_end_alike() -> None:
    stages = [prepared(road) for road in ("looks", "requests", "foreign")]
    _, by_requests, by_others = stages
    for name in by_requests.world.names():
        by_requests.ask(name)
    by_others.world.others_ask(seconds=0)
    by_others.engine.feed_now()
    for stage in stages:
        stage.go_on(150)
        assert stage.recorded() == expected(
            {name: name.split("-")[1] for name in stage.world.names()}
        )
