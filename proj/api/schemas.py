"""What the API takes and gives."""

from datetime import datetime
from typing import Annotated, Any, Self

from ninja import Path, Query, Schema
from pydantic import Field

from proj.inventory.fleet import Standing
from proj.inventory.models import Instance
from proj.observation import INSTANCE_NAME, Status

BIGINT = 2**63 - 1

InstanceName = Annotated[str, Path(pattern=INSTANCE_NAME, description="the name in Ganeti")]
Limit = Annotated[int, Query(ge=1, le=1000, description="entries in one answer")]


class Problem(Schema):
    """Why not, and what to do."""

    detail: str


class Cluster(Schema):
    """A cluster, and what its instances add up to."""

    name: str
    host: str
    port: int
    paused: bool
    looked_at: datetime | None = Field(description="when the last list was read")
    next_look_at: datetime | None
    failures: int = Field(description="failed requests in a row")
    last_error: str
    instances: dict[Status, int]
    flapping: int
    overdue: int = Field(description="instances confirmed longer ago than the maximum age")
    oldest_confirmation: datetime | None
    audit: str = Field(description="whether the budget of jobs keeps the maximum age")
    held_pass: int | None = Field(description="waits for: manage.py approve PASS")

    @classmethod
    def of(cls, standing: Standing) -> Self:
        """Describe a cluster as it stands."""
        cluster = standing.cluster
        return cls(
            name=cluster.name,
            host=cluster.host,
            port=cluster.port,
            paused=cluster.paused,
            looked_at=cluster.looked_not_after,
            next_look_at=cluster.next_look_at,
            failures=cluster.failures,
            last_error=cluster.last_error,
            instances={Status(status): number for status, number in standing.statuses.items()},
            flapping=standing.flapping,
            overdue=standing.overdue,
            oldest_confirmation=standing.oldest,
            audit=str(standing.audit),
            held_pass=standing.held.pk if standing.held else None,
        )


class Clusters(Schema):
    clusters: list[Cluster]


class Nic(Schema):
    ip: str | None
    mac: str | None
    mode: str | None
    link: str | None


class Configuration(Schema):
    """What an instance is made of; null where Ganeti has not told it yet."""

    memory: int | None = Field(description="MiB")
    vcpus: int | None
    disks: list[int] | None = Field(description="MiB each")
    nics: list[Nic] | None
    nodes: list[str] | None = Field(description="primary first")
    os: str | None


class InstanceState(Schema):
    """The last known state of an instance."""

    cluster: str
    name: str
    status: Status
    task_state: str | None = Field(description="the operation under way")
    backend_status: str = Field(description="Ganeti's own word")
    configuration: Configuration
    observed_at: datetime = Field(description="when Ganeti last showed this state")
    confirmed_at: datetime | None = Field(description="when a query job last proved it")
    flapping_since: datetime | None

    @classmethod
    def of(cls, instance: Instance) -> Self:
        """Describe a row. A look that found nothing new writes no row: it counts as well."""
        looked = instance.cluster.looked_not_after
        return cls(
            cluster=instance.cluster.name,
            name=instance.name,
            status=Status(instance.status),
            task_state=instance.task_state or None,
            backend_status=instance.backend_status,
            configuration=Configuration.from_orm(instance),
            observed_at=max(filter(None, (instance.observed_not_after, looked))),
            confirmed_at=instance.confirmed_at,
            flapping_since=instance.flapping_since,
        )


class Instances(Schema):
    instances: list[InstanceState]
    next: str | None = Field(description="where the next entries are")


class Change(Schema):
    """One field of an instance changed."""

    id: int
    at: datetime
    field: str
    before: Any = Field(alias="from")
    after: Any = Field(alias="to")
    backend_status: str
    rule: str
    source: str
    job_id: int | None
    folded: int = Field(description="further changes of a flapping instance in this entry")


class Changes(Schema):
    transitions: list[Change]
    next: str | None = Field(description="where older entries are")


class ReconcileCluster(Schema):
    """How to go over a cluster."""

    all: bool = Field(default=False, description="ask every instance by a job, not only suspects")
    plan: bool = Field(default=False, description="name the changes and write none")


class Accepted(Schema):
    """A pass that the workers carry out: follow its url until its state is closed."""

    number: int = Field(alias="pass")
    url: str


class Operation(Schema):
    """What the host system started on an instance."""

    action: str = Field(
        max_length=30,
        description="CREATE, REBOOT, REINSTALL, STARTUP, SHUTDOWN, MIGRATE, FAILOVER or REMOVE",
    )
    job_id: int | None = Field(default=None, ge=1, le=BIGINT, description="Ganeti's job, if known")


class Announced(Schema):
    """The announcement is recorded; follow the instance's url."""

    action: str
    url: str
