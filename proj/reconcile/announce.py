"""What a host system says it has started: shown at once, until the queue shows a job, or none."""

from datetime import datetime

from django.db import transaction

from proj.backend import JobState
from proj.inventory.models import Cluster, Instance, Job
from proj.names import is_instance_name
from proj.observation import Interval, Status
from proj.reconcile import feed, requests
from proj.reconcile.decide import Policy, QueueRead
from proj.reconcile.record import Item, record
from proj.reconcile.resolve import resolve
from proj.reconcile.settings import Tuning

OPERATIONS: dict[str, Status | None] = {
    "CREATE": Status.BUILD,
    "REBOOT": Status.REBOOT,
    "REINSTALL": Status.REBUILD,
    "STARTUP": None,
    "SHUTDOWN": None,
    "MIGRATE": None,
    "FAILOVER": None,
    "REMOVE": None,
}
SOURCE = "announced"


def announce(
    cluster: Cluster,
    name: str,
    *,
    action: str,
    job_id: int | None,
    policy: Policy,
    tuning: Tuning,
    at: datetime,
) -> None:
    """Show that an operation has begun on an instance, before any reading of the queue does.

    Args:
        cluster: whose instance.
        name: the instance; with CREATE it may be one that we do not know.
        action: one of ``OPERATIONS``.
        job_id: Ganeti's job, or None while it has none.
        policy: the cluster's.
        tuning: the engine's numbers.
        at: now.

    Raises:
        ValueError: the action is none of ``OPERATIONS``, or the name cannot be one.
        Removed: the cluster is not there any more.
    """
    if action not in OPERATIONS:
        raise ValueError(f"{action[:50]!r} is no operation: use one of {', '.join(OPERATIONS)}")
    if not is_instance_name(name):
        raise ValueError(f"{name[:50]!r} is no name of an instance")
    interval = Interval(at, at)
    with transaction.atomic():
        fresh = requests.locked(cluster)
        known = resolve(fresh, name)
        if known is None and action == "CREATE":
            feed.begin_build(fresh, name, interval, source=SOURCE, at=at)
            known = resolve(fresh, name)
        job = _job(fresh, known.name if known else name, action, job_id, known, at=at)
        if known is not None and job is not None:
            item = Item(QueueRead(interval), known.uuid, known.name, SOURCE, job_id)
            record(fresh, [item], policy, tuning, now=lambda: at)


def _job(
    cluster: Cluster,
    name: str,
    action: str,
    job_id: int | None,
    known: Instance | None,
    *,
    at: datetime,
) -> Job | None:
    """Mirror the job; None where a reading has shown it already, and knows better."""
    status = OPERATIONS[action]
    values = {
        "state": JobState.QUEUED.value,
        "work": [[name, action, status]],
        "names": [name],
        "uuids": [known.uuid] if known and known.uuid else [],
        "announced": True,
        "epoch": cluster.epoch,
        "seen_first": at,
        "seen_last": at,
    }
    # Announced twice is announced once, and later.
    for earlier in Job.objects.filter(cluster=cluster, announced=True):
        if name in earlier.names and (job_id is None or earlier.job_id != job_id):
            earlier.delete()
    if job_id is not None:
        job, is_new = Job.objects.get_or_create(cluster=cluster, job_id=job_id, defaults=values)
        return job if is_new else None
    return Job.objects.create(cluster=cluster, **values)
