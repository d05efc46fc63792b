"""Generated databases: each table filled with any rows that its constraints allow.

Some are about instances that exist, some are not; some are of this epoch, some are not; some
moments lie ahead. A moment is generated as ``Moment``, seconds from the time of filling.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import DatabaseError, models, transaction
from hypothesis import strategies as st

from proj.backend import BackendError, JobState
from proj.ganeti.states import STATUS_OF_WORD
from proj.inventory.models import (
    Cluster,
    Hold,
    Installation,
    Instance,
    Job,
    Priority,
    Question,
    Request,
    Transition,
)
from proj.observation import CONFIGURATION_FIELDS, Status
from tests.world.engine import Engine

TABLES: tuple[type[models.Model], ...] = (
    Installation,
    Cluster,
    Instance,
    Job,
    Question,
    Request,
    Hold,
    Transition,
)
"""In the order in which rows may be inserted."""

NAMES = ("web", "web.example.org", "WEB", "vm", "vm1", "vm11", "new", "New", "a" * 255, "..")
"""Some begin as others do, so that a name that is not matched whole shows."""

UUIDS = tuple(f"{made:08x}-0000-4000-8000-{1:012x}" for made in range(1, 9))
"""The first that a world of number 1 gives."""

SECONDS = (-4e8, -1e6, -90_000, -3600, -301, -70, -61, -10, -2, -0.5, 0, 0.5, 5, 60, 3600, 1e6, 3e8)


@dataclass(frozen=True, slots=True)
class Moment:
    """So many seconds from when it is written."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table, without its cluster."""

    table: str
    values: Mapping[str, Any]


moments = st.sampled_from(SECONDS).map(Moment)
maybe = st.none() | moments
epochs = st.sampled_from((0, 0, 0, 1, 2, 7))
names = st.sampled_from(NAMES)
uuids = st.sampled_from((None, *UUIDS, *UUIDS, "ffffffff-0000-4000-8000-000000000000"))
words = st.sampled_from(("", "ERROR_odd", *STATUS_OF_WORD))
statuses = st.sampled_from([status.value for status in Status])
job_ids = st.sampled_from((None, 0, 1, 2, 3, 4, 5, 10, 99, 2**40))
tokens = st.sampled_from(("", "", "", "0123456789abcdef"))
small = st.sampled_from((0, 0, 1, 2, 10, 1000))
operations = st.sampled_from(("CREATE", "REBOOT", "MIGRATE", "SHUTDOWN", "SET_PARAMS", "FEAST"))
errors = st.sampled_from(("", "job 1 was canceled"))


@st.composite
def intervals(draw: st.DrawFn) -> list[Moment]:
    """Return the begin and the end of an interval."""
    first, last = sorted((draw(moments), draw(moments)), key=lambda it: it.seconds)
    return [first, last]


nics = st.sampled_from(
    (
        [],
        [{"ip": None, "mac": "aa:00:00:00:00:01", "mode": "bridged", "link": "br0"}],
        [{"ip": "10.0.0.1"}],
        [3],
    )
)
OF_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "memory": st.sampled_from((None, 0, 4, 1024, 2048)),
    "vcpus": st.sampled_from((None, 0, 1, 64)),
    "disks": st.sampled_from((None, [], [10240], [10240, 1], ["x"])),
    "nics": st.none() | nics,
    "nodes": st.sampled_from((None, [], ["node1", "node2"], ["node2"], ["gone"])),
    "os": st.sampled_from((None, "", "noop", "debian")),
    "tags": st.sampled_from((None, [], ["a"], ["b", "a"])),
}
junk: st.SearchStrategy[Any] = st.sampled_from(
    (None, 0, "", [], {}, {"a": {}}, {"state": 3}, [[]], {"absent": []})
)
"""JSON that is of the right type, or of none that anybody wrote."""


@st.composite
def observations(draw: st.DrawFn) -> dict[str, Any]:
    """Return an observation as JSON keeps it: perhaps true, perhaps a lie, perhaps half of one."""
    seen: dict[str, Any] = {
        "instance": draw(names),
        "status": draw(st.none() | statuses),
        "backend_status": draw(words),
        "configuration": {name: draw(OF_FIELDS[name]) for name in CONFIGURATION_FIELDS},
        "evidence": draw(st.sampled_from(("list", "job", "foreign_job"))),
        "interval": draw(intervals()),
        "job_id": draw(job_ids),
        "uuid": draw(uuids),
    }
    if draw(st.integers(0, 4)) == 0:
        del seen[draw(st.sampled_from(sorted(seen)))]
    return seen


@st.composite
def differences(draw: st.DrawFn) -> dict[str, Any]:
    """Return kept differences: well formed, or not."""
    kept: dict[str, Any] = {}
    for name in sorted(
        draw(st.sets(st.sampled_from(("state", "name", *CONFIGURATION_FIELDS, "x"))))
    ):
        value: Any
        if name == "state":
            value = [draw(statuses), draw(words)]
        else:
            value = draw(OF_FIELDS.get(name, names))
        since = draw(moments)
        kept[name] = {
            "value": value,
            "since": since,
            "first": draw(st.one_of(st.just(since), moments)),
            "last": draw(intervals()),
            "acquittals": draw(small),
            "asleep_until": draw(maybe),
        }
        if draw(st.integers(0, 4)) == 0:
            kept[name] = draw(junk)
    return kept


@st.composite
def instances(draw: st.DrawFn) -> Row:
    """Return a row of an instance."""
    begin, end = draw(intervals())
    values = {name: draw(OF_FIELDS[name]) for name in CONFIGURATION_FIELDS}
    values |= {
        "uuid": draw(uuids),
        "name": draw(names),
        "status": draw(statuses),
        "backend_status": draw(words),
        "epoch": draw(epochs),
        "created_at": draw(moments),
        "observed_not_before": begin,
        "observed_not_after": end,
        "confirmed_at": draw(maybe),
        "audited_at": draw(maybe),
        "stale_before": draw(maybe),
        "differs": draw(differences() | junk.filter(lambda it: it is not None)),
        "differs_since": draw(maybe),
        "missing_first": draw(maybe),
        "missing_last": draw(maybe),
        "flapping_since": draw(maybe),
        "changes_since": draw(maybe),
        "changes_in_window": draw(small),
        "revision": draw(st.sampled_from((1, 2, 10**12))),
    }
    return Row("Instance", values)


@st.composite
def works(draw: st.DrawFn) -> list[Any]:
    """Return what a job does."""
    status = st.none() | statuses
    return draw(st.lists(st.tuples(names, operations, status).map(list) | junk, max_size=3))


@st.composite
def jobs(draw: st.DrawFn) -> Row:
    """Return a row of the mirror."""
    state = st.sampled_from((*(state.value for state in JobState), "odd", ""))
    values = {
        "job_id": draw(job_ids),
        "state": draw(state),
        "work": draw(works()),
        "names": draw(st.lists(names | st.just(3), max_size=2)),
        "uuids": draw(st.lists(uuids, max_size=2)),
        "is_query": draw(st.booleans()),
        "is_ours": draw(st.booleans()),
        "announced": draw(st.booleans()),
        "epoch": draw(epochs),
        "seen_first": draw(moments),
        "seen_last": draw(moments),
        "running_since": draw(maybe),
        "unstarted_at": draw(maybe),
    }
    return Row("Job", values)


@st.composite
def questions(draw: st.DrawFn) -> Row:
    """Return a question: held, answered, forgotten, or put off for years."""
    listed = st.fixed_dictionaries({"first": moments, "seen": observations()})
    absent = st.fixed_dictionaries({"absent": intervals()})
    values = {
        "uuid": draw(uuids),
        "name": draw(names),
        "priority": draw(st.sampled_from([it.value for it in Priority])),
        "epoch": draw(epochs),
        "wanted_since": draw(moments),
        "newer_than": draw(moments),
        "listed": draw(st.none() | listed | junk),
        "token": draw(tokens),
        "claimed_at": draw(maybe),
        "job_id": draw(job_ids),
        "answer": draw(st.none() | observations() | absent | junk),
        "attempts": draw(small),
        "retry_at": draw(maybe),
        "overridden_at": draw(maybe),
        "error": draw(errors),
    }
    return Row("Question", values)


@st.composite
def requests(draw: st.DrawFn) -> Row:
    """Return a request, open or closed."""
    is_open = draw(st.booleans())
    outcome = st.sampled_from([it.value for it in Request.Outcome])
    values = {
        "kind": draw(st.sampled_from([it.value for it in Request.Kind])),
        "name": draw(names | st.just("")),
        "uuid": draw(uuids),
        "state": "open" if is_open else "closed",
        "outcome": "" if is_open else draw(outcome),
        "epoch": draw(epochs),
        "requested_at": draw(moments),
        "scoped_at": draw(maybe),
        "absent_at": draw(maybe),
        "blocked_since": draw(maybe),
        "closed_at": draw(maybe),
        "unconfirmed": draw(junk.filter(lambda it: it is not None)),
        "planned": draw(junk.filter(lambda it: it is not None)),
        "first_transition": draw(small),
        "last_transition": draw(job_ids),
        "error": draw(errors),
    }
    return Row("Request", values)


@st.composite
def holds(draw: st.DrawFn) -> Row:
    """Return a hold of anybody."""
    key = st.sampled_from((*UUIDS, *NAMES))
    entry = st.tuples(key, names, statuses, statuses).map(list)
    values = {
        "digest": draw(st.sampled_from(("", "a" * 64, "b" * 64))),
        "entries": draw(st.lists(entry | junk, max_size=4)),
        "reason": "many",
        "epoch": draw(epochs),
        "since": draw(moments),
        "seen_at": draw(moments),
        "current": draw(st.booleans()),
        "approved_at": draw(maybe),
    }
    return Row("Hold", values)


@st.composite
def transitions(draw: st.DrawFn) -> Row:
    """Return a transition of one of the instances; ``of`` tells which."""
    values = {
        "of": draw(st.integers(0, 9)),
        "field": draw(st.sampled_from(("status", "backend_status", "memory", "name"))),
        "before": draw(st.none() | statuses),
        "after": draw(st.none() | statuses),
        "backend_status": draw(words),
        "rule": "job-convicts",
        "source": "job",
        "job_id": draw(job_ids),
        "at": draw(moments),
        "folded": draw(small),
    }
    return Row("Transition", values)


LEASES = ("look", "follow", "await")


@st.composite
def clusters(draw: st.DrawFn) -> Row:
    """Return what is left of turns in the cluster's row."""
    values: dict[str, Any] = {
        "epoch": draw(epochs),
        "generation": draw(st.sampled_from(("", "another"))),
        "version": draw(st.sampled_from((1, 2, 10**9))),
        "pace": draw(st.sampled_from((None, -1.0, 0.0, 10.0, 60.0, 1e12))),
        "agreed_digest": draw(st.sampled_from(("", "f" * 64))),
        "agreed_revisions": draw(small),
        "findings": draw(junk.filter(lambda it: it is not None)),
        "feed_after": draw(job_ids),
        "audit_tokens": draw(st.sampled_from((-1e9, 0.0, 1.0, 1e9))),
        "set_aside": draw(small),
        "last_error": draw(errors),
    }
    for name in (
        "moment", "next_look_at", "feed_gap_since", "next_follow_at", "asked_at", "audit_at",
        "next_ask_at", "settled_at", "followed_since", "listed_at",
    ):  # fmt: skip
        values[name] = draw(maybe)
    for name in ("looked", "read"):
        pair = draw(st.just([None, None]) | intervals() | st.tuples(maybe, maybe).map(list))
        values[f"{name}_not_before"], values[f"{name}_not_after"] = pair
    for name in LEASES:
        values[f"{name}_until"], values[f"{name}_token"] = draw(maybe), draw(tokens)
    for name in (
        "looks", "listed", "failures", "feeds", "follow_failures", "unreadable_jobs", "asked",
        "ask_failures",
    ):  # fmt: skip
        values[name] = draw(small)
    kept = draw(st.sets(st.sampled_from(sorted(values))))
    return Row("Cluster", {name: values[name] for name in sorted(kept)})


installations = st.sampled_from(("", "another")).map(
    lambda it: Row("Installation", {"generation": it})
)


def rows() -> st.SearchStrategy[Row]:
    """Return any one row of any table."""
    return st.one_of(
        instances(), jobs(), questions(), requests(), holds(), transitions(), clusters(),
        installations,
    )  # fmt: skip


def databases(most: int = 6) -> st.SearchStrategy[list[Row]]:
    """Return rows of all tables, so many of each at most, those of instances first."""
    several = [
        st.lists(strategy, max_size=size)
        for strategy, size in (
            (instances(), most), (jobs(), most), (questions(), most), (requests(), 3),
            (holds(), 2), (transitions(), 3), (clusters(), 1), (installations, 1),
        )
    ]  # fmt: skip
    return st.tuples(*several).map(lambda lists: [row for them in lists for row in them])


def fill(engine: Engine, generated: list[Row]) -> int:
    """Write generated rows; those that the constraints forbid are left out.

    Returns:
        How many were written.
    """
    return sum(_write(engine, row) for row in generated)


def lie(engine: Engine) -> None:
    """Say of whatever the list has now that it agreed with the rows, though it may not."""
    mine = Instance.objects.filter(cluster__name=engine.name)
    revisions = mine.aggregate(sum=models.Sum("revision"))["sum"] or 0
    try:
        look = engine.world.backend().look()
    except BackendError:
        return
    Cluster.objects.filter(name=engine.name).update(
        agreed_digest=look.digest, agreed_revisions=revisions
    )


def _write(engine: Engine, row: Row) -> bool:
    now = engine.world.clock.peek()

    def at(value: Any, *, in_json: bool) -> Any:
        match value:
            case Moment(seconds):
                moment = now + timedelta(seconds=seconds)
                return moment.isoformat() if in_json else moment
            case dict():
                return {name: at(it, in_json=True) for name, it in value.items()}
            case list() | tuple():
                return [at(it, in_json=True) for it in value]
            case _:
                return value

    values = {name: at(value, in_json=False) for name, value in row.values.items()}
    with suppress(DatabaseError, Cluster.DoesNotExist), transaction.atomic():
        return _insert(engine, row.table, values)
    return False


def _insert(engine: Engine, table: str, values: dict[str, Any]) -> bool:
    match table:
        case "Installation":
            Installation.objects.create(**values)
        case "Cluster":
            return bool(Cluster.objects.filter(name=engine.name).update(**values))
        case "Transition":
            mine = list(Instance.objects.filter(cluster__name=engine.name).order_by("pk"))
            place = values.pop("of")
            if not mine:
                return False
            Transition.objects.create(instance=mine[place % len(mine)], **values)
        case _:
            model = next(it for it in TABLES if it.__name__ == table)
            model._default_manager.create(cluster=engine.cluster, **values)
    return True


class Backup:
    """A copy of the whole database, to be restored while workers live."""

    def __init__(self) -> None:
        self._rows = {model: list(model._default_manager.values()) for model in TABLES}

    def restore(self, *, is_told: bool) -> None:
        """Bring the copy back; ``is_told``: by the command that says so."""
        with transaction.atomic():
            clear()
            for model in TABLES:
                made = [model(**values) for values in self._rows[model]]
                model._default_manager.bulk_create(made, batch_size=100)
            if is_told:
                Installation.objects.all().delete()
                Installation.objects.create()


def clear() -> None:
    """Remove every row of every table."""
    for model in reversed(TABLES):
        model._default_manager.all().delete()


def remove_row(table: int, place: int) -> None:
    """Remove one row by hand; not of a cluster."""
    models_ = [model for model in TABLES if model is not Cluster]
    manager = models_[table % len(models_)]._default_manager
    keys = list(manager.order_by("pk").values_list("pk", flat=True))
    if keys:
        manager.filter(pk=keys[place % len(keys)]).delete()
