"""Issue query jobs and await them: one short step at a time, all of it remembered in rows."""

import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import F, Q

from proj.backend import Backend, BackendError, JobReport, Misconfigured, Verdict
from proj.inventory.models import Cluster, Instance, Pass, Query
from proj.observation import Interval, Observation
from proj.reconcile import brake, passes
from proj.reconcile.apply import Context, KeepsChanging, apply, weigh
from proj.reconcile.decide import Absence, Action, Decision, Policy, Recorded, Rule
from proj.reconcile.settings import Tuning

Clock = Callable[[], datetime]
Chain = Callable[[Query], None]
"""Called, once its answer is committed, with each query that is to be reconciled."""

CHAIN_LEASE = timedelta(seconds=15)


def step(cluster: Cluster, backend: Backend, tuning: Tuning, now: Clock, chain: Chain) -> None:
    """Poll what is in flight, then issue what may go: two short rounds of requests at most.

    A request that fails leaves its rows as they are for a later step.
    """
    _recover(cluster, tuning, chain, at=now())
    try:
        _poll(cluster, backend, tuning, now, chain)
        _submit(cluster, backend, tuning, now)
        _ask_names(cluster, backend, tuning, now, chain)
    except BackendError as error:
        _request_failed(cluster, error, tuning, at=now())
    passes.close_finished(cluster, at=now())


def submit_only(cluster: Cluster, backend: Backend, tuning: Tuning, now: Clock) -> None:
    """Issue what may go, and leave the polling to the chain that is alive already."""
    try:
        _submit(cluster, backend, tuning, now)
    except BackendError as error:
        _request_failed(cluster, error, tuning, at=now())


def take_chain(cluster: Cluster, *, at: datetime) -> bool:
    """Become the one chain of steps for this cluster, or return False if one is alive."""
    dead = Q(await_until=None) | Q(await_until__lt=at)
    return bool(Cluster.objects.filter(dead, pk=cluster.pk).update(await_until=at + CHAIN_LEASE))


def keep_chain(cluster: Cluster, *, at: datetime) -> None:
    """Say that the chain is alive."""
    Cluster.objects.filter(pk=cluster.pk).update(await_until=at + CHAIN_LEASE)


def end_chain(cluster: Cluster) -> None:
    """Say that the chain has nothing left to do."""
    Cluster.objects.filter(pk=cluster.pk).update(await_until=None)


def is_busy(cluster: Cluster) -> bool:
    """Whether anything waits to be asked, awaited, reconciled or looked at again."""
    return (
        Query.objects.filter(cluster=cluster, state__in=Query.UNFINISHED).exists()
        or Pass.objects.filter(cluster=cluster, state=Pass.State.OPEN).exists()
    )


def relook_is_due(cluster: Cluster, *, at: datetime) -> bool:
    """Whether an open pass waits for a second list whose time has come."""
    return Pass.objects.filter(cluster=cluster, state=Pass.State.OPEN, relook_at__lte=at).exists()


def reconcile(query: Query, policy: Policy, tuning: Tuning, now: Clock) -> Decision | None:
    """Decide on a query's answer and apply it; a plan only keeps what it would change.

    Returns:
        The decision, or None when the query was reconciled already or its pass is held.
    """
    if query.state != Query.State.ANSWERED or query.answer is None:
        return None
    cluster, pass_of = query.cluster, query.pass_of
    seen = _seen_of(query.answer)
    if pass_of.plan:
        decision = weigh(cluster, query.instance, seen, policy)
        changes = (
            passes.changes_json(query.instance, seen, decision, pass_of.kind)
            if decision.action is Action.RECORD
            else []
        )
        _finish(query, decision, changes=changes)
    else:
        context = Context(
            policy,
            tuning.flapping,
            now(),
            pass_of.pk,
            pass_of.kind,
            may_record=lambda recorded, it: _brake_allows(pass_of, recorded, it, tuning),
        )
        try:
            applied = apply(cluster, query.instance, seen, context)
        except KeepsChanging:
            _ask_again(query, tuning, "other writers kept changing the instance", at=now())
            return None
        decision = applied.decision
        if applied.held:
            mark = brake.fingerprint([query.instance], [])
            passes.hold(pass_of, "too many instances would go out of service", mark, at=now())
            return None
        if decision.action is Action.ASK:
            _ask_again(query, tuning, f"undecided: {decision.rule}", at=now())
        else:
            _finish(query, decision)
    passes.close_finished(cluster, at=now())
    return decision


def _finish(query: Query, decision: Decision, *, changes: Sequence[dict[str, Any]] = ()) -> None:
    Query.objects.filter(pk=query.pk, state=Query.State.ANSWERED).update(
        state=Query.State.DONE, rule=decision.rule, changes=list(changes)
    )


def _brake_allows(
    pass_of: Pass, recorded: Recorded | None, decision: Decision, tuning: Tuning
) -> bool:
    if (
        recorded is None
        or pass_of.kind == Pass.Kind.REQUERY
        or pass_of.fingerprint
        or decision.rule is Rule.REMOVED
    ):
        return True
    status = next((c for c in decision.changes if c.field == "status"), None)
    if status is None or status.after not in ("STOPPED", "DELETED"):
        return True
    gone = passes.stopped_or_deleted(pass_of)
    known = Instance.objects.filter(cluster=pass_of.cluster).exclude(status="DELETED").count()
    limits = tuning.limits
    if status.after == "DELETED":
        return gone["deleted"] + 1 <= max(limits.deleted_at_least, limits.deleted_share * known)
    return gone["stopped"] + 1 <= max(limits.stopped_at_least, limits.stopped_share * known)


def _seen_of(answer: dict[str, Any]) -> Observation | Absence:
    if "absent" in answer:
        not_before, not_after = (datetime.fromisoformat(text) for text in answer["absent"])
        return Absence(by_name=True, interval=Interval(not_before, not_after))
    return Observation.from_json(answer)


def _recover(cluster: Cluster, tuning: Tuning, chain: Chain, *, at: datetime) -> None:
    """Take up what a worker that died left half done."""
    lost = at - timedelta(seconds=tuning.submit_timeout)
    mine = Query.objects.filter(cluster=cluster)
    for query in mine.filter(state=Query.State.SUBMITTING, submitted_at__lt=lost):
        _retry(query, tuning, "lost with its worker", at=at)
    forgotten = at - timedelta(seconds=30)
    for query in mine.filter(state=Query.State.ANSWERED, answered_at__lt=forgotten):
        Query.objects.filter(pk=query.pk).update(answered_at=at)
        chain(query)


def _poll(cluster: Cluster, backend: Backend, tuning: Tuning, now: Clock, chain: Chain) -> None:
    in_flight = {
        query.job_id: query
        for query in Query.objects.filter(cluster=cluster, state=Query.State.SUBMITTED)
        if query.job_id is not None
    }
    if not in_flight:
        return
    submitted = {
        job_id: query.submitted_at
        for job_id, query in in_flight.items()
        if query.submitted_at is not None
    }
    reports = {report.job_id: report for report in backend.poll(submitted)}
    for job_id in submitted:
        # A job that the answer leaves out is waited for like one that is open.
        report = reports.get(job_id, JobReport(job_id, Verdict.PENDING))
        _take_report(in_flight[job_id], report, backend, tuning, now, chain)


def _take_report(
    query: Query,
    report: JobReport,
    backend: Backend,
    tuning: Tuning,
    now: Clock,
    chain: Chain,
) -> None:
    match report.verdict:
        case Verdict.PENDING:
            if query.deadline is not None and query.deadline < now():
                _give_up(query, f"job {query.job_id} did not end in time", at=now())
        case Verdict.ANSWERED:
            mine = [o for o in report.observations if o.instance == query.instance]
            if mine:
                _answered(query, mine[0].to_json(), chain, at=now())
            else:
                problem = report.unreadable[0].problem if report.unreadable else "no such entry"
                error = f"job {query.job_id}: {problem}"
                _give_up(query, error, at=now())
        case Verdict.ABSENT:
            _ask_by_name(query, backend, tuning, now, chain)
        case Verdict.RETRY | Verdict.LOST:
            _retry(query, tuning, report.error or report.verdict, at=now())
        case Verdict.FAILED:
            _give_up(query, report.error, at=now())


def _ask_by_name(query: Query, backend: Backend, tuning: Tuning, now: Clock, chain: Chain) -> None:
    asked = now()
    if backend.exists(query.instance):
        _retry(query, tuning, "a job did not know the name, but it exists", at=now())
        return
    answered = now()
    answer = {"absent": [asked.isoformat(), answered.isoformat()]}
    _answered(query, answer, chain, at=answered)


def _answered(query: Query, answer: dict[str, Any], chain: Chain, *, at: datetime) -> None:
    taken = Query.objects.filter(pk=query.pk, state__in=Query.IN_FLIGHT).update(
        state=Query.State.ANSWERED, answer=answer, answered_at=at
    )
    if taken:
        chain(query)


def _submit(cluster: Cluster, backend: Backend, tuning: Tuning, now: Clock) -> None:
    claimed = _claim(cluster, tuning, at=now())
    for number, query in enumerate(claimed):
        try:
            job_id = backend.submit_query(query.instance, limit=cluster.max_in_flight)
        except BackendError:
            for unasked in claimed[number:]:
                _release(unasked)
            raise
        Query.objects.filter(pk=query.pk, state=Query.State.SUBMITTING).update(
            state=Query.State.SUBMITTED, job_id=job_id
        )


def _ask_names(
    cluster: Cluster, backend: Backend, tuning: Tuning, now: Clock, chain: Chain
) -> None:
    """Ask for the names that only a 404 can settle, a few at a time."""
    for _ in range(10):
        query = _claim_name(cluster, at=now())
        if query is None:
            return
        try:
            _ask_by_name(query, backend, tuning, now, chain)
        except BackendError:
            _release(query)
            raise


def _claim_name(cluster: Cluster, *, at: datetime) -> Query | None:
    """Claim a name to be asked for, unless a job on it is in flight."""
    with transaction.atomic():
        Cluster.objects.select_for_update().get(pk=cluster.pk)
        mine = Query.objects.filter(cluster=cluster)
        in_flight = mine.filter(state__in=Query.IN_FLIGHT)
        query = (
            mine.filter(by_name=True, state=Query.State.PENDING)
            .exclude(instance__in=in_flight.values("instance"))
            .order_by("id")
            .first()
        )
        if query is not None:
            Query.objects.filter(pk=query.pk).update(state=Query.State.SUBMITTING, submitted_at=at)
    return query


def _claim(cluster: Cluster, tuning: Tuning, *, at: datetime) -> list[Query]:
    """Claim as many waiting queries as may be in flight, the urgent ones first.

    The cluster's row is locked meanwhile, so that two workers never exceed the bound.
    """
    with transaction.atomic():
        locked = Cluster.objects.select_for_update().get(pk=cluster.pk)
        mine = Query.objects.filter(cluster=cluster)
        in_flight = mine.filter(state__in=Query.IN_FLIGHT)
        free = locked.max_in_flight - in_flight.filter(by_name=False).count()
        if free <= 0:
            return []
        ready = Q(not_until=None) | Q(not_until__lte=at)
        waiting = list(
            mine.filter(ready, state=Query.State.PENDING, by_name=False)
            .exclude(instance__in=in_flight.values("instance"))
            .order_by("lane", "id")[: free * 4]
        )
        claimed: list[Query] = []
        for query in waiting:
            if len(claimed) == free:
                break
            if all(query.instance != other.instance for other in claimed):
                claimed.append(query)
        Query.objects.filter(pk__in=[query.pk for query in claimed]).update(
            state=Query.State.SUBMITTING,
            submitted_at=at,
            deadline=at + timedelta(seconds=tuning.query_timeout),
        )
    return claimed


def _retry(query: Query, tuning: Tuning, error: str, *, at: datetime) -> None:
    attempts = query.attempts + 1
    if attempts >= tuning.query_attempts:
        _give_up(query, error, at=at)
        return
    wait = passes.backoff(
        attempts, base=tuning.retry_base, cap=tuning.retry_cap, jitter=random.random()
    )
    _back_to_waiting(query, attempts=attempts, error=error, not_until=at + wait)


def _ask_again(query: Query, tuning: Tuning, error: str, *, at: datetime) -> None:
    attempts = query.attempts + 1
    if attempts >= tuning.query_attempts:
        _give_up(query, error, at=at)
    else:
        _back_to_waiting(query, attempts=attempts, error=error, not_until=None)


def _release(query: Query) -> None:
    """Let a query that could not be sent wait again as it was."""
    _back_to_waiting(
        query, attempts=query.attempts, error="", not_until=None, by_name=query.by_name
    )


def _back_to_waiting(
    query: Query,
    *,
    attempts: int,
    error: str,
    not_until: datetime | None,
    by_name: bool = False,
) -> None:
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
        return
    Query.objects.filter(pk=query.pk).update(
        state=Query.State.PENDING,
        attempts=attempts,
        error=error,
        not_until=not_until,
        by_name=by_name,
        job_id=None,
        submitted_at=None,
        answer=None,
    )


def _give_up(query: Query, error: str, *, at: datetime) -> None:
    """End the query; its instance is to be asked again, rarer and rarer."""
    Query.objects.filter(pk=query.pk).update(state=Query.State.FAILED, error=error)
    row = Instance.objects.filter(cluster=query.cluster, name=query.instance).first()
    if row is None:
        return
    wait = passes.backoff(row.ask_failures + 1, base=60, cap=6 * 3600, jitter=random.random())
    Instance.objects.filter(pk=row.pk).update(
        ask_failures=F("ask_failures") + 1, ask_after=at + wait
    )


def _request_failed(cluster: Cluster, error: BackendError, tuning: Tuning, *, at: datetime) -> None:
    Cluster.objects.filter(pk=cluster.pk).update(failures=F("failures") + 1, last_error=str(error))
    cluster.refresh_from_db(fields=["failures"])
    if isinstance(error, Misconfigured) or cluster.failures > tuning.pass_attempts * 2:
        for pass_of in Pass.objects.filter(cluster=cluster, state=Pass.State.OPEN):
            passes.fail(pass_of, str(error), at=at)
