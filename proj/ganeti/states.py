"""Ganeti's words for an instance's state, and the API status each one means."""

from collections.abc import Mapping

from proj.ganeti.values import shown
from proj.observation import Status

FORTHCOMING = "forthcoming"
"""Our word for an instance that Ganeti has reserved and not yet made; it lists it as stopped."""

STATUS_OF_WORD: Mapping[str, Status] = {
    "running": Status.ACTIVE,
    "ADMIN_down": Status.STOPPED,
    "ADMIN_offline": Status.STOPPED,
    "USER_down": Status.STOPPED,
    "ERROR_down": Status.STOPPED,
    "ERROR_up": Status.ACTIVE,
    "ERROR_wrongnode": Status.ERROR,
    "ERROR_nodedown": Status.UNKNOWN,
    "ERROR_nodeoffline": Status.UNKNOWN,
    FORTHCOMING: Status.BUILD,
}

LIST_ONLY = frozenset({"ERROR_wrongnode", "ERROR_nodedown", "ERROR_nodeoffline", FORTHCOMING})
"""Words whose witness is the list: it asks all nodes, and knows what is only reserved. Of a job
one can come all the same, as from a node that is marked offline, and convicts."""

ENDS_ONLY = frozenset({"ERROR_wrongnode"})
"""Those of them that every migration causes for a while: they wait for its end."""

JOB_BLIND: Mapping[str, frozenset[str]] = {
    "ERROR_wrongnode": frozenset({"ERROR_down", "ADMIN_down", "ADMIN_offline", "USER_down"}),
    FORTHCOMING: frozenset({"ADMIN_down", "ERROR_nodeoffline"}),
}
"""What a query job says in place of a word of the list: it asks the primary node only, and does
not tell the reserved from the real."""

TOLD_BY_LISTS = frozenset({"tags"})
"""Fields that no job tells."""

_WORD_OF_STATES: Mapping[tuple[str, str], str] = {
    ("up", "up"): "running",
    ("down", "up"): "ERROR_up",
    ("offline", "up"): "ERROR_up",
    ("up", "down"): "ERROR_down",
    ("up", "user down"): "USER_down",
    ("down", "down"): "ADMIN_down",
    ("down", "user down"): "USER_down",
    ("offline", "offline"): "ADMIN_offline",
    ("offline", "down"): "ADMIN_down",
    ("offline", "user down"): "ADMIN_down",
}


class UnknownState(ValueError):
    """Ganeti used a word that this table does not know."""


def word_of(config_state: str, run_state: str | None, *, static: bool) -> str | None:
    """Return the word ``gnt-instance list`` would show for a query job's two states.

    None means that the answer says nothing about the state: a static query asks no node.
    A null run state of any other query means that the primary node is marked offline.

    Raises:
        UnknownState: the pair is not one that Ganeti is known to give.
    """
    if run_state is None:
        return None if static else "ERROR_nodeoffline"
    try:
        return _WORD_OF_STATES[config_state, run_state]
    except KeyError:
        pair = f"config_state {shown(config_state)} with run_state {shown(run_state)}"
        raise UnknownState(f"{pair} is not known") from None
