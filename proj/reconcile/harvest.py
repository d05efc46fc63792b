"""Take what somebody else's query jobs read: evidence like that of ours, without questions.

A few results a turn, each by a request of its own and applied at once; what cannot be had is
forgotten and counted.
"""

from collections.abc import Sequence

from django.db import transaction
from django.db.models import F

from proj.backend import BackendError, Busy, JobState, TryAgain
from proj.inventory.models import Cluster, Job, Priority
from proj.observation import Observation
from proj.reconcile import questions, turns
from proj.reconcile.context import Context
from proj.reconcile.decide import Action, Answer, Policy
from proj.reconcile.questions import Wanted
from proj.reconcile.record import Item, in_batches, record

SOURCE = "foreign_job"

AT_ONCE = 10
"""Results that one turn reads."""


def is_to_be_read(job: Job) -> bool:
    """Whether the job's result is evidence: of a query of others' that is known not to have
    begun at some moment, and that has ended."""
    return (
        job.is_query
        and not job.is_ours
        and job.state == JobState.ENDED
        and job.unstarted_at is not None  # guard
    )


def harvest(cluster: Cluster, context: Context, policy: Policy) -> bool:
    """Read and apply the results that wait, oldest first.

    Returns:
        Whether anything is to be asked now.
    """
    waiting = Job.objects.filter(
        cluster=cluster, is_query=True, is_ours=False, state=JobState.ENDED.value
    ).exclude(unstarted_at=None)
    is_asked = False
    for job in waiting.order_by("job_id")[:AT_ONCE]:
        # Gone before it is read: a result that hangs or poisons is not the first again.
        mine = Job.objects.filter(pk=job.pk, unstarted_at=job.unstarted_at)
        if not mine.update(unstarted_at=None):
            # Another turn has it.
            continue
        try:
            is_asked |= _read(cluster, job, context, policy)
        except Busy:
            Job.objects.filter(pk=job.pk).update(unstarted_at=job.unstarted_at)
            break
        except TryAgain:
            _count(cluster)
            break
        except BackendError:
            _count(cluster)
    return is_asked


def _read(cluster: Cluster, job: Job, context: Context, policy: Policy) -> bool:
    if job.job_id is None or job.unstarted_at is None:
        return False
    backend = context.connect(cluster)
    reports = backend.poll({job.job_id: job.unstarted_at})
    seen = [it for report in reports for it in report.observations]
    at, tuning = context.now(), context.tuning
    is_asked = False

    def work(batch: Sequence[Observation]) -> None:
        nonlocal is_asked
        items = [Item(Answer(it), it.uuid, it.instance, SOURCE, job.job_id) for it in batch]
        with transaction.atomic():
            fresh = turns.locked(cluster)
            if fresh is None:
                return
            settled = record(fresh, items, policy, tuning, now=context.now)
        asked = [it for it in settled if it.decision.action is Action.ASK]
        wanted = [Wanted(it.item.uuid, it.item.name, at) for it in asked]
        with transaction.atomic():
            if any(it.is_held for it in settled):
                Cluster.objects.filter(pk=cluster.pk).update(next_look_at=at)
            if wanted:
                questions.ask(cluster, wanted, Priority.SUSPECT, at=at)
        is_asked |= bool(wanted)

    in_batches(seen, work, lambda _, __: _count(cluster))
    return is_asked


def _count(cluster: Cluster) -> None:
    Cluster.objects.filter(pk=cluster.pk).update(set_aside=F("set_aside") + 1)
