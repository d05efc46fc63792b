"""I4: the same world with and without something bad; what is recorded of all others is the same."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from proj.inventory.models import Instance
from proj.reconcile import memo
from tests.world import databases, invariants
from tests.world.engine import Engine
from tests.world.faults import Fault
from tests.world.meeting import QUICK, quick_policy
from tests.world.world import NODES, World

pytestmark = pytest.mark.django_db(transaction=True)

OTHERS = ("a", "b", "c", "d", "e", "f")
LOOK = QUICK.look_period + 1.0
"""One look, and the beat that begins it."""
STARTS, ENDS = 5, 50

Event = Callable[[World], object]
EVENTS: dict[int, Event] = {
    6: lambda world: world.crash("a"),
    9: lambda world: world.change("b", memory=2048),
    12: lambda world: world.rename("c", "shop"),
    15: lambda world: world.create("new"),
    18: lambda world: world.begin("REBOOT", "d", seconds=4),
    24: lambda world: world.start("a"),
    27: lambda world: world.tag("e", "t"),
    30: lambda world: world.node_offline("node3"),
}
"""What happens to the others, by the second."""


@dataclass
class Run:
    """One cluster through all that happens, and when each change of the others was recorded."""

    world: World = field(default_factory=World)
    name: str = "alpha"
    recorded: dict[str, list[tuple[float, object]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        memo.forget()
        for place, name in enumerate((*OTHERS, "bad")):
            self.world.create(name, node=NODES[place % 3])
        self.engine = Engine(self.world, self.name, tuning=QUICK, policy=quick_policy())
        self.engine.add_cluster(jobs_per_hour=0)
        for _ in range(25):
            self.second()
        assert not invariants.diverged(self.engine)
        self.recorded.clear()

    def second(self, at: int = 0) -> None:
        """Let one second go by."""
        self.engine.beat()
        for who, what in invariants.recorded(self.engine, without=("bad", BAD)).items():
            uuid = who.split()[-1]
            seen = self.recorded.setdefault(uuid, [])
            if not seen or seen[-1][1] != (who, what):
                seen.append((at, (who, what)))
        self.world.clock.wait(1)

    def go(self, bad: Callable[["Run"], object] | None = None) -> "Run":
        """Let everything happen, and something bad."""
        for at in range(STARTS, ENDS):
            if at == STARTS and bad is not None:
                bad(self)
            if at in EVENTS:
                EVENTS[at](self.world)
            self.second(at)
        return self


BAD = "00000007-0000-4000-8000-000000000001"


def a_record_that_cannot_be_read(run: Run) -> None:
    run.world.faults.unreadable.add("bad")


def a_query_that_is_refused(run: Run) -> None:
    run.world.faults.refusing.add("bad")
    run.world.change("bad", vcpus=8)


def a_query_that_cannot_be_issued(run: Run) -> None:
    run.world.faults.unaskable.add("bad")
    run.world.change("bad", vcpus=8)


def a_lock_of_ten_minutes(run: Run) -> None:
    run.world.lock_instance("bad", 600)
    run.world.change("bad", vcpus=8)


def a_result_that_cannot_be_fetched(run: Run) -> None:
    run.world.change("bad", vcpus=8)
    _spoil_results(run, "garbled")


def a_row_that_cannot_be_read(run: Run) -> None:
    Instance.objects.filter(name="bad").update(
        differs={"state": 3, "nics": [[]]}, nics=[3], disks=["x"], differs_since=run.world.clock()
    )


def a_job_that_cannot_be_read(run: Run) -> None:
    run.world.spoil_row(run.world.begin("REBOOT", "bad"))


def a_query_of_others_that_hangs(run: Run) -> None:
    run.world.faults.unfetchable.add(run.world.others_ask("bad", seconds=0))


def a_job_that_is_canceled(run: Run) -> None:
    job = run.world.begin("REBOOT", "bad", held=True)
    run.world.clock.after(3, lambda: run.world.finish(job, "canceled"))


def a_job_of_thousands_of_instances(run: Run) -> None:
    run.world.begin("ACTIVATE_DISKS", "bad", *(f"x{number}" for number in range(2000)))


def _spoil_results(run: Run, how: str) -> None:
    queries = run.world.queries
    ask = queries.ours

    def ours(name: str, limit: int) -> int:
        number = ask(name, limit)
        if name == "bad":
            getattr(run.world.faults, how).add(number)
        return number

    queries.ours = ours  # type: ignore[method-assign]


def a_poll_that_breaks(run: Run) -> None:
    run.world.change("bad", vcpus=8)
    _spoil_results(run, "unfetchable")


BADS = (
    a_record_that_cannot_be_read, a_query_that_is_refused,
    a_query_that_cannot_be_issued, a_lock_of_ten_minutes, a_result_that_cannot_be_fetched,
    a_row_that_cannot_be_read, a_job_that_cannot_be_read, a_query_of_others_that_hangs,
    a_job_that_is_canceled, a_job_of_thousands_of_instances, a_poll_that_breaks,
)  # fmt: skip


def fresh() -> Run:
    """Return a cluster of which all is recorded."""
    databases.clear()
    random.seed(0)
    return Run()


@pytest.mark.parametrize("bad", BADS, ids=lambda it: it.__name__)
def test_what_is_bad_about_one_changes_nothing_of_the_others(bad: Callable[[Run], object]) -> None:
    assert_same(fresh().go(), fresh().go(bad))


def assert_same(without: Run, with_it: Run) -> None:
    """Fail where a change was recorded otherwise, or later than one look."""
    for who, changes in without.recorded.items():
        found = with_it.recorded.get(who, [])
        assert [what for _, what in found][-1:] == [what for _, what in changes][-1:], who
        for at, what in changes:
            when = [it for it, seen in found if seen == what]
            assert when, (who, what, found)
            assert when[0] <= at + LOOK, (who, at, when[0], what)


@pytest.mark.parametrize("fault", [Fault.DOWN, Fault.HANG, Fault.GARBAGE])
def test_a_cluster_that_fails_changes_nothing_of_another(fault: Fault) -> None:
    without = fresh().go()
    databases.clear()
    random.seed(0)
    with_it, other = Run(), Run(World(number=2), "beta")
    other.world.fail(fault)
    for at in range(STARTS, ENDS):
        if at in EVENTS:
            EVENTS[at](with_it.world)
        other.engine.look()
        other.engine.feed()
        other.engine.ask()
        with_it.second(at)
    assert_same(without, with_it)
