"""HOUSEKEEPING: what is over is forgotten, and a time from the future is void."""

from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Exists, OuterRef, Q

from proj.inventory.models import Cluster, Hold, Instance, Job, Question, Request
from proj.reconcile import requests, rows, turns
from proj.reconcile.context import BACKWARDS, Context
from proj.reconcile.settings import Tuning


def keep_house(context: Context, *, keep: timedelta) -> None:
    """Take a turn over all clusters; safe to call at any time.

    Args:
        context: by which rules, numbers and clock.
        keep: how long closed requests are kept.
    """
    for cluster in Cluster.objects.all():
        with transaction.atomic():
            # Under its lock: nobody dates a row of this epoch later than now, or begins another.
            fresh, at = turns.locked(cluster), context.now()
            if fresh is None:
                continue
            if _is_first_of_epoch(fresh, at):  # guard
                # A clock that may have jumped voids, ends and forgets nothing: next time it will.
                turns.begin_epoch(fresh, fresh.generation, at=at, keeping=None)
                continue
            _void(fresh, context.tuning, at=at)
            _end_unserved(fresh, context, at=at)
            _forget_nobodys(fresh, context.tuning, at=at)
        requests.forget(cluster, before=at - keep)
        # Each look at a mass change that grows leaves one, which nobody can approve any more.
        over = at - timedelta(seconds=context.tuning.hold_for)
        Hold.objects.filter(
            cluster=cluster, current=False, approved_at=None, seen_at__lt=over
        ).delete()


def _is_first_of_epoch(cluster: Cluster, at: datetime) -> bool:
    """Whether no turn has been taken yet since the clock may have jumped."""
    return not cluster.paused and turns.has_jumped(cluster.moment, at)


def _end_unserved(cluster: Cluster, context: Context, *, at: datetime) -> None:
    """See to requests that no turn sees to: of a paused or failing cluster, or of nobody."""
    waiting = Request.objects.filter(cluster=cluster, state=Request.State.OPEN)
    late = at - timedelta(seconds=2 * context.tuning.proof_within)
    waiting.filter(kind=Request.Kind.PLAN, requested_at__lt=late).update(
        state=Request.State.CLOSED,
        outcome=Request.Outcome.FAILED,
        closed_at=at,
        error="nobody has answered: is the worker `ganeti` running?",
    )
    if waiting.exclude(kind=Request.Kind.PLAN).exists():
        requests.settle(cluster, context.policy_of(cluster), context.tuning, now=context.now)


def _forget_nobodys(cluster: Cluster, tuning: Tuning, *, at: datetime) -> None:
    """Forget what was said, or asked, of nobody: also where no reading does, as of a paused one."""
    late = at - timedelta(seconds=2 * tuning.proof_within)
    Job.objects.filter(cluster=cluster, announced=True, job_id=None, seen_first__lt=late).delete()
    wishes = Request.objects.filter(
        cluster=cluster, state=Request.State.OPEN, name=OuterRef("name")
    )
    known = Instance.objects.filter(cluster=cluster, name=OuterRef("name"))
    Question.objects.filter(
        ~Exists(wishes), ~Exists(known),
        cluster=cluster, uuid=None, listed__isnull=True, token="", wanted_since__lt=late,
    ).delete()  # fmt: skip


def _void(cluster: Cluster, tuning: Tuning, *, at: datetime) -> None:
    """Bring what belongs to another epoch, or lies ahead, into the present."""
    late = at + BACKWARDS
    mine = {"cluster": cluster}
    longest = late + timedelta(seconds=2 * tuning.question_cap)
    other = cluster.epoch + 1
    asked = Question.objects.filter(**mine)
    asked.filter(Q(wanted_since__gt=late) | Q(newer_than__gt=late) | Q(claimed_at__gt=late)).update(
        epoch=other
    )
    asked.filter(retry_at__gt=longest).update(retry_at=None)
    wishes = Request.objects.filter(**mine, state=Request.State.OPEN)
    wishes.filter(
        Q(requested_at__gt=late) | Q(scoped_at__gt=late) | Q(blocked_since__gt=late)
        | Q(absent_at__gt=late)
    ).update(epoch=other, absent_at=None)  # fmt: skip
    Job.objects.filter(**mine).filter(
        Q(seen_first__gt=late) | Q(seen_last__gt=late) | Q(running_since__gt=late)
        | Q(unstarted_at__gt=late)
    ).update(epoch=other)  # fmt: skip
    Hold.objects.filter(**mine).filter(
        Q(since__gt=late) | Q(seen_at__gt=late) | Q(approved_at__gt=late)
    ).update(epoch=other)
    Instance.objects.filter(**mine).filter(
        Q(observed_not_before__gt=late) | Q(confirmed_at__gt=late) | Q(audited_at__gt=late)
        | Q(stale_before__gt=late) | Q(differs_since__gt=late) | Q(missing_first__gt=late)
        | Q(missing_last__gt=late) | Q(created_at__gt=late)
    ).update(epoch=other)  # fmt: skip
    turns.redate(cluster, at=at)
    Instance.objects.filter(**mine, created_at__gt=late).update(created_at=at)
    known = Instance.objects.filter(**mine).exclude(uuid=None)
    asked.filter(listed__isnull=False, uuid__in=known.values("uuid")).update(listed=None)
    Job.objects.filter(**mine, job_id=None).exclude(announced=True, state__in=rows.OPEN).delete()
