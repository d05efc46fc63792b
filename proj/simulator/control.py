"""Break and mend clusters of a simulator that runs as a process of its own.

`PUT /simulator/faults`, `queue` or `truth` with a JSON object: each key is a switch to set, or
something to let happen to what its value names.
"""

import json
from dataclasses import fields
from typing import Any

from proj.simulator.faults import Faults
from proj.simulator.queue import Queue
from proj.simulator.truth import Truth

Target = Faults | Queue | Truth

SETS: dict[type, frozenset[str]] = {
    Faults: frozenset(field.name for field in fields(Faults)),
    Queue: frozenset({"seconds", "parallel", "paused", "stuck", "reordered", "skew"}),
    Truth: frozenset(),
}
HAPPENS: dict[type, frozenset[str]] = {
    Faults: frozenset(),
    Queue: frozenset({"submit", "cancel", "lose", "archive", "purge"}),
    Truth: frozenset({"add", "remove", "change", "start", "stop", "crash", "set_node"}),
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
    try:
        if name != "submit" and isinstance(value, dict):
            event(**value)
        elif value is True:
            event()
        else:
            event(value)
    except (KeyError, TypeError) as error:
        raise Refused(f"{name}: {error}") from None
