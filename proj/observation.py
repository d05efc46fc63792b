"""The vocabulary every room shares: API states, and what a backend said and when."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any, Self


class Status(StrEnum):
    """The API's states (OpenStack Compute) that this system records."""

    ACTIVE = "ACTIVE"
    BUILD = "BUILD"
    DELETED = "DELETED"
    ERROR = "ERROR"
    HARD_REBOOT = "HARD_REBOOT"
    REBOOT = "REBOOT"
    REBUILD = "REBUILD"
    RESIZE = "RESIZE"
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

    def to_json(self) -> list[str]:
        """Return plain JSON values that ``from_json`` reads back."""
        return [self.not_before.isoformat(), self.not_after.isoformat()]

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read what ``to_json`` wrote."""
        begun, ended = value
        return cls(datetime.fromisoformat(begun), datetime.fromisoformat(ended))


@dataclass(frozen=True, slots=True)
class Nic:
    """A network interface as every version of Ganeti describes it."""

    ip: str | None
    mac: str | None
    mode: str | None
    link: str | None


@dataclass(frozen=True, slots=True)
class Configuration:
    """What an instance is made of. A field is None where the evidence does not tell it."""

    memory: int | None = None
    """MiB, the maximum."""
    vcpus: int | None = None
    disks: tuple[int, ...] | None = None
    """The size of each disk in MiB, in order."""
    nics: tuple[Nic, ...] | None = None
    nodes: tuple[str, ...] | None = None
    """The primary node first, then the secondaries."""
    os: str | None = None
    tags: tuple[str, ...] | None = None
    """In order of the alphabet. Only a list tells them."""

    def told(self) -> dict[str, Any]:
        """Return the fields that the evidence tells."""
        pairs = ((name, getattr(self, name)) for name in CONFIGURATION_FIELDS)
        return {name: value for name, value in pairs if value is not None}


CONFIGURATION_FIELDS = tuple(field.name for field in fields(Configuration))


@dataclass(frozen=True, slots=True)
class Observation:
    """What a backend said about one instance.

    A status of None says nothing about the state (a static query); its configuration holds.
    """

    instance: str
    """The name, whole."""
    status: Status | None
    backend_status: str | None
    """The backend's own word for the status."""
    configuration: Configuration
    interval: Interval
    job_id: int | None = None
    uuid: str | None = None
    """The instance's identity; None where the backend is too old to tell it."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values that ``from_json`` reads back."""
        return asdict(self) | {"interval": self.interval.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` wrote.

        Raises:
            ValueError, KeyError, TypeError: it was written by nobody we know.
        """
        configuration = {
            name: of_json(name, value["configuration"].get(name)) for name in CONFIGURATION_FIELDS
        }
        return cls(
            instance=value["instance"],
            status=None if value["status"] is None else Status(value["status"]),
            backend_status=value["backend_status"],
            configuration=Configuration(**configuration),
            interval=Interval.from_json(value["interval"]),
            job_id=value["job_id"],
            uuid=value["uuid"],
        )


def of_json(field: str, value: Any) -> Any:
    """Read a field of the configuration as JSON keeps it: lists as tuples, objects as NICs."""
    if not isinstance(value, list):
        return value
    if field == "nics":
        return tuple(Nic(**nic) for nic in value)
    return tuple(value)


def to_json(value: Any) -> Any:
    """Return a field of an observation as JSON keeps it: tuples as lists, NICs as objects."""
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    return asdict(value) if isinstance(value, Nic) else value
