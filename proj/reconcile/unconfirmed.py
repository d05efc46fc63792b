"""What is left of a request: who has not been confirmed since, and why."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db.models import Q, QuerySet

from proj.backend import JobState
from proj.inventory.models import Cluster, Hold, Instance, Job, Question, Request
from proj.observation import Status
from proj.reconcile import confirmed, holds, rows
from proj.reconcile.decide import Policy
from proj.reconcile.settings import Tuning

NAMED = 200
"""Instances that an answer names among those that could not be confirmed."""


@dataclass(slots=True)
class Left:
    """What is left of a request."""

    number: int = 0
    is_blocked: bool = True
    """Nothing that this service does now can confirm any of them."""
    held: "list[Unconfirmed]" = field(default_factory=list)
    others: "list[Unconfirmed]" = field(default_factory=list)
    """Those that wait for an operator, and all others: no more of each than an answer names."""

    def add(self, it: "Unconfirmed") -> None:
        """Count one more."""
        self.number += 1
        self.is_blocked &= it.is_blocked
        mine = self.held if it.is_held else self.others
        if len(mine) < NAMED:
            mine.append(it)

    @property
    def named(self) -> "list[Unconfirmed]":
        """Return those that an answer names."""
        return [*self.others, *self.held][:NAMED]


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """One instance that was not confirmed since a request, and why."""

    instance: str
    reason: str
    is_blocked: bool
    """Nothing that this service does now can confirm it."""
    is_held: bool = False


class View:
    """What is so in a cluster, as far as requests depend on it; read once for all of them."""

    def __init__(self, cluster: Cluster, policy: Policy, tuning: Tuning, at: datetime) -> None:
        self.cluster, self.policy, self.tuning, self.at = cluster, policy, tuning, at
        ours = Job.objects.filter(cluster=cluster, state__in=rows.OPEN, is_ours=True)
        self.jobs = rows.at_work(rows.open_jobs(cluster), cluster, tuning, at=at)
        long_ago = at - timedelta(seconds=tuning.proof_within)
        stuck = ours.filter(seen_first__lte=long_ago).count()
        self.is_stuck = stuck >= cluster.max_in_flight
        """Whether each seat is held by a job that has waited longer than proof is promised."""
        self.work = rows.JobsByInstance(self.jobs)
        self.holds = {
            entry.key: hold
            for hold in Hold.objects.filter(cluster=cluster, current=True, approved_at=None)
            for entry in holds.entries_of(hold)
        }

    def awaits_reading(self, since: datetime) -> bool:
        """Whether a list has come that may confirm what was wanted since then, and no reading."""
        looked = self.cluster.looked
        if looked is None or looked.not_before <= since:
            return False
        return confirmed.list_since(self.cluster, since, at=self.at) is None

    def unconfirmed(self, request: Request) -> "QuerySet[Instance]":
        """Return the living rows of a cluster that no evidence has confirmed since a request."""
        mine = Instance.objects.filter(rows.LIVES_OR_RETURNS, cluster=self.cluster)
        if request.kind != Request.Kind.INSTANCE and request.scoped_at is not None:
            # A row that was made since, of evidence from before, is of one that was there.
            scoped = request.scoped_at
            is_in = Q(created_at__lte=scoped) | Q(observed_not_before__lte=scoped)
            if request.kind == Request.Kind.ALL:
                # What was made known since may have been there: by lists, or by a job from before.
                is_in |= ~Q(backend_status="")
            mine = mine.filter(is_in)
        since = request.requested_at
        asked = Q(
            confirmed_at__gte=since,
            confirmed_at__lte=self.at,  # guard: confirmed_at__lte
            epoch=self.cluster.epoch,  # guard: epoch
        )
        # What no job can tell, and lists say is another, is not confirmed by a job.
        of_lists = Q(differs__has_any_keys=sorted(self.policy.list_fields))
        left = mine.exclude(asked & ~of_lists)
        listed_at = confirmed.list_since(self.cluster, since, at=self.at)
        if listed_at is None:
            return left
        agreed = confirmed.agrees(self.cluster, self.jobs, listed_at)
        if request.kind == Request.Kind.ALL:
            # No job can tell these words, or speak of what was never there.
            words = [*self.policy.list_only, ""]
            agreed &= Q(backend_status__in=words)
        return left.exclude(agreed)

    def left_of(self, request: Request) -> Left:
        """Return what is left of a request."""
        left = Left()
        is_one = request.kind == Request.Kind.INSTANCE
        for it in self._of_instance(request) if is_one else self._of_cluster(request):
            left.add(it)
            if left.number >= NAMED and not left.is_blocked:
                # All that is to be known of so many.
                break
        return left

    def _of_cluster(self, request: Request) -> Iterator[Unconfirmed]:
        if request.scoped_at is None:
            yield self._no_list()
            return
        # Strangers before rows: one that becomes known in between is found as both, not as neither.
        listed = self._strangers().filter(wanted_since__lte=request.scoped_at, listed__isnull=False)
        unknown = list(listed.order_by("pk"))
        for page in rows.pages(self.unconfirmed(request), NAMED):
            asked = questions_of(self.cluster, page)
            for row in page:
                yield self._why(row, asked.get(rows.key_of(row)))
        for question in unknown:
            yield self._why_asked(question.name, question)

    def _of_instance(self, request: Request) -> Iterator[Unconfirmed]:
        is_it = Q(name=request.name)
        if request.uuid:
            is_it |= Q(uuid=request.uuid)
        for row in self.unconfirmed(request).filter(is_it).order_by("pk"):
            yield self._why(row, question_of(self.cluster, row.uuid, row.name))
        known = Instance.objects.filter(is_it, cluster=self.cluster)
        if known.exclude(status=Status.DELETED).exists():
            return
        others = self._strangers().filter(uuid__isnull=False).exclude(uuid=request.uuid)
        successor = others.filter(name=request.name).first()
        if successor is not None and self.policy.adopt:
            yield self._why_asked(request.name, successor)
            return
        gone = known.filter(
            uuid=request.uuid,
            epoch=self.cluster.epoch,  # guard: epoch
            confirmed_at__gte=request.requested_at,
            confirmed_at__lte=self.at,  # guard: confirmed_at__lte
        )
        if is_absent(request, at=self.at) or (request.uuid and gone.exists()):
            # By proof; and nobody lives under its name.
            return
        question = question_of(self.cluster, request.uuid, request.name)
        yield self._why_asked(request.name, question)

    def _strangers(self) -> "QuerySet[Question]":
        """Return the questions about those whose uuid is not recorded."""
        known = Instance.objects.filter(cluster=self.cluster).exclude(uuid=None).values("uuid")
        return Question.objects.filter(cluster=self.cluster).exclude(uuid__in=known)

    def _no_list(self) -> Unconfirmed:
        cluster = self.cluster
        if cluster.findings and cluster.failures == 0:
            problem = f"the list is incomplete: {cluster.findings[0].get('problem', '')}"
            return Unconfirmed(cluster.name, problem, is_blocked=True)
        return Unconfirmed(
            cluster.name,
            cluster.last_error.removeprefix(f"{cluster.name}: ") or "no list has been read since",
            is_blocked=cluster.paused or cluster.is_failing,
        )

    def _why(self, row: Instance, question: Question | None) -> Unconfirmed:
        hold = self.holds.get(rows.key_of(row))
        if hold is not None:
            return Unconfirmed(
                row.name, f"held: manage.py approve {hold.pk}", is_blocked=True, is_held=True
            )
        jobs = [job for job in self.work.on(row) if job.state != JobState.QUEUED]
        if jobs:
            return Unconfirmed(row.name, f"job {jobs[-1].job_id} works on it", is_blocked=True)
        return self._why_asked(row.name, question)

    def _why_asked(self, name: str, question: Question | None) -> Unconfirmed:
        if self.cluster.paused:
            return Unconfirmed(name, "the cluster is paused", is_blocked=True)
        if self.cluster.is_failing:
            error = self.cluster.last_error or "the cluster is failing"
            return Unconfirmed(name, error.removeprefix(f"{self.cluster.name}: "), is_blocked=True)
        if question is None:
            return self._unasked(name, "its turn has not come yet")
        if question.answer is not None:
            return Unconfirmed(name, "its answer waits to be settled", is_blocked=False)
        if question.token and question.job_id is not None:
            before = f", after {question.attempts} in vain: " if question.attempts else ""
            text = f"query job {question.job_id} is open{before}{question.error if before else ''}"
            return Unconfirmed(name, text, is_blocked=True)
        if question.retry_at is not None and question.retry_at > self.at:
            until = f"{question.retry_at:%H:%M:%S}"
            text = f"set aside until {until}: {question.error or 'asked in vain'}"
            return Unconfirmed(name, text, is_blocked=True)
        if question.attempts:
            text = f"asked {question.attempts} times in vain: {question.error}"
            return Unconfirmed(name, text, is_blocked=True)
        return self._unasked(name, "it waits to be asked about")

    def _unasked(self, name: str, reason: str) -> Unconfirmed:
        if self.is_stuck:
            text = f"all {self.cluster.max_in_flight} seats are stuck behind locks"
            return Unconfirmed(name, text, is_blocked=True)
        return Unconfirmed(name, reason, is_blocked=False)

    def pull_look(self, found: Iterable[Request]) -> None:
        """Have looks go on while a request over a whole cluster waits for one."""
        cluster = self.cluster
        if cluster.failures or not list(found):
            return
        looked = cluster.looked_not_before
        is_unserved = any(
            it.scoped_at is None and (looked is None or looked <= it.requested_at) for it in found
        )
        soon = timedelta(seconds=0 if is_unserved else self.tuning.look_period_min)
        Cluster.objects.filter(pk=cluster.pk, next_look_at__gt=self.at + soon).update(
            next_look_at=self.at + soon
        )


def questions_of(cluster: Cluster, them: Sequence[Instance]) -> dict[str, Question]:
    """Return the questions about these instances, by uuid, or by name where they have none."""
    uuids, names = [it.uuid for it in them if it.uuid], [it.name for it in them if not it.uuid]
    is_it = Q(uuid__in=uuids) | Q(uuid=None, name__in=names)
    mine = Question.objects.filter(is_it, cluster=cluster)
    return {question.uuid or question.name: question for question in mine}


def question_of(cluster: Cluster, uuid: str | None, name: str) -> Question | None:
    mine = Question.objects.filter(cluster=cluster)
    return mine.filter(uuid=uuid).first() if uuid else mine.filter(uuid=None, name=name).first()


def is_absent(request: Request, *, at: datetime) -> bool:
    """Whether there is nobody of this name, by evidence that began after the request."""
    absent = request.absent_at
    return absent is not None and request.requested_at <= absent <= at
