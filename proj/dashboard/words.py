"""How changes are put into words."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import Any

from proj.inventory.models import Transition


@dataclass(slots=True)
class Event:
    """What changed about one instance at one moment, by one rule."""

    at: datetime
    instance: str
    rule: str
    job_id: int | None
    changes: list[str] = field(default_factory=list)


def events(transitions: Iterable[Transition]) -> list[Event]:
    """Put the changes of fields that belong together into one event each."""
    found = []
    for (at, instance, rule, job_id), same in groupby(transitions, key=_moment):
        found.append(Event(at, instance, rule, job_id, [_change(it) for it in same][::-1]))
    return found


def _moment(transition: Transition) -> tuple[datetime, str, str, int | None]:
    return transition.at, str(transition.instance), transition.rule, transition.job_id


def _change(transition: Transition) -> str:
    name = {"status": "", "backend_status": "Ganeti: "}.get(
        transition.field, f"{transition.field} "
    )
    again = f" and {transition.folded} times more" if transition.folded else ""
    return f"{name}{_value(transition.before)} → {_value(transition.after)}{again}"


def _value(value: Any) -> str:
    if value in (None, "", []):
        return "none"
    if isinstance(value, list):
        return f"{len(value)} items" if isinstance(value[0], dict) else ", ".join(map(str, value))
    return str(value)
