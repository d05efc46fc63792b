"""The vocabulary every room shares: API states and when something was seen."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Status(StrEnum):
    """The API's states (OpenStack Compute) that this system records."""

    ACTIVE = "ACTIVE"
    BUILD = "BUILD"
    DELETED = "DELETED"
    ERROR = "ERROR"
    REBOOT = "REBOOT"
    REBUILD = "REBUILD"
    STOPPED = "STOPPED"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class Interval:
    """When something was read, on our clock: from request sent to answer received."""

    not_before: datetime
    not_after: datetime

    def __post_init__(self) -> None:
        if self.not_after < self.not_before:
            raise ValueError("an interval cannot end before it begins")

    def begins_after(self, other: "Interval") -> bool:
        """Whether this was read wholly after ``other``."""
        return self.not_before > other.not_after
