"""SETTLE: decide on the answers of questions, and write what follows.

A task comes for each answered question. The first to come settles whatever waits, so that the
others find nothing left to do: a burst costs a few statements for a hundred instances.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connection, transaction
from django.db.models import Case, F, QuerySet, When

from proj.inventory import statements
from proj.inventory.models import Cluster, Instance, Question
from proj.observation import Interval, Observation
from proj.reconcile import questions, requests
from proj.reconcile.context import Context
from proj.reconcile.decide import Absent, Action, Answer, Rule
from proj.reconcile.record import Item, Settled, in_batches, is_of_database, record
from proj.reconcile.settings import Tuning

SOURCE = "job"

UNPROVEN = (Rule.MISSING_ONCE, Rule.IN_FLIGHT)
"""A 404 that proves nothing yet: it is asked for again, rarer and rarer."""

AT_ONCE = 50
"""Answers that one task settles: as many as do not make the next one wait."""


@dataclass(frozen=True, slots=True)
class Done:
    """What a task came to."""

    settled: int = 0
    ask: bool = False
    """Something is to be asked now."""
    waiting: Question | None = None
    """One whose answer still waits, where there were more than one task settles."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """What a batch came to: something is to be asked again; the brake held something."""

    asks: bool
    is_held: bool
    about: list[tuple[str | None, str]]
    """Uuid and name of everybody concerned."""


def settle(name: str, key: int, context: Context) -> Done:
    """Settle the answer of one question, and of others of its cluster that wait with it.

    Args:
        name: the cluster.
        key: the question's; where it was settled already, nothing is done.
        context: how, and by which clock.
    """
    if not statements.is_free(Question, pk=key):
        # As for most of a burst, by the cheapest statement: another task has it, or had.
        return Done()
    question = statements.find(Question, "cluster", pk=key)
    if question is None or question.answer is None or question.cluster.name != name:
        return Done()
    cluster = question.cluster
    waiting: list[int] = []
    done: list[_Batch] = []

    def work(batch: Sequence[int]) -> None:
        with transaction.atomic():
            mine = Question.objects.filter(pk__in=batch, answer__isnull=False).order_by("pk")
            done.append(_settle(cluster, list(_unlocked(mine)), context))

    def spoil(it: int, error: Exception) -> None:
        _set_aside(cluster, it, error, context)

    try:
        with transaction.atomic():
            answered = _waiting(cluster, key)
            waiting += [it.pk for it in answered]
            if not waiting:
                return Done()
            done.append(_settle(cluster, answered, context))
    except Exception as error:
        if is_of_database(error):
            raise
        in_batches(waiting, work, spoil)
    at = context.now()
    # After the rows of instances, whose locks are taken in another order than the cluster's.
    values: dict[str, Any] = {"settled_at": at}
    if any(it.is_held for it in done):
        # The evidence is dropped; the look that finds it again shows the operator all of it.
        values["next_look_at"] = at
    asks = any(it.asks for it in done)
    if asks and not cluster.ask_failures:
        values["next_ask_at"] = at
    statements.update(Cluster, values, pk=cluster.pk)
    about = [it for batch in done for it in batch.about]
    policy = context.policy_of(cluster)
    requests.settle_instances(cluster, about, policy, context.tuning, now=context.now)
    more = None
    if len(waiting) >= AT_ONCE:
        # Most have a message of their own; those that a worker left as it died have one together.
        more = Question.objects.filter(cluster=cluster, answer__isnull=False).first()
    return Done(len(waiting), asks, more)


def _waiting(cluster: Cluster, key: int) -> list[Question]:
    """Lock this answer, unless another task is settling it just now, and others that wait."""
    mine = Question.objects.filter(cluster=cluster, answer__isnull=False)
    first = mine.order_by(Case(When(pk=key, then=0), default=1), "claimed_at")
    return sorted(_unlocked(first)[:AT_ONCE], key=lambda it: it.pk)


def _unlocked(them: "QuerySet[Question]") -> "QuerySet[Question]":
    """Lock them, but for those that another task is settling just now: these are not waited for."""
    skips = connection.features.has_select_for_update_skip_locked
    return them.select_for_update(skip_locked=skips)


def _settle(cluster: Cluster, answered: Sequence[Question], context: Context) -> _Batch:
    policy, tuning = context.policy_of(cluster), context.tuning
    evidence = [(question, _item(question)) for question in answered]
    items = [item for _, item in evidence]
    settled = record(cluster, items, policy, tuning, now=context.now)
    by_item = {id(item): question for question, item in evidence}
    first: dict[int, Settled] = {}
    for it in settled:
        first.setdefault(by_item[id(it.item)].pk, it)
    is_asked_again = _end(evidence, first, tuning, context)
    return _Batch(
        asks=is_asked_again or any(it.decision.action is Action.ASK for it in settled),
        is_held=any(it.is_held for it in settled),
        about=[
            *((question.uuid, question.name) for question in answered),
            *((it.row.uuid, it.row.name) for it in settled if it.row is not None),
        ],
    )


def _item(question: Question) -> Item:
    """Read an answer.

    Raises:
        ValueError, KeyError, TypeError: it was written by nobody we know.
    """
    answer: Any = question.answer
    if "absent" in answer:
        interval = Interval.from_json(answer["absent"])
        return Item(Absent(interval), question.uuid, question.name, SOURCE)
    seen = Observation.from_json(answer)
    return Item(Answer(seen), question.uuid, question.name, SOURCE, seen.job_id)


def _end(
    evidence: Sequence[tuple[Question, Item]],
    first: dict[int, Settled],
    tuning: Tuning,
    context: Context,
) -> bool:
    """End what was answered; returns whether anything wants newer evidence at once."""
    over: list[int] = []
    again = []
    for question, item in evidence:
        it = first.get(question.pk)
        begun = item.seen.interval.not_before
        if it is None or it.decision.action is Action.ASK or it.decision.rule in UNPROVEN:
            rule = "the answer names nobody" if it is None else it.decision.rule
            questions.failed(question, tuning, f"undecided: {rule}", at=context.now())
        elif begun < question.newer_than:  # guard
            again.append(question)
        else:
            over.append(question.pk)
            if not _is_asked_for(question, it.row):
                # Nobody, or one to whose name Ganeti completes it, is not the one asked for.
                requests.absent(question.cluster, question.uuid, question.name, begun)
    if over:
        statements.delete(Question, pk=tuple(over))
    for question in again:
        questions.release(question)
    return bool(again)


def _is_asked_for(question: Question, row: Instance | None) -> bool:
    if row is None:
        return False
    return row.uuid == question.uuid if question.uuid else row.name == question.name


def _set_aside(cluster: Cluster, key: int, error: Exception, context: Context) -> None:
    """Count an answer that cannot be settled, and have its instance asked again, rarer."""
    question = statements.find(Question, pk=key)
    with transaction.atomic():
        Cluster.objects.filter(pk=cluster.pk).update(set_aside=F("set_aside") + 1)
        if question is not None:
            text = f"its answer cannot be settled: {type(error).__name__}"
            questions.failed(question, context.tuning, text, at=context.now())
