"""Between the database's rows and the decision's view of them.

A moment of another epoch, or one that lies ahead, is no moment: whatever a row holds, it reads.
"""

import random
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from django.db.models import Model, Q, QuerySet
from django.db.models.functions import Mod

from proj.backend import JobState
from proj.inventory import statements
from proj.inventory.models import Cluster, Instance, Job
from proj.observation import (
    CONFIGURATION_FIELDS,
    Configuration,
    Interval,
    Observation,
    Status,
    of_json,
    to_json,
)
from proj.reconcile.context import BACKWARDS
from proj.reconcile.decide import NOTHING_KEPT, Difference, Memory, OpenJob, Recorded
from proj.reconcile.settings import Tuning

T = TypeVar("T", bound=Model)

OLDEST = datetime(1970, 1, 1, tzinfo=UTC)
"""When an instance was observed that nobody has observed in this epoch."""

LIVES_OR_RETURNS = ~Q(status=Status.DELETED) | Q(differs_since__isnull=False)
"""An instance that is not gone, or that a list has shown again."""

HAS_NO_LASTING_UUID = (Q(uuid=None) | Q(backend_status="")) & ~Q(status=Status.DELETED)
"""A living instance that its name identifies: as the creation of one that was never shown may
fail and be tried again, its uuid may be another by then."""

OPEN = (JobState.QUEUED.value, JobState.WAITING.value, JobState.RUNNING.value)


def recorded_of(
    row: Instance,
    cluster: Cluster,
    jobs: Iterable[Job] = (),
    *,
    believed_since: datetime = OLDEST,
    at: datetime,
) -> Recorded:
    """Read a row, with the jobs of the mirror that work on it.

    A look that found an instance as it was writes no row: the cluster's last look stands for
    it, where nothing is kept that the look did not agree with.
    """
    is_of_epoch = row.epoch == cluster.epoch
    stale_before = stale_before_of(row, cluster, at=at)
    memory = memory_of(row, at=at) if is_of_epoch else NOTHING_KEPT
    observed = observed_of(row, cluster, at=at)
    looked = cluster.looked
    if (
        observed is not None
        and looked is not None
        and looked.begins_after(observed)
        and not row.differs
        and row.missing_first is None
        and (stale_before is None or stale_before <= looked.not_before)  # guard
    ):
        observed = looked
    return Recorded(
        name=row.name,
        state=(Status(row.status), row.backend_status),
        configuration=_configuration_of(row),
        observed=observed,
        stale_before=stale_before,
        memory=memory,
        jobs=tuple(
            _open_job(job, row, at, is_believed=job.seen_last >= believed_since) for job in jobs
        ),
    )


def observed_of(row: Instance, cluster: Cluster, *, at: datetime) -> Interval | None:
    """Return when the recorded state was read; None of another epoch, or where it lies ahead."""
    is_past = row.epoch == cluster.epoch and row.observed_not_after <= at
    return row.observed if is_past else None


def stale_before_of(row: Instance, cluster: Cluster, *, at: datetime) -> datetime | None:
    """Return before which nothing counts that was read of it: a job may have ended since.

    Also where that lies a little ahead, of a clock that went back: it ended all the same.
    """
    late = at + BACKWARDS
    ended = _past(row.stale_before, late) if row.epoch == cluster.epoch else None
    ends = [it for it in (ended, _past(cluster.followed_since, late)) if it is not None]
    return max(ends, default=None)


def _configuration_of(row: Instance) -> Configuration:
    """Read a row's configuration; a field that cannot be read was never told."""
    fields = {}
    for name in CONFIGURATION_FIELDS:
        with suppress(TypeError, ValueError):
            fields[name] = of_json(name, getattr(row, name))
    return Configuration(**fields)


def memory_of(row: Instance, *, at: datetime) -> Memory:
    """Read what the last lists said; what cannot be read was never kept."""
    missing = None
    first, last = _past(row.missing_first, at), _past(row.missing_last, at)
    if first is not None and last is not None and first <= last:
        missing = (first, last)
    return Memory(differs_of(row.differs, at=at), missing)


def differs_of(value: Any, *, at: datetime) -> dict[str, Difference]:
    """Read kept differences; those that cannot be read, or lie ahead, are dropped."""
    found = {}
    for name, it in value.items() if isinstance(value, Mapping) else ():
        with suppress(KeyError, TypeError, ValueError, AttributeError):
            found[name] = _difference(name, it, at)
    return found


def differs_json(differs: Mapping[str, Difference]) -> dict[str, Any]:
    """Return what ``differs_of`` reads back."""
    return {
        name: {
            "value": to_json(it.value),
            "since": it.since.isoformat(),
            "first": it.first.isoformat(),
            "last": it.last.to_json(),
            "status_since": it.status_since.isoformat() if it.status_since else None,
            "acquittals": it.acquittals,
            "asleep_until": it.asleep_until.isoformat() if it.asleep_until else None,
        }
        for name, it in differs.items()
    }


def values_of_memory(memory: Memory) -> dict[str, Any]:
    """Return the columns that keep ``memory``."""
    first, last = memory.missing or (None, None)
    return {
        "differs": differs_json(memory.differs),
        "differs_since": min((it.since for it in memory.differs.values()), default=None),
        "missing_first": first,
        "missing_last": last,
    }


def void(cluster: Cluster) -> dict[str, Any]:
    """Return the columns of an instance of which nothing is known in the cluster's epoch."""
    return {
        "epoch": cluster.epoch,
        "observed_not_before": OLDEST,
        "observed_not_after": OLDEST,
        "confirmed_at": None,
        "audited_at": None,
        "stale_before": None,
        "changes_since": None,
        "changes_in_window": 0,
        "flapping_since": None,
        **values_of_memory(NOTHING_KEPT),
    }


def portion(them: "QuerySet[T]", size: int) -> list[T]:
    """Return about as many rows as a turn works through, drawn anew each turn.

    With some, as with those that are held, nothing may ever be done: they keep no others from
    their turn. By chance, so that nothing which goes on in step with the turns can either.
    """
    parts = -(-them.count() // size)
    if parts <= 1:
        return list(them.order_by("pk"))
    part = random.randrange(parts)
    return list(them.alias(part=Mod("pk", parts)).filter(part=part).order_by("pk"))


def is_known_by_name(row: Instance, told: Container[str | None]) -> bool:
    """Whether whoever bears the name of this row now is the one that it is about.

    Args:
        row: one that may have no lasting uuid.
        told: uuids that the evidence tells: one of these has the name that it is told with.
    """
    if row.status == Status.DELETED or (row.uuid and row.backend_status):
        return False
    return not row.uuid or (row.uuid not in told and names_of(row) == {row.name})


def pages(them: "QuerySet[T]", size: int) -> Iterator[list[T]]:
    """Yield all rows by their keys, so many at a time, as far as they are wanted."""
    last = 0
    while page := list(them.filter(pk__gt=last).order_by("pk")[:size]):
        yield page
        last = page[-1].pk


def key_of(row: Instance) -> str:
    """Return what names an instance in a hold: its uuid, or its name where it has none."""
    return row.uuid or row.name


@dataclass(frozen=True, slots=True)
class Stranger:
    """What lists say of one that is not recorded."""

    first: datetime
    """When the first of the lists that say so was asked for."""
    seen: Observation
    """What the last one said."""

    def to_json(self) -> dict[str, Any]:
        """Return what ``stranger_of`` reads back."""
        return {"first": self.first.isoformat(), "seen": self.seen.to_json()}


def stranger_of(value: Any) -> Stranger | None:
    """Read what a question keeps of a stranger; what cannot be read was never kept."""
    with suppress(KeyError, TypeError, ValueError, AttributeError):
        first, seen = datetime.fromisoformat(value["first"]), Observation.from_json(value["seen"])
        return Stranger(first, seen)
    return None


def open_jobs(cluster: Cluster) -> list[Job]:
    """Return the mirrored jobs that are open, ours and queries too."""
    return statements.find_all(Job, cluster=cluster.pk, state=OPEN)


def at_work(jobs: Iterable[Job], cluster: Cluster, tuning: Tuning, *, at: datetime) -> list[Job]:
    """Return those of the open jobs that work on instances, as far as the mirror can be believed.

    What no reading has shown for long may be over: it is shown no more, and defers nothing.
    """
    since = believed_since(cluster, tuning, at=at)
    return [job for job in jobs if not job.is_query and job.seen_last >= since]


def believed_since(cluster: Cluster, tuning: Tuning, *, at: datetime) -> datetime:
    """Return since when a reading must have shown a job for it to be believed.

    What the last reading has shown is, however long that took, if it has ended of late.
    """
    of_late, read = at - timedelta(seconds=tuning.read_within), cluster.read
    if read is not None and read.not_after >= of_late:
        return min(of_late, read.not_before)
    return of_late


class JobsByInstance:
    """Which open jobs work on an instance.

    Ganeti locks instances by name: a job works on whoever bears a name that it has now.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = jobs
        self._by: dict[str, list[Job]] = {}
        for job in jobs:
            for name in {name for name, _, _ in works_of(job)}:
                self._by.setdefault(name, []).append(job)

    def on(self, row: Instance) -> list[Job]:
        """Return the jobs on an instance, by their ids.

        A creation works on nobody who was shown: it makes another of the same name.
        """
        if not self._jobs:
            return []
        found = {
            id(job): job
            for name in names_of(row)
            for job in self._by.get(name, ())
            if not (row.backend_status and work_on(job, row)[1] is Status.BUILD)
        }
        return sorted(found.values(), key=lambda job: (job.job_id is None, job.job_id))


def names_of(row: Instance) -> set[str]:
    """Return the recorded name, and the one by which the last list has it."""
    told = row.differs.get("name") if isinstance(row.differs, Mapping) else None
    listed = told.get("value") if isinstance(told, Mapping) else None
    return {row.name, listed} if isinstance(listed, str) else {row.name}


def works_of(job: Job) -> list[tuple[str, str, Any]]:
    """Return what a job does, as triples of instance, operation and status, if it can be read."""
    found = job.work if isinstance(job.work, list) else []
    triples = [it for it in found if isinstance(it, list) and len(it) == 3]
    return [(it[0], it[1], it[2]) for it in triples if all(isinstance(x, str) for x in it[:2])]


def texts(value: Any) -> list[str]:
    """Return the texts of a list, whatever else it may hold."""
    return [it for it in value if isinstance(it, str)] if isinstance(value, list) else []


def _open_job(job: Job, row: Instance, at: datetime, *, is_believed: bool) -> OpenJob:
    operation, status = work_on(job, row)
    since = _past(job.running_since, at)
    return OpenJob(operation, status, since, announced=job.announced, is_believed=is_believed)


def work_on(job: Job, row: Instance) -> tuple[str, Status | None]:
    """Return what a job does to an instance, and the API's word for that."""
    mine = [it for it in works_of(job) if it[0] in names_of(row)]
    if not mine:
        return "", None
    _, operation, status = mine[-1]
    known = isinstance(status, str) and status in set(Status)
    return operation, Status(status) if known else None


def _difference(name: str, it: Mapping[str, Any], at: datetime) -> Difference:
    value = it["value"]
    if name == "state":
        status, word = value
        value = (Status(status), str(word))
    elif name == "name":
        value = str(value)
    elif name in CONFIGURATION_FIELDS:
        value = of_json(name, value)
    else:
        raise ValueError(f"no field {name}")
    since, first = (datetime.fromisoformat(it[which]) for which in ("since", "first"))
    last = Interval.from_json(it["last"])
    if not since <= first <= last.not_before or last.not_after > at:
        raise ValueError("a list from the future")
    status_since, asleep = (it.get(which) for which in ("status_since", "asleep_until"))
    return Difference(
        value,
        since,
        first,
        last,
        datetime.fromisoformat(status_since) if status_since else None,
        int(it["acquittals"]),
        datetime.fromisoformat(asleep) if asleep else None,
    )


def _past(moment: datetime | None, at: datetime) -> datetime | None:
    return moment if moment is not None and moment <= at else None
