"""ASK: issue the most urgent questions as query jobs, at most so many at once, and await them.

One chain of steps a cluster polls all that is in flight by one request, keeps the answers in
their rows, and issues what may go. No step sleeps; every row can be taken up by any worker.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Count, Max, Min, Q

from proj.backend import (
    Backend,
    BackendError,
    Busy,
    JobReport,
    JobState,
    Misconfigured,
    Submitted,
    Verdict,
)
from proj.inventory import statements
from proj.inventory.models import Cluster, Instance, Job, Priority, Question, Request
from proj.observation import Interval
from proj.reconcile import questions, requests, turns
from proj.reconcile.context import BACKWARDS, Context, backoff
from proj.reconcile.questions import Wanted
from proj.reconcile.settings import Tuning
from proj.reconcile.turns import Turn


@dataclass(frozen=True, slots=True)
class Answered:
    """A question whose answer waits to be settled."""

    key: int
    instance: str


@dataclass(frozen=True, slots=True)
class _Issued:
    """A question that a job has been submitted for."""

    question: Question
    job: Submitted


@dataclass(slots=True)
class Step:
    """What one step of the chain came to."""

    answered: list[Answered]
    """Of which nobody was told yet."""
    token: str | None = None
    """Of the chain, which goes on with it; None where it has ended, or is another's."""
    pause: float = 0.0
    """Seconds until the next step."""


Tell = Callable[[Sequence[Answered]], None]
"""Is told of answers before anything more is issued, which may take a second of Ganeti's: they are
settled meanwhile."""


def issue(name: str, context: Context, tell: Tell) -> Step:
    """Begin a chain with its first step; where one is alive, only issue what may go now."""
    tuning, at = context.tuning, context.now()
    cluster = statements.find(Cluster, name=name)
    if cluster is None or cluster.paused or not turns.is_due(cluster.next_ask_at, tuning, at=at):
        # Many messages may say that something waits: all but the first find here that it is done.
        return Step([])
    held = turns.take(name, "await", tuning.chain_lease, now=context.now)
    if held is not None:
        return _advance(held, context, tell)
    done = Step([])
    answers = Question.objects.filter(cluster=cluster, answer__isnull=False)
    if (
        not cluster.is_failing
        and not _is_backing_off(cluster, tuning, at=at)
        and answers.count() < MOST_ANSWERS
    ):
        # The chain that is alive meets the same error, and says so.
        with suppress(BackendError):
            _submit(cluster, context.connect(cluster), context, done, tell)
    return done


def step(name: str, token: str, context: Context, tell: Tell) -> Step:
    """Go on with a chain begun before, where it is still this one."""
    held = turns.keep(name, "await", token, context.tuning.chain_lease, now=context.now)
    if held is None:
        return Step([])
    if held.cluster.paused:
        turns.release(held)
        return Step([])
    return _advance(held, context, tell)


def due(tuning: Tuning, *, at: datetime) -> list[str]:
    """Return the clusters where something may be due to be asked, and no chain is alive."""
    longest = at + timedelta(seconds=tuning.chain_lease)
    free = Q(await_until=None) | Q(await_until__lt=at) | Q(await_until__gt=longest)
    mine = Cluster.objects.filter(free, turns.due("ask", tuning, at=at))
    return list(mine.values_list("name", flat=True))


NOTED_WITHIN = timedelta(seconds=1)
"""Jobs that are submitted in so short a time are noted together."""

MOST_ANSWERS = 500
"""While so many answers of a cluster wait to be settled, nothing more is issued."""

BLOCKED = timedelta(seconds=5)
"""When to try again what may not go yet: a job works on it, or all seats are taken."""


def _is_backing_off(cluster: Cluster, tuning: Tuning, *, at: datetime) -> bool:
    return cluster.ask_failures > 0 and not turns.is_due(cluster.next_ask_at, tuning, at=at)


def _advance(held: Turn, context: Context, tell: Tell) -> Step:
    cluster, tuning = held.cluster, context.tuning
    done = Step([])
    if _is_backing_off(cluster, tuning, at=held.at):
        turns.release(held)
        return done
    try:
        flying, answers = _recover(cluster, context, done)
        backend = context.connect(cluster)
        if cluster.is_failing:
            backend.version()
        still = _poll(held, flying, backend, context, done)
        is_full = len(still) >= cluster.max_in_flight
        if not is_full and answers < MOST_ANSWERS:
            _submit(cluster, backend, context, done, tell)
    except BackendError as error:
        _failed(held, error, tuning, at=context.now())
        return done
    at = context.now()
    held.values |= {"asked_at": at}
    if cluster.ask_failures:
        held.values |= {"ask_failures": 0}
    newest = max(still) if is_full else _newest_in_flight(cluster)
    if newest is None:
        _rest(cluster, tuning, at=at)
        turns.release(held)
    else:
        # Also where the chain is another's by now: this step has succeeded, and goes on no more.
        statements.update(Cluster, held.values, pk=cluster.pk)
        done.token, done.pause = held.token, _pause(newest, tuning, at=at)
    return done


def _recover(cluster: Cluster, context: Context, done: Step) -> tuple[dict[int, Question], int]:
    """Take up what a worker left that died: a claim without a job, an answer not settled.

    Returns:
        The questions that are in flight, by their jobs; and how many answers wait to be settled.
    """
    tuning, flying, answers = context.tuning, {}, []
    claimed = list(Question.objects.filter(cluster=cluster).exclude(token=""))
    # After they are read: what another worker has claimed meanwhile does not lie ahead.
    at = context.now()
    for question in claimed:
        if question.answer is not None:
            answers.append(question)
        elif question.job_id is not None and _is_dated(question, at):
            flying[question.job_id] = question
        elif _is_late(question, tuning.submit_timeout, at):
            questions.failed(question, tuning, "lost with its worker", at=at)
    late = next((it for it in answers if _is_late(it, tuning.answer_timeout, at)), None)
    if late is not None:
        # One message: who takes it settles the others too, and while nobody does none pile up.
        done.answered.append(Answered(late.pk, late.name))
        mine = Question.objects.filter(pk__in=[it.pk for it in answers])
        mine.filter(answer__isnull=False).update(claimed_at=at)  # guard: answer__isnull
    return flying, len(answers)


def _is_late(question: Question, seconds: float, at: datetime) -> bool:
    since = question.claimed_at
    is_old = since is not None and since < at - timedelta(seconds=seconds)
    return is_old or not _is_dated(question, at)


def _is_dated(question: Question, at: datetime) -> bool:
    """Whether it is known when it was claimed; the clock may have gone back a little since."""
    return question.claimed_at is not None and question.claimed_at <= at + BACKWARDS


def _poll(
    held: Turn,
    asked: Mapping[int, Question],
    backend: Backend,
    context: Context,
    done: Step,
) -> list[datetime]:
    """Ask for all that is in flight by one request, and keep the answers.

    Returns:
        When those were submitted that have not ended.
    """
    begun = {job_id: question.begun_at(held.at) for job_id, question in asked.items()}
    submitted = {job_id: moment for job_id, moment in begun.items() if moment is not None}
    if not submitted:
        return []
    spoiled: dict[int, str] = {}
    told = {report.job_id: report for report in _told(submitted, backend, spoiled)}
    at = context.now()
    for job_id, error in spoiled.items():
        # Whether or not it has ended: until a reading says so, it holds its seat.
        questions.failed(asked[job_id], context.tuning, error, at=at)
    # A job that the answer leaves out is waited for like one that is open.
    reports = [
        told.get(job_id, JobReport(job_id, Verdict.PENDING))
        for job_id in submitted
        if job_id not in spoiled
    ]
    answers = []
    for report in reports:
        if report.verdict is Verdict.ANSWERED and report.observations:
            answers.append((asked[report.job_id], report.observations[0].to_json()))
    _keep(answers, context, done)
    unstarted = [asked[it.job_id] for it in reports if it.is_unstarted]
    _note_unstarted(unstarted, submitted, at=held.at)
    # Those that may need a request of their own come last: it may fail.
    for report in sorted(reports, key=lambda it: it.verdict in (Verdict.PENDING, Verdict.ABSENT)):
        if not (report.verdict is Verdict.ANSWERED and report.observations):
            _take(asked[report.job_id], report, backend, context, done, at=at)
    ended = tuple(it.job_id for it in reports if it.verdict is not Verdict.PENDING)
    if ended:
        # Gone at once: also where the queue cannot be read they hold no seats, nor pile up.
        statements.delete(Job, cluster=held.cluster.pk, job_id=ended, is_ours=True)
    pending = [asked[it.job_id] for it in reports if it.verdict is Verdict.PENDING]
    return [question.claimed_at for question in pending if question.claimed_at is not None]


def _note_unstarted(
    waiting: Sequence[Question], begun: Mapping[int, datetime], *, at: datetime
) -> None:
    """Note that jobs had not begun at a moment, where somebody wants evidence newer than so far.

    What they will read serves him too, and no other job has to follow.
    """
    noted = [
        ({"unstarted_at": at}, {"pk": it.pk, "token": it.token})  # guard: token
        for it in waiting
        if it.job_id is not None and begun[it.job_id] < it.newer_than <= at
    ]
    if noted:
        statements.update_each(Question, noted)


def _told(
    submitted: Mapping[int, datetime], backend: Backend, spoiled: dict[int, str]
) -> list[JobReport]:
    """Poll by one request; where a job breaks it, by halves, so that it spoils itself only.

    Args:
        submitted: the jobs, and when each was submitted.
        backend: where they are.
        spoiled: is told which jobs cannot be read, and why.

    Raises:
        BackendError: the cluster is in trouble, and no job's result is.
    """
    try:
        return list(backend.poll(submitted))
    except BackendError as failure:
        _own(failure, backend)
        if len(submitted) == 1:
            spoiled |= dict.fromkeys(submitted, str(failure))
            return []
    jobs = list(submitted.items())
    middle = len(jobs) // 2
    halves = dict(jobs[:middle]), dict(jobs[middle:])
    return [report for half in halves for report in _told(half, backend, spoiled)]


def _keep(answers: Sequence[tuple[Question, dict[str, Any]]], context: Context, done: Step) -> None:
    """Keep answers in the rows of the questions, where these are still ours."""
    if not answers:
        return
    at = context.now()
    with transaction.atomic():
        statements.update_each(
            Question,
            [
                (
                    {"answer": answer, "claimed_at": at},
                    {"pk": it.pk, "token": it.token},  # guard: token
                )
                for it, answer in answers
            ],
        )
    done.answered += [Answered(it.pk, it.name) for it, _ in answers]


def _take(
    question: Question,
    report: JobReport,
    backend: Backend,
    context: Context,
    done: Step,
    *,
    at: datetime,
) -> None:
    tuning = context.tuning
    match report.verdict:
        case Verdict.PENDING:
            since = at - timedelta(seconds=tuning.query_timeout)
            if question.claimed_at is not None and question.claimed_at < since:
                # Whether or not it can be canceled, it holds its seat until it has ended.
                error = f"job {report.job_id} did not end in {tuning.query_timeout:g} s"
                questions.failed(question, tuning, error, at=at)
                backend.cancel(report.job_id)
        case Verdict.ABSENT:
            try:
                found = _find(question, backend, context, done)
            except BackendError as failure:
                _own(failure, backend)
                questions.failed(question, tuning, str(failure), at=at)
                return
            if found:
                questions.failed(question, tuning, f"{report.error}: yet it is there", at=at)
        case Verdict.LOST | Verdict.RETRY | Verdict.FAILED | Verdict.ANSWERED:
            problems = [it.problem for it in report.unreadable] or ["it told of no instance"]
            error = report.error or f"job {report.job_id}: {problems[0]}"
            questions.failed(question, tuning, error, at=at)


def _own(error: BackendError, backend: Backend) -> None:
    """Go on where an error is one instance's or job's own; raise what is the cluster's."""
    if isinstance(error, Busy | Misconfigured):
        raise error
    backend.version()


def _find(question: Question, backend: Backend, context: Context, done: Step) -> bool:
    """Ask who answers to the name; nobody, or another, is evidence that the one asked is not.

    One who has a uuid is not proven gone by a reply that has none.
    """
    begun = context.now()
    found = backend.find(question.name)
    if found is not None and (
        found.uuid in (question.uuid, None) if question.uuid else found.name == question.name
    ):
        return True
    if found is not None and found.uuid and context.policy_of(question.cluster).adopt:
        # First the one who has the name now: else a wish for it might end as if it were nobody's.
        successor = Wanted(found.uuid, found.name, begun)
        questions.ask(question.cluster, [successor], Priority.SUSPECT, at=begun)
    interval = Interval(begun, context.now())
    _keep([(question, {"absent": interval.to_json()})], context, done)
    return False


def _submit(cluster: Cluster, backend: Backend, context: Context, done: Step, tell: Tell) -> None:
    """Claim as many questions as there are seats, and issue them."""
    tuning, policy = context.tuning, context.policy_of(cluster)
    if not questions.is_anybody_waiting(cluster, policy, tuning, at=context.now()):
        return
    if done.answered:
        # Before anything is claimed: where nobody can be told, no claim is lost with this step.
        tell(done.answered)
        done.answered = []
    with transaction.atomic():
        fresh = turns.locked(cluster)
        if fresh is None or fresh.paused:
            return
        claimed = questions.claim(fresh, policy, tuning, at=context.now())
    issued: list[_Issued] = []
    try:
        for place, (question, row) in enumerate(claimed):
            try:
                issued += _issue(fresh, question, row, backend, context, done)
                if issued and issued[-1].job.begun - issued[0].job.begun > NOTED_WITHIN:
                    _note(fresh, issued, at=context.now())
                    issued = []
            except BackendError as error:
                if not isinstance(error, Busy | Misconfigured):
                    questions.failed(question, tuning, str(error), at=context.now())
                try:
                    _own(error, backend)
                except BackendError:
                    for left, _ in claimed[place:]:
                        questions.release(left)
                    raise
    finally:
        _note(fresh, issued, at=context.now())


def _issue(
    cluster: Cluster,
    question: Question,
    row: Instance | None,
    backend: Backend,
    context: Context,
    done: Step,
) -> list[_Issued]:
    is_missing = row is not None and row.missing_first is not None and row.epoch == cluster.epoch
    if is_missing and not _find(question, backend, context, done):
        return []
    return [_Issued(question, backend.submit_query(question.name, limit=cluster.max_in_flight))]


def _note(cluster: Cluster, issued: Sequence[_Issued], *, at: datetime) -> None:
    """Note which jobs ask; until then the claims hold the seats.

    First the jobs: also one that is nobody's by now holds its seat until it has ended.
    """
    if not issued:
        return
    with transaction.atomic():
        statements.upsert(
            [
                Job(
                    cluster=cluster, job_id=it.job.job_id, is_query=True, is_ours=True,
                    epoch=cluster.epoch, state=JobState.QUEUED.value, seen_first=at, seen_last=at,
                    names=[it.question.name],
                    uuids=[it.question.uuid] if it.question.uuid else [],
                )
                for it in issued
            ],
            ("cluster", "job_id"), ("is_query", "is_ours", "names", "uuids"),
        )  # fmt: skip
        statements.update_each(
            Question,
            [
                (
                    {"job_id": it.job.job_id, "claimed_at": it.job.begun},
                    {"pk": it.question.pk, "token": it.question.token},  # guard: token
                )
                for it in issued
            ],
        )


def _newest_in_flight(cluster: Cluster) -> datetime | None:
    """Return when the last of those in flight was claimed; None where there are none."""
    flying = Question.objects.filter(cluster=cluster, answer__isnull=True).exclude(token="")
    found: datetime | None = flying.aggregate(newest=Max("claimed_at"))["newest"]
    return found


def _pause(newest: datetime, tuning: Tuning, *, at: datetime) -> float:
    """Return how many seconds the chain may rest before its next step."""
    idle = (at - newest).total_seconds()
    return min(tuning.poll_interval_max, max(tuning.poll_interval_min, idle / 8))


def _rest(cluster: Cluster, tuning: Tuning, *, at: datetime) -> None:
    """Leave when the next chain is to begin, unless somebody has asked meanwhile."""
    left = Question.objects.filter(cluster=cluster).aggregate(
        waiting=Count("pk", filter=Q(retry_at=None) | Q(retry_at__lte=at)),
        first=Min("retry_at", filter=Q(retry_at__gt=at)),
    )
    due = [at + timedelta(seconds=tuning.look_period)]
    if left["waiting"]:
        due.append(at + BLOCKED)
    if left["first"]:
        due.append(left["first"])
    mine = Cluster.objects.filter(pk=cluster.pk)
    mine = mine.filter(next_ask_at=cluster.next_ask_at)  # guard: next_ask_at
    mine.update(next_ask_at=min(due))


def _failed(held: Turn, error: BackendError, tuning: Tuning, *, at: datetime) -> None:
    """Leave when to try again; the beat begins the next chain."""
    if not isinstance(error, Busy):
        failures = held.cluster.ask_failures + 1
        base = tuning.retry_cap if isinstance(error, Misconfigured) else tuning.retry_base
        wait = backoff(failures, base=base, cap=tuning.retry_cap)
        held.values |= {
            "ask_failures": failures,
            "last_error": str(error),
            "next_ask_at": at + wait,
        }
    if isinstance(error, Misconfigured):
        # Lists may go on, and answer what asks for no job.
        kinds = (Request.Kind.INSTANCE, Request.Kind.ALL)
        requests.refuse(held.cluster, str(error), at=at, kinds=kinds)
    turns.release(held)
