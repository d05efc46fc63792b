"""A plan: one full list compared with what is recorded. No question, no job, no write."""

from datetime import datetime
from typing import Any

from proj.backend import BackendError, Busy, Look
from proj.inventory.models import Cluster, Request
from proj.observation import Status, to_json
from proj.reconcile.compare import Comparison, Sight, compare
from proj.reconcile.context import Context
from proj.reconcile.decide import Action, Change, Listed, Rule, changes_to, told_by

SOURCE = "plan"


def plan(name: str, context: Context) -> None:
    """Answer every plan that somebody waits for, by one list."""
    cluster = Cluster.objects.filter(name=name).first()
    if cluster is None:
        return
    waiting = Request.objects.filter(
        cluster=cluster, kind=Request.Kind.PLAN, state=Request.State.OPEN
    )
    asked = list(waiting)
    if not asked:
        return
    try:
        look = context.connect(cluster).look()
    except Busy:
        # They stay open, and the next task answers them.
        return
    except BackendError as error:
        for request in asked:
            _close(request, Request.Outcome.FAILED, at=context.now(), error=str(error))
        return
    found = compare(cluster, look, context.policy_of(cluster), set(), at=look.interval.not_after)
    for request in asked:
        _answer(request, look, found, at=context.now())


def _answer(request: Request, look: Look, found: Comparison, *, at: datetime) -> None:
    sights = [it for it in found.news if not request.name or _is_about(it, request)]
    changes = [change for sight in sights for change in planned(sight)]
    outcome = Request.Outcome.RECONCILED if changes else Request.Outcome.IN_SYNC
    error = "" if found.tells_who else "the list is incomplete: who is missing cannot be told"
    _close(
        request, outcome, at=at, error=error,
        listed=look.size, suspects=len({change["instance"] for change in changes}), planned=changes,
    )  # fmt: skip


def _is_about(sight: Sight, request: Request) -> bool:
    return request.name in (sight.name, sight.recorded.name if sight.recorded else None) or (
        request.uuid is not None and sight.uuid == request.uuid
    )


def planned(sight: Sight) -> list[dict[str, Any]]:
    """Name the changes that evidence like this list's would make, and the rule that holds now."""
    if sight.decision.action is Action.REPORT or sight.decision.rule is Rule.FIRST_TOLD:
        return []
    changes: tuple[Change, ...]
    word = ""
    if isinstance(sight.seen, Listed):
        changes = changes_to(sight.recorded, told_by(sight.seen.seen))
        if sight.recorded is None:
            changes = tuple(it for it in changes if it.field == "status")
        else:
            # What nobody has told yet contradicts nothing.
            changes = tuple(it for it in changes if it.before is not None)
        word = sight.seen.seen.backend_status or ""
    else:
        before = sight.recorded.state[0] if sight.recorded else None
        changes = (Change("status", before, Status.DELETED),)
    return [
        {
            "instance": sight.name,
            "field": change.field,
            "from": to_json(change.before),
            "to": to_json(change.after),
            "backend_status": word,
            "rule": sight.decision.rule.value,
            "source": SOURCE,
            "job_id": None,
        }
        for change in changes
    ]


def _close(request: Request, outcome: Request.Outcome, *, at: datetime, **values: Any) -> None:
    # Whoever has joined it since is answered by a list of their own: their task follows.
    mine = Request.objects.filter(pk=request.pk, requested_at=request.requested_at)
    mine.filter(state=Request.State.OPEN).update(
        state=Request.State.CLOSED, outcome=outcome, closed_at=at, **values
    )
