"""One step of a cluster's chain: poll what is in flight by one request, then issue what may go.

No step sleeps. All of it is remembered in rows, so that any other worker can take the next.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Count, F, Max, Min, Q

from proj.backend import Backend, BackendError, Busy, JobReport, Misconfigured, Verdict
from proj.inventory.models import Cluster, Pass, Query
from proj.reconcile import follow, passes, queries
from proj.reconcile.queries import Chain
from proj.reconcile.settings import Tuning

Clock = Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Stepper:
    """What every part of a step needs."""

    cluster: Cluster
    backend: Backend
    tuning: Tuning
    now: Clock
    chain: Chain


def step(it: Stepper) -> None:
    """Poll, then issue. A request that fails leaves its rows as they are for a later step."""
    at = it.now()
    submitted = {}
    for query in queries.in_flight(it.cluster, it.tuning, at=at):
        if query.state == Query.State.SUBMITTED and query.job_id is not None:
            submitted[query.job_id] = query
        else:
            queries.recover(query, it.tuning, it.chain, at=at)
    try:
        if it.cluster.is_failing:
            it.backend.version()
        _poll(it, submitted)
        _submit(it)
    except BackendError as error:
        _request_failed(it, error)
    else:
        if it.cluster.query_failures:
            Cluster.objects.filter(pk=it.cluster.pk).update(query_failures=0)


def submit_only(it: Stepper) -> None:
    """Issue what may go, and leave the polling to the chain that is alive already.

    A cluster that fails is left to the chain: nobody else is to wait for it.
    """
    if it.cluster.is_failing:
        return
    try:
        _submit(it)
    except BackendError as error:
        _request_failed(it, error)


def pause(cluster: Cluster, tuning: Tuning, *, at: datetime) -> float | None:
    """Return how many seconds the chain may rest before its next step; None when it has ended."""
    left = Query.objects.filter(
        cluster=cluster, state__in=(Query.State.PENDING, *Query.IN_FLIGHT)
    ).aggregate(
        all=Count("pk"),
        ready=Count("pk", filter=Q(not_until=None) | Q(not_until__lte=at)),
        first=Min("not_until"),
        newest=Max("submitted_at"),
    )
    if not left["all"]:
        return None
    if cluster.query_failures:
        return min(10.0, 0.5 * 2.0**cluster.query_failures)
    if left["ready"]:
        idle = (at - left["newest"]).total_seconds() if left["newest"] else 0.0
        return min(tuning.poll_interval_max, max(tuning.poll_interval_min, idle / 8))
    wait: timedelta = left["first"] - at
    return min(10.0, max(tuning.poll_interval_min, wait.total_seconds()))


def take(cluster: Cluster, tuning: Tuning, *, at: datetime) -> datetime | None:
    """Become the one chain of steps for this cluster, or return None if one is alive.

    Returns:
        Until when the chain is ours: the token by which its next step knows itself.
    """
    until = at + timedelta(seconds=tuning.chain_lease)
    dead = Q(await_until=None) | Q(await_until__lt=at)
    taken = Cluster.objects.filter(dead, pk=cluster.pk).update(await_until=until)
    return until if taken else None


def keep(cluster: Cluster, mine: datetime, tuning: Tuning, *, at: datetime) -> datetime | None:
    """Say that the chain is alive and return its new token; None when another took its place."""
    until = at + timedelta(seconds=tuning.chain_lease)
    kept = Cluster.objects.filter(pk=cluster.pk, await_until=mine).update(await_until=until)
    return until if kept else None


def end(cluster: Cluster, mine: datetime) -> None:
    """Say that the chain has nothing left to do."""
    Cluster.objects.filter(pk=cluster.pk, await_until=mine).update(await_until=None)


def _poll(it: Stepper, submitted: dict[int, Query]) -> None:
    since = {
        job_id: query.submitted_at
        for job_id, query in submitted.items()
        if query.submitted_at is not None
    }
    if not since:
        return
    told = {report.job_id: report for report in it.backend.poll(since)}
    # A job that the answer leaves out is waited for like one that is open.
    reports = [told.get(job_id, JobReport(job_id, Verdict.PENDING)) for job_id in since]
    answers, others = [], []
    for report in reports:
        query = submitted[report.job_id]
        mine = [seen for seen in report.observations if seen.instance == query.instance]
        if report.verdict is Verdict.ANSWERED and mine:
            answers.append((query, mine[0].to_json()))
        else:
            others.append(report)
    if answers:
        queries.answered(answers, it.chain, at=it.now())
    # Those that may need a request of their own come last: it may fail.
    for report in sorted(others, key=lambda it: it.verdict in (Verdict.PENDING, Verdict.ABSENT)):
        _take(it, submitted[report.job_id], report)


def _take(it: Stepper, query: Query, report: JobReport) -> None:
    at = it.now()
    match report.verdict:
        case Verdict.PENDING:
            if query.deadline is not None and query.deadline < at:
                queries.give_up(query, f"job {query.job_id} did not end in time", at=at)
                it.backend.cancel(report.job_id)
        case Verdict.ANSWERED:
            # It says nothing about the instance that was asked for.
            problem = report.unreadable[0].problem if report.unreadable else "no such entry"
            queries.give_up(query, f"job {query.job_id}: {problem}", at=at)
        case Verdict.ABSENT:
            try:
                _ask_by_name(it, query)
            except Busy:
                raise
            except BackendError as error:
                queries.retry(query, it.tuning, str(error), at=it.now(), by_name=True)
                raise
        case Verdict.RETRY | Verdict.LOST:
            queries.retry(query, it.tuning, report.error or report.verdict, at=at)
        case Verdict.FAILED:
            queries.give_up(query, report.error, at=at)


def _submit(it: Stepper) -> None:
    claimed = queries.claim(it.cluster, it.tuning, at=it.now())
    while claimed:
        query = claimed.pop(0)
        query.cluster = it.cluster
        try:
            _issue(it, query)
        except BackendError as error:
            if query.by_name and not isinstance(error, Busy):
                queries.retry(query, it.tuning, str(error), at=it.now(), by_name=True)
            else:
                claimed.append(query)
            for unsent in claimed:
                queries.put_back(unsent, at=it.now())
            raise


def _issue(it: Stepper, query: Query) -> None:
    if query.by_name:
        _ask_by_name(it, query)
        return
    job_id = it.backend.submit_query(query.instance, limit=it.cluster.max_in_flight)
    queries.submitted(query, job_id)
    if it.cluster.feed_after is not None and job_id <= it.cluster.feed_after:
        follow.begin_anew(it.cluster)


def _ask_by_name(it: Stepper, query: Query) -> None:
    """Ask for the very name, which only a 404 can prove gone."""
    asked = it.now()
    if it.backend.exists(query.instance):
        error = "a list or a job did not know the name, but it exists"
        queries.retry(query, it.tuning, error, at=it.now())
        return
    answered = it.now()
    answer = {"absent": [asked.isoformat(), answered.isoformat()]}
    queries.answered([(query, answer)], it.chain, at=answered)


def _request_failed(it: Stepper, error: BackendError) -> None:
    if isinstance(error, Busy):
        return
    cluster = it.cluster
    Cluster.objects.filter(pk=cluster.pk).update(
        query_failures=F("query_failures") + 1, last_error=str(error)
    )
    cluster.refresh_from_db(fields=["query_failures"])
    if isinstance(error, Misconfigured) or cluster.query_failures > it.tuning.pass_attempts * 2:
        for pass_of in Pass.objects.filter(cluster=cluster, state=Pass.State.OPEN):
            passes.fail(pass_of, str(error), at=it.now())
