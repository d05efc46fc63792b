"""What must hold, always: functions over the world and the database.

Each returns sentences, one for each thing that is wrong; none where all is well.
"""

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain, pairwise
from typing import Any

from proj.ganeti.states import STATUS_OF_WORD
from proj.inventory.models import (
    Cluster,
    Hold,
    Installation,
    Instance,
    Job,
    Question,
    Request,
    Transition,
)
from proj.names import is_instance_name
from proj.observation import CONFIGURATION_FIELDS, Configuration, Status, to_json
from proj.reconcile.rows import OLDEST
from tests.world import queue
from tests.world.clock import BEGIN
from tests.world.engine import Engine
from tests.world.truth import Machine, Past
from tests.world.world import World

TRANSITIONAL = {Status.BUILD, Status.REBUILD, Status.RESIZE, Status.REBOOT, Status.HARD_REBOOT}
GONE = {Status.DELETED, Status.ERROR}
"""What one may be recorded as that Ganeti does not have, where no word is recorded with it."""
ENDS_ONLY = "ERROR_wrongnode"

Problems = Iterator[str]


# I1


def diverged(engine: Engine) -> list[str]:
    """I1: what is recorded, shown or waiting that is not as Ganeti has it, or ought not to be."""
    cluster, world = engine.cluster, engine.world
    rows = list(Instance.objects.filter(cluster=cluster))
    return [*_states(world, cluster, rows), *_leftovers(world, cluster, rows)]


def _states(world: World, cluster: Cluster, rows: list[Instance]) -> Problems:
    by_uuid = {row.uuid: row for row in rows if row.uuid}
    nameless = {row.name: row for row in rows if not row.uuid and row.status != Status.DELETED}
    tells = not world.faults.no_uuids
    seen: set[int] = set()
    for machine in world.truth.machines.values():
        row = by_uuid.get(machine.uuid) if tells else None
        row = row or (None if tells else nameless.get(machine.name))
        if row is not None:
            seen.add(row.pk)
        if not is_instance_name(machine.name):
            continue
        if row is None:
            if cluster.unknown == "adopt":
                yield f"{machine.name} is not recorded"
            continue
        yield from _compared(world, machine, row)
    for row in rows:
        if row.pk not in seen and row.status != Status.DELETED and not _is_explained(world, row):
            yield f"{row.name} ({row.uuid}) is recorded as {row.status}, and there is none"


def _is_explained(world: World, row: Instance) -> bool:
    """Whether there may be a row that Ganeti does not have."""
    if row.backend_status:
        return False
    if row.status == Status.ERROR:
        return True
    announced = Job.objects.filter(cluster=row.cluster, job_id=None)
    return row.name in _worked_on(world) or any(row.name in job.names for job in announced)


def _compared(world: World, machine: Machine, row: Instance) -> Problems:
    word = world.truth.listed(machine)
    status = STATUS_OF_WORD[word]
    if row.backend_status != word:
        yield f"{machine.name} is {word} and recorded as {row.backend_status or 'nothing'}"
    if row.status != status:
        allowed = _worked_on(world).get(machine.name, set())
        if row.status not in allowed:
            yield f"{machine.name} is {status} and recorded as {row.status}"
    if row.name != machine.name:
        yield f"{machine.name} is recorded under the name {row.name}"
    for name in CONFIGURATION_FIELDS:
        true = to_json(getattr(machine.configuration, name))
        if getattr(row, name) != true:
            yield f"{machine.name} has {name} {true}, and {getattr(row, name)} is recorded"


def _worked_on(world: World) -> dict[str, set[Status | None]]:
    """Return by name what open jobs are being done to an instance."""
    found: dict[str, set[Status | None]] = {}
    for job in world.queue.open():
        for work in job.work:
            found.setdefault(work.instance, set()).add(work.status)
    return found


def _leftovers(world: World, cluster: Cluster, rows: list[Instance]) -> Problems:
    for question in Question.objects.filter(cluster=cluster):
        yield f"a question about {question.name} is left: {question.error or 'no error'}"
    for request in Request.objects.filter(cluster=cluster, state="open"):
        yield f"request {request.pk} ({request.kind} {request.name}) is open"
    by_key = {row.uuid or row.name: row for row in rows}
    for hold in Hold.objects.filter(cluster=cluster, current=True):
        keys = [entry[0] for entry in hold.entries if isinstance(entry, list) and entry]
        if not any(str(key) in by_key for key in keys):
            yield f"hold {hold.pk} holds nobody"
        if hold.approved_at is not None:
            yield f"hold {hold.pk} is approved, and still there"
    for row in rows:
        is_unmade = row.status == Status.ERROR and not row.backend_status
        is_gone = row.status == Status.DELETED or is_unmade
        if not is_gone and is_instance_name(row.name):
            if row.differs or row.differs_since:
                yield f"{row.name}: a difference is kept: {row.differs}"
            if row.missing_first or row.missing_last:
                yield f"{row.name}: it is kept that lists lacked it"
    still_open = {job.number for job in world.queue.visible() if job.is_open}
    for job in Job.objects.filter(cluster=cluster):
        if job.job_id is None:
            yield f"an operation on {job.names} is announced"
        elif job.job_id not in still_open:
            yield f"job {job.job_id} is mirrored, and not open"


# I2 and I3


@dataclass
class Observer:
    """Watches every write: whatever is recorded must have been true when it says so."""

    engine: Engine
    _rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    _transition: int = 0
    _closed: set[int] = field(default_factory=set)
    _wishes: dict[int, tuple[int, datetime]] = field(default_factory=dict)
    """Of open requests: the epoch and the moment of the wish, where that did not lie ahead."""
    _harm: int = 0
    _forged: set[tuple[datetime, datetime]] = field(default_factory=set)
    """When somebody else's evidence says that it was read."""

    def forget(self) -> None:
        """Take what is kept now as it is: somebody else has written it, evidence too."""
        self._rows = self._read()
        self._forged |= set(_intervals_kept())
        self._forged |= {
            (row["observed_not_before"], row["observed_not_after"]) for row in self._rows.values()
        }
        self._transition = max(Transition.objects.values_list("pk", flat=True), default=0)
        self._closed = set(Request.objects.filter(state="closed").values_list("pk", flat=True))
        self._wishes = {}

    def check(self) -> list[str]:
        """I2 and I3: what was written since the last check, and is false."""
        now = self._read()
        problems: list[str] = []
        for key, row in now.items():
            before = self._rows.get(key, {})
            changed = {name for name in row if row[name] != before.get(name)}
            problems += self._false(row, changed)
        self._rows = now
        problems += self._false_transitions()
        problems += self._dishonest()
        problems += self._dated_back()
        problems += self.engine.world.harm[self._harm :]
        self._harm = len(self.engine.world.harm)
        return problems

    def _read(self) -> dict[int, dict[str, Any]]:
        mine = Instance.objects.filter(cluster__name=self.engine.name)
        return {row["id"]: dict(row) for row in mine.values()}

    def _false(self, row: dict[str, Any], changed: set[str]) -> Problems:
        told = changed & {"status", "backend_status", "name", *CONFIGURATION_FIELDS}
        is_unshown = not row["backend_status"] and row["status"] != Status.DELETED
        if not told or (is_unshown and row["status"] == Status.BUILD):
            return
        begin, end = row["observed_not_before"], row["observed_not_after"]
        if (begin, end) in self._forged or end == OLDEST:
            # It rests on what somebody else has written, or what it claimed was voided since.
            return
        pasts = self._pasts(row, begin, end)
        if pasts is None:
            yield (
                f"{row['name']}: it claims an interval that the clock never showed:"
                f" {sorted(told)} of {begin} to {end}"
            )
            return
        if changed & {"status", "backend_status"}:
            yield from self._false_state(row, changed, pasts)
        if row["status"] in GONE and not row["backend_status"]:
            return
        if not changed & {"observed_not_before", "observed_not_after"}:
            # Evidence that tells nothing of the state dates nothing: it is of since then.
            pasts = self._pasts(row, begin, self.engine.world.clock.peek()) or pasts
        for name in sorted(told - {"status", "backend_status"}):
            if row[name] is not None and not any(_has(past, name, row[name]) for past in pasts):
                yield f"{row['name']}: its {name} was never {row[name]} then"

    def _false_state(self, row: dict[str, Any], changed: set[str], pasts: list[Past]) -> Problems:
        name, status, word = row["name"], row["status"], row["backend_status"]
        if status in GONE and not word:
            is_there = bool(pasts) and all(past.exists for past in pasts)
            if is_there and not self._is_double(row):
                yield f"{name}: it is recorded as {status}, and was there all the time"
            return
        if status in TRANSITIONAL and STATUS_OF_WORD.get(word) != status:
            if not self._was_worked_on(row):
                yield f"{name}: it is recorded as {status}, and no job does that"
            if "backend_status" not in changed:
                return
        elif STATUS_OF_WORD.get(word) != status:
            yield f"{name}: {word} is not {status}"
        found = [past for past in pasts if word in (past.listed, past.told)]
        if not found:
            words = sorted({past.listed for past in pasts})
            yield f"{name}: it is recorded as {word}, and was {words}"
        elif all(past.half_done for past in found) and not self._is_settled(row, word, found):
            yield f"{name}: {word} was half of a job's work"

    def _is_double(self, row: dict[str, Any]) -> bool:
        """Whether this row without a uuid is about one that has a row of its own."""
        if row["uuid"] or not self.engine.world.has(row["name"]):
            return False
        uuid = self.engine.world.machine(row["name"]).uuid
        return Instance.objects.filter(cluster_id=row["cluster_id"], uuid=uuid).exists()

    def _is_settled(self, row: dict[str, Any], word: str, found: list[Past]) -> bool:
        """Whether what a job has half done lasted so long that lists may tell it."""
        if word == ENDS_ONLY:
            return False
        lasted = self.engine.world.clock.real - min(past.at for past in found)
        return lasted >= self.engine.policy.proof_within

    def _pasts(self, row: dict[str, Any], begin: datetime, end: datetime) -> list[Past] | None:
        clock, truth = self.engine.world.clock, self.engine.world.truth
        begins, ends = clock.real_moments(begin), clock.real_moments(end)
        pairs = [(one, other) for one in begins for other in ends if one <= other]
        if not pairs:
            return None
        if row["uuid"]:
            gone = [Past(BEGIN, exists=False)] if row["uuid"] not in truth.history else []
            return gone + [it for pair in pairs for it in truth.was(row["uuid"], *pair)]
        named = [it for pair in pairs for it in truth.was_named(row["name"], *pair)]
        return named or [Past(BEGIN, exists=False)]

    def _was_worked_on(self, row: dict[str, Any]) -> bool:
        """Whether a job of this status ran when the queue was last read, or does now."""
        world = self.engine.world
        read = self.engine.cluster.read_not_before
        since = min(world.clock.real_moments(read), default=BEGIN) if read else BEGIN
        names = {row["name"]} | {it.name for it in world.truth.history.get(row["uuid"], ())}
        jobs = [*world.queue.former, *world.queue.jobs.values()]
        does = any(
            work.status == row["status"] and work.instance in names
            for job in jobs
            if job.started is not None and (job.ended is None or job.ended >= since)
            for work in job.work
        )
        announced = Job.objects.filter(cluster=row["cluster_id"], announced=True)
        return does or any(not names.isdisjoint(job.names) for job in announced)

    def _false_transitions(self) -> Problems:
        """A word that a transition tells must have been somebody's at some time before it."""
        mine = Transition.objects.filter(
            instance__cluster__name=self.engine.name, pk__gt=self._transition
        )
        for it in mine.select_related("instance").order_by("pk"):
            self._transition = it.pk
            if it.field == "backend_status" and it.after:
                pasts = self.engine.world.truth.history.get(it.instance.uuid or "", [])
                if it.instance.uuid and not any(it.after in (p.listed, p.told) for p in pasts):
                    yield f"{it}: it never was"

    def _dated_back(self) -> Problems:
        """No request may seem to be older than its wish: older evidence would confirm it."""
        now = self.engine.world.clock.peek()
        wishes = {}
        mine = Request.objects.filter(cluster__name=self.engine.name)
        for pk, epoch, moment in mine.values_list("pk", "epoch", "requested_at"):
            before = self._wishes.get(pk)
            if before is not None and before[0] == epoch and moment < before[1]:
                yield f"request {pk} is dated back from {before[1]} to {moment}"
            if moment <= now:
                wishes[pk] = (epoch, moment)
        self._wishes = wishes

    def _dishonest(self) -> Problems:
        mine = Request.objects.filter(cluster__name=self.engine.name, state="closed")
        for request in mine.exclude(pk__in=self._closed):
            self._closed.add(request.pk)
            yield from dishonest(self.engine, request)


def _intervals_kept() -> Iterator[tuple[datetime, datetime]]:
    """Return every interval of evidence that the database keeps, in whatever place."""
    for model, names in ((Question, ("answer", "listed")), (Instance, ("differs",))):
        for values in model._default_manager.values_list(*names):
            yield from _intervals_in(values)


def _intervals_in(value: Any) -> Iterator[tuple[datetime, datetime]]:
    match value:
        case [str(begin), str(end)]:
            with suppress(ValueError):
                yield datetime.fromisoformat(begin), datetime.fromisoformat(end)
        case Mapping():
            yield from chain.from_iterable(map(_intervals_in, value.values()))
        case list() | tuple():
            yield from chain.from_iterable(map(_intervals_in, value))


def dishonest(engine: Engine, request: Request) -> Problems:
    """I3: what a request that has just been closed says, and is not so."""
    title = f"request {request.pk} ({request.kind} {request.name}) ended {request.outcome}"
    if request.kind == Request.Kind.PLAN:
        return
    if request.outcome not in ("in_sync", "reconciled"):
        if not (request.unconfirmed or request.error):
            yield f"{title} and does not say why"
        return
    if request.unconfirmed:
        yield f"{title} although {request.unconfirmed} were not confirmed"
    if request.closed_at is None or request.closed_at < request.requested_at:
        yield f"{title} before it was made"
        return
    if not _was_asked_since(engine.world, request.requested_at):
        yield f"{title} and nothing was asked since"
    rows = Instance.objects.filter(cluster=request.cluster)
    if request.kind == Request.Kind.INSTANCE:
        mine = {"uuid": request.uuid} if request.uuid else {"name": request.name}
        rows = rows.filter(**mine)
    for row in rows:
        yield from (f"{title}, but {it}" for it in _unconfirmed(engine, request, row))
    if request.kind != Request.Kind.INSTANCE:
        yield from _wrongly_named(request, title)


def _was_asked_since(world: World, moment: datetime) -> bool:
    since = min(world.clock.real_moments(moment), default=BEGIN)
    return any(it.method in ("look", "poll", "find") and it.at >= since for it in world.requests)


def _unconfirmed(engine: Engine, request: Request, row: Instance) -> Problems:
    """Say where a row was not true at any moment between the wish and its end."""
    clock, truth = engine.world.clock, engine.world.truth
    begin = min(clock.real_moments(request.requested_at), default=None)
    end = max(clock.real_moments(request.closed_at or request.requested_at), default=None)
    if begin is None or end is None:
        return
    uuid = row.uuid or ""
    pasts = [*truth.was(uuid, begin, end)] if uuid else [*truth.was_named(row.name, begin, end)]
    living = [past for past in pasts if past.exists]
    if row.status == Status.DELETED or (row.status == Status.ERROR and not row.backend_status):
        if pasts and len(living) == len(pasts):
            yield f"{row.name} is recorded as {row.status}, and was there all the time"
        return
    if not row.backend_status:
        return
    if not living:
        yield f"{row.name} is recorded as {row.status}, and was gone"
        return
    if not any(row.backend_status in (past.listed, past.told) for past in living):
        yield f"{row.name} is recorded as {row.backend_status}, and never was that since"
    told = set(CONFIGURATION_FIELDS)
    if request.kind == Request.Kind.INSTANCE:
        # A job confirms one instance, and what no job tells is for the next list.
        told -= engine.policy.list_fields
    for name in sorted(told):
        # None: nobody has told it yet, and nothing is claimed.
        value = getattr(row, name)
        if value is not None and not any(_has(past, name, value) for past in living):
            yield f"{row.name} has {name} {getattr(row, name)} recorded, and never had since"


def _wrongly_named(request: Request, title: str) -> Problems:
    mine = Transition.objects.filter(
        instance__cluster=request.cluster,
        pk__gt=request.first_transition,
        pk__lte=request.last_transition or 0,
    )
    if request.outcome == "in_sync" and mine.exists():
        yield f"{title}, but {mine.count()} transitions were its"


def _has(past: Past, name: str, value: Any) -> bool:
    if not past.exists:
        return False
    if name == "name":
        return bool(past.name == value)
    true = to_json(getattr(past.configuration or Configuration(), name))
    return bool(true == value)


# I4


def recorded(engine: Engine, *, without: Iterable[str] = ()) -> dict[str, tuple[Any, ...]]:
    """I4: what is recorded of all instances but some, to be compared between two runs."""
    left = set(without)
    columns = ("status", "backend_status", *CONFIGURATION_FIELDS)
    rows = Instance.objects.filter(cluster__name=engine.name).order_by("pk")
    return {
        f"{row.name} {row.uuid}": tuple(repr(getattr(row, name)) for name in columns)
        for row in rows
        if row.name not in left and row.uuid not in left
    }


# I5


def beyond_bounds(
    engine: Engine, *, without: Container[queue.Job] = (), asked_by_others: int = 0
) -> list[str]:
    """I5: what is more than may be, not counting some jobs of which we can know nothing."""
    return [*_beyond_bounds(engine, without, asked_by_others)]


def _beyond_bounds(engine: Engine, without: Container[queue.Job], asked_by_others: int) -> Problems:
    world, cluster = engine.world, engine.cluster
    ours = [
        job
        for job in world.queue.visible()
        if job.is_ours and job.is_open and not job.unreadable and job not in without
    ]
    # What was issued before the limit was lowered may end.
    most = max([cluster.max_in_flight, *(job.limit or 0 for job in ours)])
    if len(ours) > most:
        yield f"{len(ours)} jobs of ours are open, and {most} may be"
    uuids = set(world.truth.history)
    rows = Instance.objects.filter(cluster=cluster).count()
    asked = Question.objects.filter(cluster=cluster).count()
    if asked > 2 * (rows + len(uuids)) + asked_by_others:
        yield f"{asked} questions about {rows} instances"
    wishes = Request.objects.filter(cluster=cluster, state="open").count()
    if wishes > engine.tuning.open_requests:
        yield f"{wishes} requests are open"


def most_seats_of_one_node(engine: Engine) -> int:
    """Return how many of our open jobs ask about instances of one primary node.

    For scenes in which nothing moves: a claim counts by the node that was recorded then.
    """
    world = engine.world
    machines = (
        world.truth.expand(name)
        for job in world.our_jobs()
        for name in world.queries.names.get(job.number, ())
    )
    nodes = Counter(machine.node for machine in machines if machine is not None)
    return max(nodes.values(), default=0)


def most_jobs_within(world: World, seconds: float) -> int:
    """Return the most query jobs that we issued in any such time."""
    at = [it.at for it in world.requests if it.method == "submit_query"]
    return max(
        (sum(0 <= (it - begin).total_seconds() < seconds for it in at) for begin in at), default=0
    )


def longest_between_looks(world: World) -> float:
    """Return the most seconds between two lists that were asked for, until now."""
    at = [it.at for it in world.requests if it.method == "look"] + [world.clock.real]
    return max(((b - a).total_seconds() for a, b in pairwise(at)), default=0.0)


# I6


def restless(engine: Engine) -> list[str]:
    """I6: what one look, one reading and one beat do to a world at rest, beyond what they may."""
    problems = [*_does_too_much(engine, engine.look_now, "look", "look")]
    problems += _does_too_much(engine, engine.feed_now, "feed", "read_queue", "highest")
    if engine.messages:
        problems.append(f"messages were sent: {engine.messages}")
    return problems


def _does_too_much(engine: Engine, turn: Callable[[], None], name: str, *may: str) -> Problems:
    world = engine.world
    sent, rows = len(world.requests), _written()
    turn()
    methods = [it.method for it in world.requests[sent:]]
    if sorted(methods) != sorted(set(methods)) or not set(methods) <= set(may):
        yield f"a {name} at rest sent {methods}"
    for table, before in rows.items():
        now = _written()[table]
        if now != before:
            changed = [it for it in (*before, *now) if it not in before or it not in now]
            yield f"a {name} at rest wrote to {table}: {changed}"


def _written() -> dict[str, list[dict[str, Any]]]:
    """Return every row but those of clusters, where each turn leaves when it was taken."""
    tables = (Installation, Instance, Job, Question, Request, Hold, Transition)
    return {it.__name__: list(it._default_manager.order_by("pk").values()) for it in tables}
