"""What a look costs, and how often there is one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from proj.inventory.models import Cluster, Instance, Pass, Query
from proj.reconcile import look, passes, queries
from proj.reconcile.leases import lease
from tests.reconcile.conftest import Engine, make_engine

pytestmark = pytest.mark.django_db(transaction=True)


def stable(size: int) -> Engine:
    """Return an engine whose cluster of so many instances is known and at rest."""
    engine = make_engine(f"c{size}")
    engine.backend.truth = {f"vm{number}": "running" for number in range(size)}
    engine.run(Pass.Kind.ALL)
    look_again(engine)
    return engine


def look_again(engine: Engine) -> None:
    engine.clock.wait(100)
    engine.look()


@contextmanager
def kept() -> Iterator[list[str]]:
    """Keep the text of every statement; Django's own capture has none of a prepared one."""
    said: list[str] = []

    def keep(execute: Callable[..., object], sql: str, *rest: object) -> object:
        said.append(sql)
        return execute(sql, *rest)

    with connection.execute_wrapper(keep):
        yield said


def look_counting(engine: Engine) -> tuple[int, list[str]]:
    """Take one look; return how often the database was addressed, and the statements."""
    engine.clock.wait(100)
    engine.follow()
    held_at = lease(engine.cluster.name, "look", 100, at=engine.clock())
    with CaptureQueriesContext(connection) as captured, kept() as said, held_at as held:
        assert held is not None
        look.look_at(
            held, engine.backend, engine.policy, engine.tuning, engine.clock, lambda _: None
        )
    return len(captured), said


def test_a_stable_look_costs_the_same_few_statements_at_any_size_and_writes_no_instance() -> None:
    (small, _), (large, said) = look_counting(stable(10)), look_counting(stable(100))
    assert small == large <= 6
    writes = [sql for sql in said if sql.startswith(("UPDATE", "INSERT", "DELETE"))]
    assert all("inventory_cluster" in sql.split("SET")[0] for sql in writes)


def test_a_change_that_the_brake_weighs_counts_no_rows() -> None:
    engine = make_engine()
    engine.backend.truth = {f"vm{number}": "running" for number in range(20)}
    engine.run(Pass.Kind.ALL)
    for number in range(6):
        engine.backend.truth[f"vm{number}"] = "ERROR_down"
    with kept() as said:
        assert engine.run(Pass.Kind.ALL).outcome == "reconciled"
    assert Pass.objects.latest("id").stopped == 6
    assert any("inventory_transition" in sql for sql in said)
    assert not any("COUNT" in sql and "inventory_transition" in sql for sql in said)


def test_a_poll_keeps_all_answers_by_one_statement() -> None:
    engine = make_engine()
    engine.backend.truth = {f"vm{number}": "running" for number in range(3)}
    passes.request(engine.cluster, kind=Pass.Kind.ALL, at=engine.clock())
    engine.look()
    engine.step()
    assert Query.objects.filter(state=Query.State.SUBMITTED).count() == 3
    with kept() as said:
        engine.step_losing()
    assert Query.objects.filter(state=Query.State.ANSWERED).count() == 3
    assert sum('"answer" =' in sql for sql in said if sql.startswith("UPDATE")) == 1


def test_a_stable_look_leaves_no_pass_behind() -> None:
    engine = stable(10)
    before = Pass.objects.count()
    look_again(engine)
    assert Pass.objects.count() == before


def test_a_row_that_changed_since_is_not_taken_for_stable() -> None:
    engine = stable(10)
    engine.ask("vm3")
    engine.backend.truth["vm3"] = "ERROR_down"
    engine.step()
    engine.step()
    assert engine.recorded()["vm3"] == "STOPPED ERROR_down"
    engine.backend.truth["vm3"] = "running"
    look_again(engine)
    engine.step()
    engine.step()
    assert engine.recorded()["vm3"] == "ACTIVE running"


def test_the_pace_is_fast_while_things_change_and_slows_down_between_bounds() -> None:
    engine = stable(10)
    paces = []
    for turn in range(6):
        engine.backend.truth["vm3"] = ("ERROR_down", "running")[turn % 2]
        look_again(engine)
        paces.append(engine.cluster.pace)
        engine.settle()
    assert paces[-1] == engine.tuning.look_period_min
    for _ in range(10):
        look_again(engine)
        paces.append(engine.cluster.pace)
    assert paces[-1] == engine.tuning.look_period
    assert sorted(paces[6:]) == paces[6:]


def test_a_failing_cluster_is_left_alone_longer_and_longer_and_over_restarts() -> None:
    engine = stable(10)
    engine.backend.is_down = True
    pauses = []
    for _ in range(12):
        engine.cluster.refresh_from_db()
        assert engine.cluster.next_look_at is not None
        engine.clock.wait((engine.cluster.next_look_at - engine.clock()).total_seconds() + 1)
        engine.look()
        pauses.append(engine.cluster.next_look_at - engine.clock())
    assert pauses[-1] > timedelta(seconds=140)
    assert engine.cluster.failures == 12


def test_an_instance_whose_queries_fail_is_asked_rarer_and_rarer(ten: Engine) -> None:
    Instance.objects.filter(name="vm3").update(
        ask_failures=3, ask_after=ten.clock() + timedelta(hours=1)
    )
    ten.backend.truth["vm3"] = "ERROR_down"
    ten.run()
    assert ten.recorded()["vm3"] == "ACTIVE running"
    ten.clock.wait(3601)
    ten.run()
    assert ten.recorded()["vm3"] == "STOPPED ERROR_down"
    assert Instance.objects.get(name="vm3").ask_failures == 0


def test_each_query_that_fails_for_good_doubles_the_wait_up_to_six_hours(ten: Engine) -> None:
    waits = []
    for _ in range(12):
        requested = ten.ask("vm3")
        queries.give_up(Query.objects.get(pass_of=requested), "no luck", at=ten.clock())
        row = Instance.objects.get(name="vm3")
        assert row.ask_after is not None
        waits.append((row.ask_after - ten.clock()).total_seconds())
    doubling = [min(60 * 2**number, 6 * 3600) for number in range(12)]
    assert all(most / 2 - 1 <= wait <= most for wait, most in zip(waits, doubling, strict=True))
    assert Instance.objects.get(name="vm3").ask_failures == 12


def test_an_instance_whose_query_failed_is_asked_again_without_any_drift(ten: Engine) -> None:
    Instance.objects.filter(name="vm3").update(
        ask_failures=1, ask_after=ten.clock() + timedelta(hours=1)
    )
    asked = len(ten.backend.jobs)
    ten.run()
    assert len(ten.backend.jobs) == asked
    ten.clock.wait(3601)
    ten.run()
    assert list(ten.backend.jobs.values())[asked:] == ["vm3"]
    assert Instance.objects.get(name="vm3").ask_failures == 0


def test_the_audit_confirms_the_oldest_first_within_the_hourly_budget() -> None:
    engine = stable(10)
    Cluster.objects.update(jobs_per_hour=4)
    engine.cluster.refresh_from_db()
    engine.clock.wait(13 * 3600)
    by_age = Instance.objects.order_by("confirmed_at", "pk")
    oldest = list(by_age.values_list("name", flat=True)[:4])
    asked = len(engine.backend.jobs)
    for _ in range(30):
        look_again(engine)
        engine.step()
        engine.step()
    assert list(engine.backend.jobs.values())[asked:] == oldest


def test_after_a_restart_the_clusters_are_not_looked_at_all_at_once() -> None:
    engines = [make_engine(f"c{number}") for number in range(20)]
    at = engines[0].clock()
    Cluster.objects.update(next_look_at=at - timedelta(hours=1))
    look.spread_herd(engines[0].tuning, at=at)
    turns = set(Cluster.objects.values_list("next_look_at", flat=True))
    assert len(turns) == 20
    assert all(at <= turn <= at + timedelta(seconds=60) for turn in turns)
