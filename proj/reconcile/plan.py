"""A plan: one full list compared with what is recorded. No question, no job, no write."""

from datetime import datetime
from typing import Any

from proj.backend import BackendError, Busy, Look
from proj.inventory.models import Cluster, Request
from proj.observation import Status, to_json
from proj.reconcile.compare import Comparison, Sight, compare
from proj.reconcile.context import Context
from proj.reconcile.decide import Action, Change, Listed, Rule, changes_to, told_by
from proj.reconcile.resolve import resolve

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
    error = _cannot_tell(request, found)
    outcome = Request.Outcome.FAILED if error else Request.Outcome.IN_SYNC
    if changes:
        outcome = Request.Outcome.RECONCILED
    _close(
        request, outcome, at=at, error=error,
        listed=look.size, suspects=len({change["instance"] for change in changes}), planned=changes,
    )  # fmt: skip


def _cannot_tell(request: Request, found: Comparison) -> str:
    """Say what this list leaves open of what was asked; nothing where it tells all of it."""
    if not found.tells_who:
        return "the list is incomplete: who is missing cannot be told"
    unread = {str(it["instance"]) for it in found.findings} if not found.is_complete else set()
    unclear = sorted(unread | found.undecided)
    if not request.name:
        return f"the list does not tell of {unclear[0]}: ask again" if unclear else ""
    if request.name in unclear:
        return f"the list does not tell of {request.name}: ask again"
    is_known = resolve(request.cluster, request.name) is not None
    if not is_known and not any(_is_about(it, request) for it in found.news):
        return f"neither Ganeti nor the database knows {request.name}"
    return ""


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
