"""What goes wrong between a cluster and us. Every switch may be turned at any moment."""

from dataclasses import dataclass, field
from enum import StrEnum

from proj.backend import BackendError, Busy, Misconfigured, SaysNothing, TryAgain

PATIENCE = 75.0
"""Seconds that a client waits for an answer."""

EVERY = "*"


class Fault(StrEnum):
    """What becomes of a request."""

    DOWN = "nothing listens"
    HANG = "no answer came"
    UNANSWERED = "it was done, and no answer came"
    UNAUTHORIZED = "401"
    FORBIDDEN = "403"
    NOT_FOUND = "404"
    GARBAGE = "not JSON"
    CUT = "half of the answer"
    SERVER_ERROR = "500"
    BAD_GATEWAY = "502"
    GATEWAY_TIMEOUT = "504"
    BUSY = "as many requests as may be"
    CERTIFICATE = "another certificate"


ACTS = frozenset({Fault.UNANSWERED, Fault.GARBAGE, Fault.CUT, Fault.GATEWAY_TIMEOUT})
"""What was asked for is done all the same; the answer is lost."""

SLOW = frozenset({Fault.HANG, Fault.UNANSWERED})

ERRORS: dict[Fault, type[BackendError]] = {
    Fault.UNAUTHORIZED: Misconfigured,
    Fault.FORBIDDEN: Misconfigured,
    Fault.CERTIFICATE: Misconfigured,
    Fault.NOT_FOUND: SaysNothing,
    Fault.GARBAGE: SaysNothing,
    Fault.CUT: SaysNothing,
    Fault.BUSY: Busy,
}
"""All others pass: TryAgain."""


def error_of(fault: Fault) -> BackendError:
    """Return what a request that meets this fault raises."""
    return ERRORS.get(fault, TryAgain)(fault.value)


@dataclass
class Faults:
    """The faults of one cluster; the default is none."""

    requests: dict[str, Fault] = field(default_factory=dict)
    """By the method of the backend, or EVERY."""
    latency: float = 0.0
    """Seconds that an answer takes."""
    restarts: bool = False
    """RAPI is restarted every 20 s, and does not listen for two of them."""

    empty: bool = False
    """The list has no record."""
    keeps: int | None = None
    """The list has so many records, and then is cut."""
    missing: set[str] = field(default_factory=set)
    """Names that the list leaves out."""
    twice: set[str] = field(default_factory=set)
    """Names that the list has twice."""
    no_uuids: bool = False
    """An old Ganeti, which tells none."""
    uuidless: set[str] = field(default_factory=set)
    """Names that the list gives without their uuids."""
    unreadable: set[str] = field(default_factory=set)
    """Names whose records cannot be read, in lists and in the results of jobs."""
    nameless: int = 0
    """Records of the list that tell not even a name."""
    reversed: bool = False
    """The list is in another order."""

    read_only: bool = False
    """The user may not write: cancel() returns False."""
    unaskable: set[str] = field(default_factory=set)
    """Names about which a request of their own fails."""
    refusing: set[str] = field(default_factory=set)
    """Names about which every query job ends in an error."""
    unfetchable: set[int] = field(default_factory=set)
    """Jobs whose result breaks the request that asks for it."""
    hanging: set[int] = field(default_factory=set)
    """Jobs whose result hangs the request that asks for it."""
    garbled: set[int] = field(default_factory=set)
    """Jobs whose result is garbage."""

    def of(self, method: str, second: float) -> Fault | None:
        """Return what becomes of a request at this second of the real time."""
        if self.restarts and second % 20 < 2:
            return Fault.DOWN
        return self.requests.get(method, self.requests.get(EVERY))

    def stop(self) -> None:
        """End every fault."""
        fresh = Faults()
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(fresh, name))
