"""Break and mend clusters of a simulator that runs as a process of its own.

`PUT /simulator/faults`, `queue` or `truth` with a JSON object: each key is a switch to set, or
something to let happen: its value is an argument, an object of arguments, true where it takes
none, or a list of such for more than one. `submit` takes an operation, a list of a job's
operations, or an object of arguments.
"""

import json
from dataclasses import fields
from typing import Any

from proj.simulator.faults import Faults
from proj.simulator.queue import Queue
from proj.simulator.truth import Truth

Target = Faults | Queue | Truth

QUEUES = frozenset({"truth", "jobs", "archived"})

SETS: dict[type, frozenset[str]] = {
    Faults: frozenset(field.name for field in fields(Faults)),
    Queue: frozenset(field.name for field in fields(Queue) if field.name[0] != "_") - QUEUES,
    Truth: frozenset({"domain"}),
}
HAPPENS: dict[type, frozenset[str]] = {
    Faults: frozenset(),
    Queue: frozenset({"submit", "lock", "cancel", "end", "lose", "archive", "purge", "begin_anew"}),
    Truth: frozenset(
        {
            "add",
            "reserve",
            "commit",
            "rename",
            "remove",
            "change",
            "start",
            "stop",
            "stop_inside",
            "crash",
            "set_node",
        }
    ),
}


class Refused(Exception):
    """Why a command cannot be carried out."""


def command(target: Target, body: bytes) -> None:
    """Carry out every switch and event of a JSON object.

    Raises:
        Refused: it is no object, or names what there is not.
    """
    kind = type(target)
    known = SETS[kind] | HAPPENS[kind]
    try:
        given = json.loads(body)
        unknown = sorted(set(given.keys()) - known)
    except (ValueError, AttributeError):
        raise Refused("write a JSON object") from None
    if unknown:
        raise Refused(f"no {', '.join(unknown)} here; there is {', '.join(sorted(known))}")
    for name, value in given.items():
        if name in SETS[kind]:
            is_set = isinstance(getattr(target, name), set)
            setattr(target, name, set(value) if is_set else value)
        else:
            _let_happen(target, name, value)


def _let_happen(target: Target, name: str, value: Any) -> None:
    event = getattr(target, name)
    values = value if isinstance(value, list) and name != "submit" else [value]
    try:
        for each in values:
            if isinstance(each, dict) and "OP_ID" not in each:
                event(**each)
            elif each is True:
                event()
            else:
                event(each)
    except (KeyError, TypeError, ValueError) as error:
        raise Refused(f"{name}: {error}") from None
