"""The life of a query's row: claimed, answered, asked again, finished or given up.

Whoever ends the last query of a pass closes the pass.
"""

import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import F, Q

from proj.inventory import statements
from proj.inventory.models import Cluster, Instance, Query
from proj.reconcile import passes
from proj.reconcile.decide import Rule
from proj.reconcile.settings import Tuning

Chain = Callable[[Sequence[Query]], None]
"""Called with queries that are to be reconciled as soon as their answers are committed."""


def claim(cluster: Cluster, tuning: Tuning, *, at: datetime) -> list[Query]:
    """Claim as many waiting queries as may be in flight, the urgent ones first.

    The cluster's row is locked meanwhile, so that two workers never exceed the bound.
    """
    with transaction.atomic():
        bound = Cluster.objects.select_for_update().values_list("max_in_flight", flat=True)
        most = bound.get(pk=cluster.pk)
        mine = Query.objects.filter(cluster=cluster)
        in_flight = mine.filter(state__in=Query.IN_FLIGHT)
        busy = dict(in_flight.values_list("instance", "by_name"))
        free = most - list(busy.values()).count(False)
        if free <= 0:
            return []
        ready = Q(not_until=None) | Q(not_until__lte=at)
        waiting = mine.filter(ready, state=Query.State.PENDING).exclude(instance__in=busy)
        claimed: list[Query] = []
        for query in waiting.order_by("lane", "id")[: most * 4]:
            if len(claimed) < free and query.instance not in busy:
                claimed.append(query)
                busy[query.instance] = query.by_name
        if claimed:
            Query.objects.filter(pk__in=[query.pk for query in claimed]).update(
                state=Query.State.SUBMITTING,
                submitted_at=at,
                deadline=at + timedelta(seconds=tuning.query_timeout),
            )
    return claimed


def submitted(query: Query, job_id: int) -> None:
    """Note the job that asks."""
    values = {"state": Query.State.SUBMITTED, "job_id": job_id}
    statements.update(Query, values, pk=query.pk, state=Query.State.SUBMITTING)


def answered(
    answers: Sequence[tuple[Query, dict[str, Any]]], chain: Chain, *, at: datetime
) -> None:
    """Keep the answers, and have them reconciled; what was answered before stays as it is."""
    statements.update_each(
        Query,
        [
            (
                {"state": Query.State.ANSWERED, "answer": answer, "answered_at": at},
                {"pk": query.pk, "state": Query.IN_FLIGHT},
            )
            for query, answer in answers
        ],
    )
    chain([query for query, _ in answers])


def finish(query: Query, rule: Rule, *, changes: Sequence[dict[str, Any]] = ()) -> None:
    """End a query that was reconciled, with the rule by which it was decided."""
    values = {"state": Query.State.DONE, "rule": rule, "changes": list(changes)}
    statements.update(Query, values, pk=query.pk, state=Query.State.ANSWERED)


def retry(query: Query, tuning: Tuning, error: str, *, at: datetime, by_name: bool = False) -> None:
    """Ask again after a while, longer with each attempt; give up after too many.

    A name that was asked for is asked for by a job the next time, unless ``by_name``.
    """
    wait = passes.backoff(
        query.attempts + 1, base=tuning.retry_base, cap=tuning.retry_cap, jitter=random.random()
    )
    Query.objects.filter(pk=query.pk).update(by_name=by_name)
    _again(query, tuning, error, at=at, not_until=at + wait)


def ask_again(query: Query, tuning: Tuning, error: str, *, at: datetime) -> None:
    """Ask again at once, by a job; give up after too many attempts."""
    Query.objects.filter(pk=query.pk).update(by_name=False)
    _again(query, tuning, error, at=at, not_until=None)


def put_back(
    query: Query, *, at: datetime, error: str = "", not_until: datetime | None = None
) -> None:
    """Let a query wait again, or join the one that waits for the same already."""
    twin = Query.objects.filter(
        cluster=query.cluster,
        instance=query.instance,
        lane=query.lane,
        state=Query.State.PENDING,
    ).exclude(pk=query.pk)
    if twin.exists():
        Query.objects.filter(pk=query.pk).update(
            state=Query.State.DONE, error="", rule="joined-a-later-request"
        )
        passes.close_if_finished(query.pass_of, at=at)
        return
    Query.objects.filter(pk=query.pk).update(
        state=Query.State.PENDING,
        attempts=query.attempts,
        error=error,
        not_until=not_until,
        job_id=None,
        submitted_at=None,
        answer=None,
    )


def give_up(query: Query, error: str, *, at: datetime) -> None:
    """End the query; its instance is to be asked again, rarer and rarer."""
    Query.objects.filter(pk=query.pk).update(state=Query.State.FAILED, error=error)
    row = statements.find(Instance, cluster=query.cluster_id, name=query.instance)
    if row is not None:
        wait = passes.backoff(row.ask_failures + 1, base=60, cap=6 * 3600, jitter=random.random())
        Instance.objects.filter(pk=row.pk).update(
            ask_failures=F("ask_failures") + 1, ask_after=at + wait
        )
    passes.close_if_finished(query.pass_of, at=at)


def in_flight(cluster: Cluster, tuning: Tuning, *, at: datetime) -> list[Query]:
    """Return what was submitted and not answered, and what a worker that died left half done."""
    mine = Query.objects.filter(
        Q(state=Query.State.SUBMITTED)
        | Q(
            state=Query.State.SUBMITTING,
            submitted_at__lt=at - timedelta(seconds=tuning.submit_timeout),
        )
        | Q(
            state=Query.State.ANSWERED,
            answered_at__lt=at - timedelta(seconds=tuning.answer_timeout),
        ),
        cluster=cluster,
    )
    found = list(mine.select_related("pass_of"))
    for query in found:
        query.cluster = cluster
    return found


def recover(query: Query, tuning: Tuning, chain: Chain, *, at: datetime) -> None:
    """Take up a query whose worker died before it had a job, or before it was reconciled."""
    if query.state == Query.State.SUBMITTING:
        retry(query, tuning, "lost with its worker", at=at)
    elif query.attempts + 1 >= tuning.query_attempts:
        give_up(query, "its reconcile task fails: see the workers' logs", at=at)
    else:
        Query.objects.filter(pk=query.pk).update(answered_at=at, attempts=query.attempts + 1)
        chain([query])


def _again(
    query: Query, tuning: Tuning, error: str, *, at: datetime, not_until: datetime | None
) -> None:
    query.attempts += 1
    if query.attempts >= tuning.query_attempts:
        give_up(query, error, at=at)
    else:
        put_back(query, at=at, error=error, not_until=not_until)
