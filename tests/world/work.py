"""Jobs that change instances: what is in the queue about them, and what they do."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from proj.backend import Work
from tests.world.operations import OPERATIONS, SHOWN_AS, Operation
from tests.world.queries import node_lock
from tests.world.queue import Job, Locks, Queue
from tests.world.truth import Machine, Truth, lock_of


@dataclass
class Step:
    """One operation on one instance; a job may have several."""

    operation: str
    name: str
    """As the queue has it before the job begins."""
    uuid: str | None = None
    """None: nobody has this name."""
    values: Mapping[str, Any] = field(default_factory=dict)
    becomes: Machine | None = None
    """Of a creation: what it makes."""
    before: Machine | None = None
    """What was, when it began."""
    has_begun: bool = False


@dataclass
class Worker:
    """Puts jobs into the queue that do what their steps say."""

    truth: Truth
    queue: Queue

    def step(self, operation: str, name: str, values: Mapping[str, Any]) -> Step:
        """Return a step about whoever answers to a name now."""
        machine = self.truth.expand(name)
        return Step(operation, name, machine.uuid if machine else None, values)

    def put(self, steps: list[Step], job: Job, *, unnamed: bool = False) -> int:
        """Put a job into the queue; where it is ``unnamed`` it tells no instance."""
        job.changes = True
        job.work = () if unnamed else _works(steps)
        # Not closures: a copy of the world has copies of these.
        job.locks = partial(self._locks, steps)
        job.begin = partial(self._begin, steps, job)
        job.end = partial(self._end, steps)
        job.undo = partial(self._undo, steps)
        return self.queue.add(job)

    def _locks(self, steps: list[Step]) -> Locks:
        alone: set[str] = set()
        for step in steps:
            machine = self._machine(step)
            if machine is None:
                continue
            alone.add(lock_of(machine.uuid))
            if _of(step).takes_nodes:
                alone |= {node_lock(name) for name in (machine.node, *machine.secondaries)}
        return Locks(alone=frozenset(alone))

    def _begin(self, steps: list[Step], job: Job) -> bool:
        for step in steps:
            if step.becomes is not None:
                if self._is_taken(step.becomes.name):
                    return False
                self.truth.machines[step.becomes.uuid] = replace(step.becomes)
                job.work = tuple(replace(work, instance=step.becomes.name) for work in job.work)
            elif step.uuid not in self.truth.machines or self._is_taken(
                step.values.get("new_name")
            ):
                return False
        first = {step.uuid: step for step in reversed(steps)}
        for step in first.values():
            self._start(step)
        return True

    def _end(self, steps: list[Step]) -> None:
        for step in steps:
            self._start(step)
            machine = self._machine(step)
            if machine is not None and step.uuid in self.truth.machines:
                _of(step).end(self.truth, machine, step.values)

    def _undo(self, steps: list[Step]) -> None:
        for step in steps:
            if step.uuid not in self.truth.machines or not step.has_begun:
                continue
            if step.becomes is not None:
                del self.truth.machines[step.uuid]
            elif step.before is not None:
                self.truth.machines[step.uuid] = step.before

    def _start(self, step: Step) -> None:
        machine = self.truth.machines.get(step.uuid or "")
        if machine is not None and not step.has_begun:
            step.before = replace(machine)
            step.has_begun = True
            _of(step).begin(self.truth, machine, step.values)

    def _machine(self, step: Step) -> Machine | None:
        return self.truth.machines.get(step.uuid or "") or step.becomes

    def _is_taken(self, name: str | None) -> bool:
        return any(machine.name == name for machine in self.truth.machines.values())


def _of(step: Step) -> Operation:
    return OPERATIONS.get(step.operation, Operation())


def _works(steps: list[Step]) -> tuple[Work, ...]:
    works = []
    for step in steps:
        shown = SHOWN_AS.get(step.operation, step.operation)
        names = [step.name]
        if step.operation == "RENAME":
            names.append(step.values["new_name"])
        works += [Work(name, shown, _of(step).status) for name in names]
    return tuple(works)
