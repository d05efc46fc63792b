"""What goes wrong on purpose. Every switch may be turned while the cluster answers."""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Faults:
    """The faults of one cluster; the default is none. In a set of names "*" is everybody."""

    latency: float = 0.0
    """Seconds before each answer."""
    hang: bool = False
    """Accept, and say nothing."""
    cut: bool = False
    """Send half of the answer, and close."""
    garbage: bool = False
    """Answer what is not JSON."""
    status: int | None = None
    """Answer every request with this HTTP status."""
    restarts: float = 0.0
    """RAPI is restarted every so many seconds: what is under way is lost."""
    rights: str = "write"
    """What the user may do: write, read, or nothing ("")."""
    query_right: str | None = "read"
    """What /2/query needs: read; write, as in 2.5 and 2.6; None: there is none, as in 2.4."""

    empty_list: bool = False
    hidden: set[str] = field(default_factory=set)
    """Instances that the list leaves out."""
    halved: bool = False
    """The list ends after half of its records, and is valid JSON."""
    reversed: bool = False
    """The list is in another order."""
    doubled: set[str] = field(default_factory=set)
    """Instances that are in the list twice."""
    without_uuid: set[str] = field(default_factory=set)
    """Instances whose uuid the list does not know."""
    malformed: set[str] = field(default_factory=set)
    """Instances of whose record nothing but the name can be read."""

    unfetchable: set[int | str] = field(default_factory=set)
    """Jobs, by id or by an instance, whose result is answered by 500 to the whole request."""
    garbled: set[int | str] = field(default_factory=set)
    """Jobs whose result is garbage."""
    hanging: set[int | str] = field(default_factory=set)
    """Jobs whose result is never answered."""
    spoiled: set[int | str] = field(default_factory=set)
    """Jobs of whose row in the queue nothing but the id can be read."""

    @property
    def spoils_records(self) -> bool:
        """Whether some record of the list is not as it ought to be."""
        return bool(self.without_uuid or self.malformed)


def is_in(switch: Iterable[int | str], *who: int | str) -> bool:
    """Whether a switch names one of these, or everybody."""
    chosen = set(switch)
    return "*" in chosen or not chosen.isdisjoint(who)
