"""The vocabulary every room shares: API states, and what a backend said and when."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

INSTANCE_NAME = r"^[A-Za-z0-9_.-]{1,255}$"


def is_instance_name(text: str) -> bool:
    """Whether an instance may have this name at all."""
    return re.fullmatch(INSTANCE_NAME, text) is not None


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


class Evidence(StrEnum):
    """Where an observation came from, which decides what it can prove."""

    LIST = "list"
    """A row of the list of all instances: no locks taken, finds suspects."""
    JOB = "job"
    """The result of a query job of ours: read under the instance's lock, convicts."""
    FOREIGN_JOB = "foreign_job"
    """The result of a query job that somebody else issued: worth as much as ours."""


class JobEnd(StrEnum):
    """How a job that worked on an instance ended."""

    SUCCESS = "success"
    FAILED = "failed"
    LOST = "lost"
    """The queue does not know it any more: impossible to tell what happened."""


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


@dataclass(frozen=True, slots=True)
class Observation:
    """What a backend said about one instance.

    A status of None says nothing about the state (a static query); its configuration holds.
    """

    instance: str
    status: Status | None
    backend_status: str | None
    """The backend's own word for the status."""
    configuration: Configuration
    evidence: Evidence
    interval: Interval
    job_id: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values that ``from_json`` reads back."""
        return asdict(self) | {
            "interval": [
                self.interval.not_before.isoformat(),
                self.interval.not_after.isoformat(),
            ]
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` wrote."""
        configuration = dict(value["configuration"])
        nics = configuration["nics"]
        not_before, not_after = value["interval"]
        return cls(
            instance=value["instance"],
            status=None if value["status"] is None else Status(value["status"]),
            backend_status=value["backend_status"],
            configuration=Configuration(
                memory=configuration["memory"],
                vcpus=configuration["vcpus"],
                disks=_tuple(configuration["disks"]),
                nics=None if nics is None else tuple(Nic(**nic) for nic in nics),
                nodes=_tuple(configuration["nodes"]),
                os=configuration["os"],
            ),
            evidence=Evidence(value["evidence"]),
            interval=Interval(
                datetime.fromisoformat(not_before), datetime.fromisoformat(not_after)
            ),
            job_id=value["job_id"],
        )


def _tuple(values: list[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)
