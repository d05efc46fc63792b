"""What is shown of an instance beside its row: derived when somebody asks, and kept nowhere."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from django.db.models import Q, QuerySet

from proj.backend import JobState
from proj.inventory.fleet import is_queue_read
from proj.inventory.models import Instance, Job, Request, Transition
from proj.observation import Status
from proj.reconcile import rows
from proj.reconcile.rows import OLDEST


def task_states(instances: Iterable[Instance], *, at: datetime) -> dict[int, str | None]:
    """Return the operation under way on each instance, or "" where there is none.

    It is None where the queue could not be read for PROOF_WITHIN, so that nobody knows. One
    statement, whatever the number.
    """
    states: dict[int, str | None] = {}
    of_cluster: dict[int, list[Instance]] = defaultdict(list)
    for row in instances:
        states[row.pk] = None
        if row.status == Status.DELETED:
            states[row.pk] = ""
        elif is_queue_read(row.cluster, at=at):
            of_cluster[row.cluster_id].append(row)
    if not of_cluster:
        return states
    jobs: dict[int, list[Job]] = defaultdict(list)
    for job in Job.objects.filter(cluster__in=of_cluster, state__in=rows.OPEN, is_query=False):
        jobs[job.cluster_id].append(job)
    for cluster, its in of_cluster.items():
        work = rows.JobsByInstance(jobs[cluster])
        for row in its:
            states[row.pk] = _operation(row, work.on(row))
    return states


def _operation(row: Instance, jobs: Sequence[Job]) -> str:
    """Return what is done to it; as with the status, what has begun before what only waits."""
    if not jobs:
        return ""
    begun = [it for it in jobs if it.announced or it.state == JobState.RUNNING]
    return rows.work_on((begun or jobs)[-1], row)[0]


def observed_at(instance: Instance) -> datetime | None:
    """Return when its state was last read; a look that found it so writes no row, and counts."""
    row = instance.observed_not_after
    looked = instance.cluster.looked_not_after
    stale, begun = instance.stale_before, instance.cluster.looked_not_before
    agrees = not instance.differs and instance.missing_first is None
    agrees &= begun is not None and (stale is None or stale <= begun)
    known = [it for it in (row, looked if agrees else None) if it is not None and it > OLDEST]
    return max(known, default=None)


def transitions_of(request: Request) -> "QuerySet[Transition]":
    """Return the changes of a request's scope, from its beginning to its end or to now."""
    mine = Transition.objects.filter(
        instance__cluster_id=request.cluster_id, pk__gt=request.first_transition
    )
    if request.last_transition is not None:
        mine = mine.filter(pk__lte=request.last_transition)
    if request.name:
        mine = mine.filter(Q(instance__name=request.name) | Q(instance__uuid=request.uuid or "-"))
    return mine.order_by("pk")


def describe(request: Request) -> dict[str, Any]:
    """Return a request as JSON: the outside contract of ``reconcile --json`` and of the API."""
    is_plan = request.kind == Request.Kind.PLAN
    changes = request.planned if is_plan else [
        {
            "instance": it.instance.name,
            "field": it.field,
            "from": it.before,
            "to": it.after,
            "backend_status": it.backend_status,
            "rule": it.rule,
            "source": it.source,
            "job_id": it.job_id,
        }
        for it in transitions_of(request).select_related("instance")
    ]  # fmt: skip
    cluster = request.cluster
    return {
        "id": request.pk,
        "cluster": cluster.name,
        "kind": request.kind,
        "instance": request.name or None,
        "state": request.state,
        "outcome": request.outcome or None,
        "listed": request.listed,
        "suspects": request.suspects,
        "queried": request.queried,
        "jobs_failed": len(request.unconfirmed),
        "unconfirmed": [
            {"instance": name, "reason": reason} for name, reason in request.unconfirmed
        ],
        "findings": cluster.findings if not request.name else [],
        "error": request.error,
        "changes": changes,
    }
