"""The work queue: one row for each instance that somebody wants evidence about.

Asking is an upsert that leaves whoever holds the row alone; a row is satisfied by evidence that
began after ``newer_than``, and by nothing else.
"""

import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import chain
from typing import Any, TypeVar

from django.db import connection, transaction
from django.db.models import Exists, F, Model, OuterRef, Q, QuerySet

from proj.backend import JobState
from proj.inventory import statements
from proj.inventory.models import Cluster, Instance, Job, Priority, Question, Request
from proj.observation import Status
from proj.reconcile import confirmed, holds, rows
from proj.reconcile.context import backoff
from proj.reconcile.decide import Policy
from proj.reconcile.settings import Tuning

T = TypeVar("T", bound=Model)

ENDED_AT_ONCE = 500

NOBODYS: dict[str, Any] = {
    "token": "", "claimed_at": None, "unstarted_at": None, "job_id": None, "answer": None,
}  # fmt: skip
"""The columns of a question that nobody has claimed."""

PAGE = 60
"""So many are read at a time, until one is found that may go."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An instance to be asked about: by its uuid where one is known, under its newest name."""

    uuid: str | None
    name: str
    newer_than: datetime
    """Evidence that began before does not satisfy it."""
    listed: dict[str, Any] | None = None
    """What lists say of one that is not recorded."""


def ask(
    cluster: Cluster,
    instances: Iterable[Wanted],
    priority: Priority,
    *,
    at: datetime,
    override_each: timedelta | None = None,
) -> None:
    """Want evidence about instances; raises what is wanted already, and leaves its holder alone.

    Args:
        cluster: whose.
        instances: each with the moment that evidence is to be newer than.
        priority: how urgent.
        at: now.
        override_each: those that back off are asked now, if they were not so within this time.
    """
    items = sorted({(it.uuid or "", it.name): it for it in instances}.items())
    with transaction.atomic(savepoint=False):
        # Under its lock, as whoever claims: he makes rows for those that he finds to have none.
        statements.update(Cluster, {"name": cluster.name}, pk=cluster.pk)
        statements.update(Cluster, {"next_ask_at": at}, pk=cluster.pk, ask_failures=0)
        for by_uuid in (True, False):
            mine = [it for _, it in items if bool(it.uuid) is by_uuid]
            if mine:
                _upsert(cluster, mine, priority, at, override_each, by_uuid=by_uuid)


def _upsert(
    cluster: Cluster,
    instances: Sequence[Wanted],
    priority: Priority,
    at: datetime,
    override_each: timedelta | None,
    *,
    by_uuid: bool,
) -> None:
    table = Question._meta.db_table
    least, most = ("MIN", "MAX") if connection.vendor == "sqlite" else ("LEAST", "GREATEST")
    target = "(cluster_id, uuid)" if by_uuid else "(cluster_id, name) WHERE uuid IS NULL"
    columns = (
        "cluster_id", "uuid", "name", "priority", "epoch", "wanted_since", "newer_than",
        "listed", "token", "attempts", "error",
    )  # fmt: skip
    listed = Question._meta.get_field("listed")
    moment = connection.ops.adapt_datetimefield_value
    overrides, moments = "", []
    if override_each is not None:
        is_time = (
            f"{table}.retry_at IS NOT NULL AND ({table}.overridden_at IS NULL"
            f" OR {table}.overridden_at <= %s OR {table}.overridden_at > %s)"
        )
        overrides = (
            f", overridden_at = CASE WHEN {is_time} THEN %s ELSE {table}.overridden_at END"
            f", retry_at = CASE WHEN {is_time} THEN NULL ELSE {table}.retry_at END"
        )
        since, now = moment(at - override_each), moment(at)
        moments = [since, now, now, since, now]
    with connection.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO {table} ({', '.join(columns)})"
            f" VALUES ({', '.join(['%s'] * len(columns))})"
            f" ON CONFLICT {target} DO UPDATE SET"
            f" priority = {least}({table}.priority, EXCLUDED.priority),"
            f" newer_than = {most}({table}.newer_than, EXCLUDED.newer_than),"
            " name = EXCLUDED.name,"
            f" listed = COALESCE(EXCLUDED.listed, {table}.listed){overrides}",
            [
                (
                    cluster.pk, it.uuid, it.name, int(priority), cluster.epoch,
                    moment(at), moment(it.newer_than),
                    listed.get_db_prep_save(it.listed, connection), "", 0, "",
                    *moments,
                )
                for it in instances
            ],
        )  # fmt: skip


def ready(cluster: Cluster, tuning: Tuning, *, at: datetime) -> "QuerySet[Question]":
    """Return the questions that nobody holds and whose time has come, or was never to be."""
    longest = timedelta(seconds=tuning.question_cap)
    due = Q(retry_at=None) | Q(retry_at__lte=at) | Q(retry_at__gt=at + longest)
    mine = Question.objects.filter(due, cluster=cluster)
    return mine.filter(token="")  # guard: token


def is_anybody_waiting(cluster: Cluster, policy: Policy, tuning: Tuning, *, at: datetime) -> bool:
    """Whether anybody may be waiting to be asked about: without locks, and by few statements."""
    kind, state = Request.Kind.ALL, Request.State.OPEN
    return (
        cluster.audit_at is None
        or statements.exists(Question, cluster=cluster.pk, token="")
        or statements.exists(Request, cluster=cluster.pk, kind=kind, state=state)
        or (
            _audit_tokens(cluster, tuning, at=at) >= 1
            and _oldest(cluster, _unasked(cluster, policy), tuning, at=at).exists()
        )
    )


def claim(
    cluster: Cluster, policy: Policy, tuning: Tuning, *, at: datetime
) -> list[tuple[Question, Instance | None]]:
    """Claim as many questions as there are free seats; the caller has locked the cluster's row.

    Seats are our jobs that are not known to have ended, and claims of which nobody knows yet
    whether they became a job. The most urgent go first, but each priority has its share. One
    primary node holds all seats but one at most.

    Returns:
        Each question with the instance that is recorded of it.
    """
    if cluster.read is None and not cluster.follow_failures:  # guard
        # Who holds seats is known from a reading of this epoch, or, where none can be had, not.
        return []
    jobs = rows.open_jobs(cluster)
    ours = [job for job in jobs if job.is_ours]
    claimed = list(
        Question.objects.filter(cluster=cluster, job_id=None, answer__isnull=True).exclude(token="")
    )
    seats = cluster.max_in_flight - len(ours) - len(claimed)
    if seats <= 0:
        # As most of a flood on demand finds it: the choice would read much for nothing.
        return []
    tokens = _audit_tokens(cluster, tuning, at=at)
    asking = [*claimed, *(_asked_by(job, cluster) for job in ours)]
    choice = _Choice(cluster, jobs, asking, policy, tuning, tokens=tokens, at=at)
    taken: list[tuple[Question, Instance | None]] = []
    while len(taken) < seats:
        found = choice.next(cluster.asked + len(taken))
        if found is None:
            break
        taken.append(found)
    if not taken and cluster.audit_at is not None:
        return []
    _take([question for question, _ in taken], at=at)
    left = {
        "asked": cluster.asked + len(taken), "audit_tokens": tokens - choice.spent, "audit_at": at,
    }  # fmt: skip
    statements.update(Cluster, left, pk=cluster.pk)
    return taken


def _asked_by(job: Job, cluster: Cluster) -> Question:
    """Return whom a job of ours asks about, also where nobody waits for its answer any more."""
    name, uuid = next(iter(rows.texts(job.names)), ""), next(iter(rows.texts(job.uuids)), None)
    return Question(cluster=cluster, name=name, uuid=uuid)


def _take(asked: Sequence[Question], *, at: datetime) -> None:
    """Write who holds these questions, and those that the audit has just made."""
    for question in asked:
        question.token, question.claimed_at = secrets.token_hex(8), at
    known = [it for it in asked if it.pk is not None]
    if known:
        statements.update_each(
            Question, [({"token": it.token, "claimed_at": at}, {"pk": it.pk}) for it in known]
        )
    Question.objects.bulk_create([it for it in asked if it.pk is None])


def _audit_tokens(cluster: Cluster, tuning: Tuning, *, at: datetime) -> float:
    """Return how many jobs the audit may spend now: they come evenly, and few can be saved."""
    a_second = cluster.jobs_per_hour / 3600
    saved = max(1.0, a_second * tuning.look_period) if a_second else 0.0
    since = cluster.audit_at
    earned = a_second * (at - since).total_seconds() if since and since <= at else saved
    return min(saved, max(0.0, cluster.audit_tokens) + earned)


class _Choice:
    """Whom to ask next, of those who wait."""

    def __init__(
        self,
        cluster: Cluster,
        jobs: Iterable[Job],
        asking: Sequence[Question],
        policy: Policy,
        tuning: Tuning,
        *,
        tokens: float,
        at: datetime,
    ) -> None:
        self._cluster, self._policy, self._tuning, self._at = cluster, policy, tuning, at
        self._work = rows.JobsByInstance(rows.at_work(jobs, cluster, tuning, at=at))
        self._held = holds.held_keys(cluster)
        self._most_of_node = max(1, cluster.max_in_flight - 1)
        self._nodes: Counter[str] = Counter()
        self.spent = 0
        """Jobs of the audit's budget among those that were chosen."""
        self._budget = int(tokens)
        self._budgeted: set[int] = set()
        waiting = ready(cluster, tuning, at=at)
        first = list(waiting.order_by("priority", "attempts", "wanted_since", "pk")[:PAGE])
        self._rows = _rows_of(cluster, [*asking, *first])
        for question in asking:
            self._count(question, self._row(question))
        self._full = [node for node, number in self._nodes.items() if number >= self._most_of_node]
        by_priority = {
            it: iter([question for question in first if question.priority == it])
            if len(first) < PAGE
            else self._pages(waiting.filter(priority=it))
            for it in Priority
        }
        self._next = {
            Priority.ON_DEMAND: by_priority[Priority.ON_DEMAND],
            Priority.SUSPECT: by_priority[Priority.SUSPECT],
            Priority.AUDIT: chain(by_priority[Priority.AUDIT], self._drawn()),
        }

    def _pages(self, waiting: "QuerySet[Question]") -> Iterator[Question]:
        """Yield all that wait, in their order, but for those of nodes that are full already."""
        if self._full:
            waiting = waiting.exclude(Exists(self._on_full_nodes().filter(uuid=OuterRef("uuid"))))
        for page in _pages(waiting.order_by("attempts", "wanted_since", "pk")):
            self._rows |= _rows_of(self._cluster, page)
            yield from page

    def _on_full_nodes(self) -> "QuerySet[Instance]":
        return Instance.objects.filter(cluster=self._cluster, nodes__0__in=self._full)

    def _drawn(self) -> Iterator[Question]:
        """Draw those that no row asks about, of ``--all``, or of the audit within its budget.

        Only as the first of them is wanted: it reads every instance.
        """
        mine = _unasked(self._cluster, self._policy)
        if self._full:
            mine = mine.exclude(pk__in=self._on_full_nodes().values("pk"))
        wished: set[int] = set()
        for page in _pages(_of_all(self._cluster, mine, at=self._at)):
            wished |= {row.pk for row in page}
            yield from (self._about(row) for row in page)
        if self._budget < 1:
            return
        for page in _pages(_oldest(self._cluster, mine, self._tuning, at=self._at)):
            for row in page:
                if row.pk in wished:
                    continue
                self._budgeted.add(row.pk)
                yield self._about(row)
                if self.spent >= self._budget:
                    return

    def next(self, turn: int) -> tuple[Question, Instance | None] | None:
        """Return the next question; of each eight turns one is a suspect's, one the audit's."""
        first = {3: Priority.SUSPECT, 7: Priority.AUDIT}.get(turn % 8)
        for priority in sorted(Priority, key=lambda it: (it != first, it)):
            for question in self._next[priority]:
                row = self._row(question)
                if self._may_go(question, row):
                    self._count(question, row)
                    self.spent += (
                        question.pk is None and row is not None and (row.pk in self._budgeted)
                    )
                    return question, row
        return None

    def _may_go(self, question: Question, row: Instance | None) -> bool:
        node = _node_of(question, row)
        if node and self._nodes[node] >= self._most_of_node:  # guard
            return False
        if row is None:
            return not _is_of_lists(question.listed, self._policy)
        if rows.key_of(row) in self._held:  # guard
            return False
        # A query would wait for the lock that such a job holds or wants.
        return not any(
            job.state != JobState.QUEUED and not job.announced for job in self._work.on(row)
        )

    def _count(self, question: Question, row: Instance | None) -> None:
        node = _node_of(question, row)
        if node:
            self._nodes[node] += 1

    def _row(self, question: Question) -> Instance | None:
        return self._rows.get(question.uuid or question.name)

    def _about(self, row: Instance) -> Question:
        self._rows[rows.key_of(row)] = row
        return Question(
            cluster=self._cluster, uuid=row.uuid, name=row.name, priority=Priority.AUDIT,
            epoch=self._cluster.epoch, wanted_since=self._at, newer_than=self._at,
        )  # fmt: skip


def _pages(them: "QuerySet[T]") -> Iterator[list[T]]:
    """Yield rows in their order, no more at a time than are likely to be wanted."""
    start = 0
    while page := list(them[start : start + PAGE]):
        yield page
        if len(page) < PAGE:
            return
        start += PAGE


def _is_of_lists(listed: Any, policy: Policy) -> bool:
    """Whether the lists say of a stranger what no job can tell."""
    stranger = rows.stranger_of(listed)
    return stranger is not None and stranger.seen.backend_status in policy.list_only


def _node_of(question: Question, row: Instance | None) -> str:
    """Return the primary node, as it is recorded, or as the list says of a stranger."""
    nodes: Any = row.nodes if row is not None else None
    stranger = rows.stranger_of(question.listed) if row is None else None
    if stranger is not None:
        nodes = stranger.seen.configuration.nodes
    return str(nodes[0]) if isinstance(nodes, list | tuple) and nodes else ""


def _rows_of(cluster: Cluster, asked: Sequence[Question]) -> dict[str, Instance]:
    """Return the instances of questions, by uuid, or by name for those without one."""
    mine = Instance.objects.filter(cluster=cluster)
    uuids = [it.uuid for it in asked if it.uuid]
    names = [it.name for it in asked if not it.uuid]
    found = {row.uuid or "": row for row in mine.filter(uuid__in=uuids)} if uuids else {}
    if names:
        living = mine.filter(name__in=names).exclude(status=Status.DELETED)
        found |= {row.name: row for row in living.order_by("pk")}
    return found


def _unasked(cluster: Cluster, policy: Policy) -> "QuerySet[Instance]":
    """Return those about whom a job could tell, and about whom there is no question."""
    waiting = Question.objects.filter(cluster=cluster).filter(
        Q(uuid=OuterRef("uuid")) | Q(uuid=None, name=OuterRef("name"))
    )
    return (
        Instance.objects.filter(~Exists(waiting), cluster=cluster)
        .exclude(status=Status.DELETED)
        # What was never shown cannot be asked about, and of some words only lists can tell.
        .exclude(backend_status__in=["", *policy.list_only])
    )


def _of_all(cluster: Cluster, mine: "QuerySet[Instance]", *, at: datetime) -> "QuerySet[Instance]":
    """Return those that ``--all`` wants confirmed, and that had no turn since."""
    kind, state = Request.Kind.ALL, Request.State.OPEN
    wishes = statements.find_all(Request, cluster=cluster.pk, kind=kind, state=state)
    if not wishes:
        return mine.none()
    since = max(wish.requested_at for wish in wishes)
    unconfirmed = Q(confirmed_at=None) | Q(confirmed_at__lt=since)
    had_no_turn = Q(audited_at=None) | Q(audited_at__lt=since) | Q(audited_at__gt=at)
    return mine.filter(~Q(epoch=cluster.epoch) | (unconfirmed & had_no_turn)).order_by("pk")


def _oldest(
    cluster: Cluster, mine: "QuerySet[Instance]", tuning: Tuning, *, at: datetime
) -> "QuerySet[Instance]":
    """Return those whose turn in the audit it is."""
    due = Q(audited_at=None) | Q(audited_at__lt=at - cluster.confirm_max_age / 2)
    ahead = Q(audited_at__gt=at)
    restless = Q(flapping_since__isnull=False, audited_at__lt=at - tuning.flapping.window)
    return mine.filter(~Q(epoch=cluster.epoch) | due | ahead | restless).order_by(
        F("audited_at").asc(nulls_first=True), "pk"
    )


def failed(question: Question, tuning: Tuning, error: str, *, at: datetime) -> None:
    """Release a claimed question whose attempt brought no evidence; it is asked again, rarer."""
    attempts = question.attempts + 1
    wait = backoff(attempts, base=tuning.retry_base, cap=tuning.question_cap)
    _mine(question).update(
        **NOBODYS, attempts=attempts, retry_at=at + wait, error=error[:500],
    )  # fmt: skip


def begin_anew(cluster: Cluster, names: Iterable[str], *, at: datetime) -> None:
    """Have what lists say of strangers of these names count from the next list on.

    A job on them has ended at ``at``: what was listed before may be half of its work.
    """
    mine = Question.objects.filter(cluster=cluster, listed__isnull=False)
    for question in mine.select_for_update().order_by("pk"):
        stranger = rows.stranger_of(question.listed)
        if stranger is not None and stranger.seen.instance in set(names):
            listed = replace(stranger, first=at).to_json()
            Question.objects.filter(pk=question.pk).update(listed=listed)


def release(question: Question) -> None:
    """Let a claimed question wait again, for no fault of its own."""
    _mine(question).update(**NOBODYS)


def end_needless(cluster: Cluster, jobs: Iterable[Job], tuning: Tuning, *, at: datetime) -> None:
    """End questions to which a list since then is the answer.

    Those that are set aside for long, and about whom that list agrees; and those about nobody:
    neither is one recorded, nor does that list have any.

    Args:
        cluster: whose; its queue has just been read.
        jobs: the open ones that work on instances.
        tuning: tells what is long.
        at: now.
    """
    listed_at = confirmed.list_since(cluster, rows.OLDEST, at=at)
    wishes = Request.objects.filter(cluster=cluster, state=Request.State.OPEN)
    if listed_at is None:
        return
    if wishes.filter(kind=Request.Kind.ALL).exists():  # guard
        return
    waiting = Question.objects.filter(
        cluster=cluster,
        token="",  # guard: token
        newer_than__lt=listed_at,  # guard: newer_than
    )
    asked = rows.portion(waiting, ENDED_AT_ONCE)
    if not asked:
        return
    late = at + timedelta(seconds=tuning.proof_within)
    living = {
        key: row for key, row in _rows_of(cluster, asked).items() if row.status != Status.DELETED
    }
    agreeing = Instance.objects.filter(
        confirmed.agrees(cluster, jobs, listed_at), pk__in=[row.pk for row in living.values()]
    )
    agreed = set(agreeing.values_list("pk", flat=True))
    wished = {key for pair in wishes.values_list("uuid", "name") for key in pair if key}
    over, turns = [], []
    for question in asked:
        row = living.get(question.uuid or question.name)
        if row is not None:
            if (
                question.retry_at is not None
                and question.retry_at > late  # guard
                and row.pk in agreed  # guard
            ):
                over.append(question.pk)
                turns.append(row.pk)
        elif (
            wished.isdisjoint({question.uuid, question.name})  # guard
            and not _is_listed_since(question, listed_at)  # guard
        ):
            over.append(question.pk)
    waiting.filter(pk__in=over).delete()
    # That they agree counts as their turn in the audit, which would ask at once again.
    Instance.objects.filter(pk__in=turns).update(audited_at=listed_at)


def _is_listed_since(question: Question, listed_at: datetime) -> bool:
    """Whether that list, or a later one, has one who is not recorded."""
    stranger = rows.stranger_of(question.listed)
    return stranger is not None and stranger.seen.interval.not_before >= listed_at


def _mine(question: Question) -> "QuerySet[Question]":
    return Question.objects.filter(pk=question.pk, token=question.token)  # guard: token
