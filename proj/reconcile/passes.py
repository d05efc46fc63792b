"""A pass from its request to its outcome."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Exists, OuterRef

from proj.inventory import statements
from proj.inventory.models import Cluster, Pass, Query, Transition
from proj.observation import Observation
from proj.reconcile.decide import Decision, Seen, trail
from proj.reconcile.rows import to_json

PRUNED_AT_ONCE = 1_000
"""Passes that are forgotten in one turn, so that no turn is long."""


def request(
    cluster: Cluster, *, kind: Pass.Kind, at: datetime, plan: bool = False, approved: str = ""
) -> Pass:
    """Ask for a pass over a whole cluster; the next look takes it up.

    Joins a request for the same that no look has taken up yet.

    Args:
        cluster: whose instances.
        kind: SWEEP asks suspects only, ALL asks every instance.
        at: now.
        plan: name the changes and write none.
        approved: the fingerprint of the mass change that an operator lets through.
    """
    with transaction.atomic():
        Cluster.objects.select_for_update().get(pk=cluster.pk)
        requested, _ = Pass.objects.get_or_create(
            cluster=cluster,
            kind=kind,
            plan=plan,
            fingerprint=approved,
            state=Pass.State.REQUESTED,
            attempts=0,
            defaults={"requested_at": at},
        )
    return requested


def prune(*, before: datetime) -> int:
    """Forget passes that were closed before then, with their queries; the trail stays.

    Returns:
        How many passes were forgotten.
    """
    closed = Pass.objects.filter(state=Pass.State.CLOSED, closed_at__lt=before)
    oldest = list(closed.order_by("id").values_list("pk", flat=True)[:PRUNED_AT_ONCE])
    Pass.objects.filter(pk__in=oldest).delete()
    return len(oldest)


def request_instance(cluster: Cluster, name: str, *, at: datetime, plan: bool = False) -> Pass:
    """Ask for one instance, now. Joins a request that is waiting and has not been issued yet.

    However many ask at once, at most one query is in flight and one waits behind it.
    """
    with transaction.atomic():
        Cluster.objects.select_for_update().get(pk=cluster.pk)
        waiting = (
            Query.objects.filter(
                cluster=cluster,
                instance=name,
                lane=Query.Lane.ON_DEMAND,
                state=Query.State.PENDING,
                pass_of__plan=plan,
            )
            .select_related("pass_of")
            .first()
        )
        if waiting is not None:
            return waiting.pass_of
        opened = Pass.objects.create(
            cluster=cluster,
            kind=Pass.Kind.REQUERY,
            instance=name,
            plan=plan,
            state=Pass.State.OPEN,
            requested_at=at,
            started_at=at,
        )
        ask(opened, [name], lane=Query.Lane.ON_DEMAND)
        return opened


def ask(pass_of: Pass, names: Iterable[str], *, lane: Query.Lane, by_name: bool = False) -> None:
    """Put instances into the queue of those to be asked about."""
    Query.objects.bulk_create(
        (
            Query(
                cluster_id=pass_of.cluster_id,
                pass_of=pass_of,
                instance=name,
                lane=lane,
                by_name=by_name,
            )
            for name in names
        ),
        batch_size=500,
        ignore_conflicts=True,
    )


def answer(pass_of: Pass, observations: Iterable[Observation], *, at: datetime) -> list[Query]:
    """Keep what somebody else's query read, to be reconciled like an answer to one of ours."""
    return Query.objects.bulk_create(
        (
            Query(
                cluster=pass_of.cluster,
                pass_of=pass_of,
                instance=seen.instance,
                lane=Query.Lane.SUSPECT,
                state=Query.State.ANSWERED,
                job_id=seen.job_id,
                answer=seen.to_json(),
                answered_at=at,
            )
            for seen in observations
        ),
        batch_size=500,
    )


def fail(pass_of: Pass, error: str, *, at: datetime) -> None:
    """Close a pass that cannot be carried out, with the reason."""
    Query.objects.filter(pass_of=pass_of, state__in=Query.UNFINISHED).update(
        state=Query.State.FAILED, error=error
    )
    _close(pass_of, Pass.Outcome.FAILED, at=at, error=error)


def hold(pass_of: Pass, reason: str, fingerprint: str, *, at: datetime) -> None:
    """Close a pass whose changes wait for an operator's approval."""
    Query.objects.filter(pass_of=pass_of, state__in=Query.UNFINISHED).update(
        state=Query.State.FAILED, error="held"
    )
    error = f"{reason}; look at it, then: manage.py approve {pass_of.pk}"
    _close(pass_of, Pass.Outcome.HELD, at=at, error=error, fingerprint=fingerprint)


def close_finished(cluster: Cluster, *, at: datetime) -> None:
    """Close every open pass of the cluster of which nothing is left to be done."""
    for pass_of in Pass.objects.filter(cluster=cluster, state=Pass.State.OPEN):
        close_if_finished(pass_of, at=at)


def sweep(*, at: datetime) -> None:
    """Close every open pass, of whichever cluster, of which nothing is left to be done."""
    left = Query.objects.filter(pass_of=OuterRef("pk"), state__in=Query.UNFINISHED)
    finished = Pass.objects.filter(~Exists(left), state=Pass.State.OPEN, relook_at=None)
    for pass_of in finished:
        close_if_finished(pass_of, at=at)


def close_if_finished(pass_of: Pass, *, at: datetime) -> None:
    """Close a pass unless something is left to be asked, reconciled or looked at again."""
    left = statements.exists(Query, pass_of=pass_of.pk, state=Query.UNFINISHED)
    if left or not _awaits_nothing(pass_of):
        return
    failed = pass_of.queries.filter(state=Query.State.FAILED)
    count = failed.count()
    if count:
        total = pass_of.queries.count()
        first = failed.exclude(error="").values_list("instance", "error").first()
        reason = f": {first[0]}: {first[1]}" if first else ""
        error = f"{count} of {total} queries failed{reason}"
        _close(pass_of, Pass.Outcome.FAILED, at=at, error=error)
    else:
        changed = bool(changes_of(pass_of))
        outcome = Pass.Outcome.RECONCILED if changed else Pass.Outcome.IN_SYNC
        _close(pass_of, outcome, at=at)


def _awaits_nothing(pass_of: Pass) -> bool:
    mine = Pass.objects.filter(pk=pass_of.pk, state=Pass.State.OPEN)
    return mine.filter(relook_at=None).exists()


def changes_of(pass_of: Pass) -> list[dict[str, Any]]:
    """Return the changes that the pass made, or would make when it is a plan."""
    if pass_of.plan:
        asked = pass_of.queries.exclude(changes=[]).values_list("changes", flat=True)
        return [*pass_of.planned, *(change for changes in asked for change in changes)]
    return [
        {
            "instance": transition.instance.name,
            "field": transition.field,
            "from": transition.before,
            "to": transition.after,
            "backend_status": transition.backend_status,
            "rule": transition.rule,
            "source": transition.source,
            "job_id": transition.job_id,
        }
        for transition in Transition.objects.filter(pass_of=pass_of)
        .select_related("instance")
        .order_by("id")
    ]


def describe(pass_of: Pass) -> dict[str, Any]:
    """Return the pass as the commands and the API show it."""
    queries = pass_of.queries.filter(by_name=False)
    return {
        "id": pass_of.pk,
        "cluster": pass_of.cluster.name,
        "kind": pass_of.kind,
        "state": pass_of.state,
        "outcome": pass_of.outcome,
        "listed": pass_of.listed,
        "suspects": pass_of.suspects,
        "queried": queries.exclude(submitted_at=None).count(),
        "jobs_failed": queries.filter(state=Query.State.FAILED).count(),
        "findings": pass_of.findings,
        "error": pass_of.error,
        "changes": changes_of(pass_of),
    }


def changes_json(name: str, seen: Seen, decision: Decision, source: str) -> list[dict[str, object]]:
    """Return the changes of a decision in the shape of the outside contract."""
    return [
        {
            "instance": name,
            "field": change.field,
            "from": to_json(change.before),
            "to": to_json(change.after),
            "backend_status": getattr(seen, "backend_status", None) or "",
            "rule": decision.rule,
            "source": source,
            "job_id": getattr(seen, "job_id", None),
        }
        for change in trail(decision)
    ]


def backoff(attempt: int, *, base: float, cap: float, jitter: float) -> timedelta:
    """Return how long to wait before the next attempt: doubling, capped, spread by jitter.

    Args:
        attempt: failures so far, from 1.
        base: seconds after the first failure.
        cap: seconds at most.
        jitter: a random number in [0, 1); half of the wait is spread by it.
    """
    seconds = min(cap, base * 2 ** min(attempt - 1, 30))
    return timedelta(seconds=seconds * (0.5 + jitter / 2))


def _close(
    pass_of: Pass,
    outcome: Pass.Outcome,
    *,
    at: datetime,
    error: str = "",
    fingerprint: str | None = None,
) -> None:
    Pass.objects.filter(pk=pass_of.pk).exclude(state=Pass.State.CLOSED).update(
        state=Pass.State.CLOSED,
        outcome=outcome,
        closed_at=at,
        error=error,
        fingerprint=pass_of.fingerprint if fingerprint is None else fingerprint,
        relook_at=None,
    )
