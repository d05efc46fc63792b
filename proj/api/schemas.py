"""What the API takes and gives."""

from datetime import datetime
from typing import Annotated, Any, Self
from uuid import UUID

from ninja import Path, Query, Schema
from pydantic import Field

from proj.inventory.fleet import Standing
from proj.inventory.models import Instance
from proj.names import INSTANCE_NAME
from proj.observation import Status
from proj.reconcile import shown

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
    failures: int = Field(description="looks that failed in a row")
    last_error: str
    instances: dict[Status, int]
    flapping: int
    overdue: int = Field(description="instances confirmed longer ago than the maximum age")
    oldest_confirmation: datetime | None
    audit: str = Field(description="whether the budget of jobs keeps the maximum age")
    holds: list[int] = Field(description="each waits for: manage.py approve ID")
    requests: dict[str, int] = Field(
        description="those that are open, and those of the last hour by outcome"
    )
    questions: dict[str, int] = Field(description="instances that wait for evidence, by priority")
    oldest_question: datetime | None
    stuck_jobs: int = Field(description="query jobs of ours that have been open for long")
    set_aside: int = Field(description="items that could not be read or written")
    epoch: int = Field(description="raised when the clock jumps or the database is another")
    read_at: datetime | None = Field(description="when the job queue was last read")
    is_queue_read: bool = Field(
        description="whether operations are known, and PROOF_WITHIN bounds how late a change is"
    )
    asked_at: datetime | None = Field(description="when jobs were last issued or polled")
    settled_at: datetime | None = Field(description="when an answer was last settled")

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
            holds=[hold.pk for hold in standing.held],
            requests=dict(standing.requests),
            questions=dict(standing.questions),
            oldest_question=standing.oldest_question,
            stuck_jobs=standing.stuck,
            set_aside=cluster.set_aside,
            epoch=cluster.epoch,
            read_at=cluster.read_not_after,
            is_queue_read=standing.is_queue_read,
            asked_at=cluster.asked_at,
            settled_at=cluster.settled_at,
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
    tags: list[str] | None


class InstanceState(Schema):
    """The last known state of an instance."""

    cluster: str
    name: str
    uuid: str | None = Field(description="Ganeti's; null for one that it has not shown yet")
    id: UUID = Field(description="what the APIs call it: Ganeti's uuid, or its own for ever")
    status: Status
    task_state: str | None = Field(
        description="the operation under way; null for none, and where the queue is not read"
    )
    backend_status: str = Field(description="Ganeti's own word")
    configuration: Configuration
    observed_at: datetime | None = Field(description="when Ganeti last showed this state")
    confirmed_at: datetime | None = Field(description="when a query job last proved it")
    flapping_since: datetime | None

    @classmethod
    def of(cls, instance: Instance, task_state: str | None) -> Self:
        """Describe a row, and the operation that is under way on it."""
        return cls(
            cluster=instance.cluster.name,
            name=instance.name,
            uuid=instance.uuid,
            id=instance.api_id,
            status=Status(instance.status),
            task_state=task_state or None,
            backend_status=instance.backend_status,
            configuration=Configuration.from_orm(instance),
            observed_at=shown.observed_at(instance),
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


class ReconcileInstance(Schema):
    """How to go over one instance."""

    plan: bool = Field(default=False, description="name the changes and write none")


class HeldChange(Schema):
    """One instance of a mass change."""

    instance: str
    before: str = Field(alias="from")
    after: str = Field(alias="to")


class Held(Schema):
    """A mass change that waits for an operator."""

    id: int
    cluster: str
    reason: str
    since: datetime
    changes: list[HeldChange]


class Holds(Schema):
    holds: list[Held]


class Accepted(Schema):
    """A request that the workers carry out: follow its url until its state is closed."""

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
