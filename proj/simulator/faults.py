"""What goes wrong on purpose. Every switch may be turned while the cluster answers."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Faults:
    """The faults of one cluster; the default is none."""

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
    empty_list: bool = False
    hidden: set[str] = field(default_factory=set)
    """Instances that the list leaves out."""
