"""Two questions about one instance at a time: neither is lost, and neither hinders the rest."""

from proj.inventory.models import Query
from proj.simulator.rapi import Reply
from tests.fixtures.simulated import World


def missing_twice(world: World) -> str:
    """Let an instance vanish, and look until only its name is left to be asked for."""
    name = world.nth(0)
    world.truth.remove(name)
    for _ in range(2):
        world.engine.clock.wait(100)
        world.look()
    assert Query.objects.get(instance=name, state="pending").by_name
    return name


def test_a_name_is_not_asked_for_while_a_job_on_it_is_in_flight(world: World) -> None:
    name = world.nth(0)
    world.queue.stuck = True
    world.engine.ask(name)
    world.engine.step()
    missing_twice(world)
    world.engine.step()
    assert Query.objects.get(instance=name, by_name=True).state == "pending"
    world.queue.stuck = False
    world.engine.settle()
    assert world.recorded()[name] == "DELETED"


def test_a_name_whose_request_failed_is_asked_for_again_soon_and_holds_up_nobody(
    world: World,
) -> None:
    name, other = missing_twice(world), world.nth(1)
    world.truth.crash(other)
    world.faults.status = 502
    world.engine.step()
    world.faults.status = None
    world.engine.ask(other)
    for _ in range(2):
        world.engine.step()
        world.engine.clock.wait(1)
    recorded = world.recorded()
    assert (recorded[name], recorded[other]) == ("DELETED", "STOPPED ERROR_down")


def test_an_instance_may_be_asked_about_while_its_name_is_asked_for(world: World) -> None:
    name = missing_twice(world)
    waiting = Query.objects.filter(instance=name, state="pending")
    waiting.update(state="submitting", submitted_at=world.engine.clock())
    world.engine.ask(name)
    world.engine.step()
    assert Query.objects.get(instance=name, lane=Query.Lane.ON_DEMAND).state == "pending"
    world.engine.clock.wait(100)
    world.engine.settle()
    assert world.recorded()[name] == "DELETED"


def test_a_request_that_comes_while_another_cannot_be_sent_joins_it(world: World) -> None:
    name = world.nth(0)
    answer = world.rapi.answer

    def ask_and_fail(method: str, target: str, body: bytes) -> Reply:
        if target.startswith(f"/2/instances/{name}/info"):
            world.engine.ask(name)
            return Reply(502, b"null")
        return answer(method, target, body)

    world.rapi.answer = ask_and_fail  # type: ignore[method-assign]
    asked = world.engine.ask(name)
    world.engine.step()
    assert Query.objects.filter(instance=name, state="pending").count() == 1
    world.rapi.answer = answer  # type: ignore[method-assign]
    world.engine.settle()
    asked.refresh_from_db()
    assert asked.outcome == "in_sync"


def test_however_many_jobs_are_in_flight_one_request_awaits_them(world: World) -> None:
    world.queue.stuck = True
    for name in world.truth.instances:
        world.engine.ask(name)
    world.engine.step()
    world.rapi.requests.clear()
    world.engine.step()
    assert Query.objects.filter(state="submitted").count() == 3
    assert world.rapi.requests == [("PUT", "/2/query/job")]


def test_a_pass_goes_on_over_a_master_that_moves(world: World) -> None:
    name = world.nth(0)
    world.truth.crash(name)
    asked = world.engine.ask(name)
    world.queue.seconds = 1e6
    world.engine.step()
    world.queue.seconds = 0
    world.queue.move_master()
    world.engine.settle()
    asked.refresh_from_db()
    assert (asked.outcome, world.recorded()[name]) == ("reconciled", "STOPPED ERROR_down")
