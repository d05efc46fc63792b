"""Whatever happens in whatever order: once faults stop, the database equals the truth."""

import os
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proj.ganeti.states import STATUS_OF_WORD
from proj.inventory.models import Pass, Query
from proj.observation import JobEnd
from proj.reconcile import answers
from proj.reconcile.brake import Limits
from tests.reconcile.conftest import Engine, make_engine

pytestmark = pytest.mark.django_db(transaction=True)

HISTORIES = int(os.environ.get("HISTORIES", "200"))
"""How many are generated; 2,000 in the nightly run."""

NAMES = ("vm", "vm1", "vm11")
"""Each is the beginning of the next, so that a name that is not matched whole shows."""

WORDS = ("running", "ADMIN_down", "ERROR_down", "ERROR_up", "ERROR_wrongnode", "ERROR_nodedown")
OPERATIONS = ("REBOOT", "SHUTDOWN", "MIGRATE", "REINSTALL")

name = st.sampled_from(NAMES)
events = st.one_of(
    st.tuples(st.just("become"), name, st.sampled_from(WORDS)),
    st.tuples(st.just("vanish"), name),
    st.tuples(st.just("hide"), name),
    st.tuples(st.just("begin"), name, st.sampled_from(OPERATIONS)),
    st.tuples(st.just("finish"), name, st.sampled_from(list(JobEnd))),
    st.tuples(st.just("ask"), name),
    st.tuples(st.just("fail"), st.booleans()),
    st.tuples(st.just("look")),
    st.tuples(st.just("look")),
    st.tuples(st.just("follow")),
    st.tuples(st.just("step")),
    st.tuples(st.just("step")),
    st.tuples(st.just("lose")),
    st.tuples(st.just("repeat")),
    st.tuples(st.just("wait"), st.sampled_from((0.1, 3.0, 20.0, 200.0))),
)

numbers = count()


@dataclass
class World:
    """The engine, the cluster it works on, and what may befall them."""

    engine: Engine
    answered: list[int] = field(default_factory=list)
    jobs: dict[str, int] = field(default_factory=dict)

    def happen(self, event: tuple[object, ...]) -> None:
        """Let one event happen."""
        kind, *arguments = event
        getattr(self, str(kind))(*arguments)

    def become(self, name: str, word: str) -> None:
        self.engine.backend.truth[name] = word

    def vanish(self, name: str) -> None:
        self.engine.backend.truth.pop(name, None)

    def hide(self, name: str) -> None:
        self.engine.backend.hidden ^= {name}

    def begin(self, name: str, operation: str) -> None:
        if name in self.engine.backend.truth and name not in self.jobs:
            self.jobs[name] = self.engine.backend.begin(name, operation)

    def finish(self, name: str, end: JobEnd) -> None:
        number = self.jobs.pop(name, None)
        if number is not None:
            self.engine.backend.finish(number, end)

    def ask(self, name: str) -> None:
        self.engine.ask(name)

    def fail(self, is_down: bool) -> None:
        self.engine.backend.is_down = is_down

    def look(self) -> None:
        self.engine.look()

    def follow(self) -> None:
        self.engine.follow()

    def step(self) -> None:
        self.engine.step()

    def lose(self) -> None:
        self.engine.step_losing(self.answered)

    def repeat(self) -> None:
        engine = self.engine
        mine = Query.objects.select_related("cluster", "pass_of").filter(cluster=engine.cluster)
        for query in [*mine.filter(state="answered"), *mine.filter(state="done")][:3]:
            answers.reconcile(query, engine.policy, engine.tuning)

    def wait(self, seconds: float) -> None:
        self.engine.clock.wait(seconds)

    def calm(self) -> None:
        """Stop all faults, end all jobs, and look until nothing is left to do."""
        backend, engine = self.engine.backend, self.engine
        backend.is_down, backend.hidden = False, set()
        for busy in list(self.jobs):
            self.finish(busy, JobEnd.SUCCESS)
        engine.clock.wait(1000)
        for _ in range(3):
            done = engine.run()
            if done.outcome == "held":
                done = engine.run(approved=done.fingerprint)
            engine.clock.wait(100)
        last = engine.run(Pass.Kind.ALL)
        if last.outcome == "held":
            last = engine.run(Pass.Kind.ALL, approved=last.fingerprint)


@settings(max_examples=HISTORIES, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(events, max_size=40))
def test_once_faults_stop_the_database_equals_the_truth(
    history: list[tuple[object, ...]],
) -> None:
    free = Limits(deleted_share=1.0, stopped_share=1.0)
    world = World(make_engine(f"c{next(numbers)}", limits=free))
    for event in history:
        world.happen(event)
    world.calm()
    truth = {
        name: f"{STATUS_OF_WORD[word]} {word}" for name, word in world.engine.backend.truth.items()
    }
    recorded = world.engine.recorded()
    assert {name: word for name, word in recorded.items() if word != "DELETED"} == truth
