"""What a host system says it has started: shown at once, ended by the job's own evidence."""

from datetime import datetime

from proj.inventory.models import Cluster
from proj.observation import Interval
from proj.reconcile import follow
from proj.reconcile.apply import Context, apply
from proj.reconcile.decide import Policy, Working
from proj.reconcile.settings import Tuning

OPERATIONS = (
    "CREATE",
    "REBOOT",
    "REINSTALL",
    "STARTUP",
    "SHUTDOWN",
    "MIGRATE",
    "FAILOVER",
    "REMOVE",
)
SOURCE = "announced"


def operation_started(
    cluster: Cluster,
    name: str,
    *,
    action: str,
    job_id: int | None,
    policy: Policy,
    tuning: Tuning,
    at: datetime,
) -> None:
    """Show that an operation has begun on an instance, before any job queue was read.

    Args:
        cluster: whose instance.
        name: the instance; with CREATE it may be one that we do not know.
        action: one of ``OPERATIONS``, in Ganeti's words.
        job_id: Ganeti's job, or None while it has none.
        policy: the cluster's.
        tuning: the engine's numbers.
        at: now.

    Raises:
        ValueError: the action is none of ``OPERATIONS``.
    """
    if action not in OPERATIONS:
        raise ValueError(f"{action[:50]!r} is no operation: use one of {', '.join(OPERATIONS)}")
    seen = Working(action, job_id, Interval(at, at), announced=True)
    apply(cluster, name, seen, Context(policy, tuning.flapping, at, source=SOURCE))
    if job_id is not None:
        follow.announce(cluster, job_id, action, name, at=at)
