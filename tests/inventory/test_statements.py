"""The hot path's statements say what the ORM says, on whichever database."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models import Model
from django.forms.models import model_to_dict

from proj.inventory import statements
from proj.inventory.models import Cluster, Instance, Question, Transition
from tests.recorded import record_cluster, record_instance

pytestmark = pytest.mark.django_db(transaction=True)

NOON = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
NASTY = 'it\'s 100 % "quoted" \\ and ü'


def columns(row: Model) -> dict[str, Any]:
    return {field.attname: getattr(row, field.attname) for field in row._meta.concrete_fields}


@pytest.fixture
def cluster() -> Cluster:
    cluster = record_cluster()
    Cluster.objects.filter(pk=cluster.pk).update(
        certificate=NASTY, confirm_max_age=timedelta(hours=25, microseconds=1), pace=0.1,
        looked_not_before=NOON, paused=True,
    )  # fmt: skip
    return Cluster.objects.get(pk=cluster.pk)


@pytest.fixture
def instance(cluster: Cluster) -> Instance:
    row = record_instance(cluster, "vm1")
    Instance.objects.filter(pk=row.pk).update(
        nics=[{"ip": None, "mac": NASTY}], disks=[1, 2], nodes=[], confirmed_at=NOON
    )
    return Instance.objects.get(pk=row.pk)


@pytest.fixture
def question(cluster: Cluster, instance: Instance) -> Question:
    return Question.objects.create(
        cluster=cluster, name=instance.name, priority=2, answer={"word": NASTY}, token="mine",
        wanted_since=NOON, newer_than=NOON,
    )  # fmt: skip


def test_a_row_is_found_as_the_orm_finds_it(instance: Instance, cluster: Cluster) -> None:
    found = statements.find(Instance, cluster=cluster.pk, name="vm1")
    assert found is not None
    assert (found, columns(found)) == (instance, columns(instance))


def test_related_rows_come_by_the_same_statement(
    question: Question, django_assert_num_queries: Any
) -> None:
    with django_assert_num_queries(1):
        found = statements.find(Question, "cluster", pk=question.pk)
        assert found is not None
        alike = (columns(found), columns(found.cluster))
    assert alike == (columns(Question.objects.get()), columns(Cluster.objects.get()))


def test_what_is_not_there_is_not_found(cluster: Cluster) -> None:
    assert statements.find(Instance, cluster=cluster.pk, name="vm2") is None
    assert not statements.exists(Instance, cluster=cluster.pk)


def test_a_condition_may_be_one_of_several_values(question: Question) -> None:
    cluster = question.cluster_id
    assert statements.exists(Question, cluster=cluster, priority=(1, 2))
    assert not statements.exists(Question, cluster=cluster, priority=(0, 1))
    assert not statements.exists(Question, cluster=0, priority=(1, 2))


def test_values_are_written_as_the_orm_writes_them(instance: Instance) -> None:
    values = {
        "status": "STOPPED", "backend_status": NASTY, "disks": [3], "nics": None, "memory": None,
        "nodes": ["n1"], "observed_not_after": NOON + timedelta(days=900), "audited_at": NOON,
    }  # fmt: skip
    assert statements.update(Instance, values, pk=instance.pk, revision=instance.revision) == 1
    ours = columns(Instance.objects.get())
    Instance.objects.filter(pk=instance.pk).update(**values)
    assert ours == columns(Instance.objects.get())
    assert ours["backend_status"] == NASTY


def test_a_row_that_does_not_meet_every_condition_stays_as_it_is(instance: Instance) -> None:
    missed = statements.update(Instance, {"status": "ERROR"}, pk=instance.pk, revision=77)
    assert (missed, Instance.objects.get().status) == (0, instance.status)


def test_postgresql_keeps_the_plan_of_a_statement(question: Question) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("SQLite keeps no plans")

    def uses() -> int:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT COALESCE(SUM(generic_plans + custom_plans), 0) FROM pg_prepared_statements"
            )
            return int(cursor.fetchone()[0])

    # The first uses may come before it is worth keeping.
    for _ in range(3):
        statements.find(Question, "cluster", pk=question.pk)
    before = uses()
    for _ in range(4):
        statements.find(Question, "cluster", pk=question.pk)
    assert uses() == before + 4


def test_each_of_several_rows_gets_its_own_values(question: Question) -> None:
    others = [
        Question.objects.create(
            cluster=question.cluster, name=name, priority=2, token="theirs",
            wanted_since=NOON, newer_than=NOON,
        )
        for name in ("vm2", "vm3")
    ]  # fmt: skip
    statements.update_each(
        Question,
        [
            ({"answer": {"number": number}, "claimed_at": NOON}, {"pk": row.pk, "token": token})
            for number, (row, token) in enumerate(
                zip((question, *others), ("mine", "theirs", "nobody's"), strict=True)
            )
        ],
    )
    answers = dict(Question.objects.values_list("name", "answer"))
    assert answers == {"vm1": {"number": 0}, "vm2": {"number": 1}, "vm3": None}


def test_rows_are_inserted_as_the_orm_inserts_them(instance: Instance) -> None:
    def made() -> list[Transition]:
        return [
            Transition(instance=instance, field=field, before=before, after=NASTY, at=NOON)
            for field, before in (("status", None), ("disks", [1, 2]))
        ]

    statements.insert(made())
    ours = [model_to_dict(row, exclude=["id"]) for row in Transition.objects.order_by("id")]
    Transition.objects.all().delete()
    Transition.objects.bulk_create(made())
    assert ours == [model_to_dict(row, exclude=["id"]) for row in Transition.objects.order_by("id")]
    statements.insert([])
    assert Transition.objects.count() == 2
