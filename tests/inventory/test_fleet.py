"""Which passes wait for an operator."""

import pytest

from proj.inventory.fleet import held_passes
from proj.inventory.models import Cluster, Pass
from tests.recorded import record_cluster, record_pass

pytestmark = pytest.mark.django_db(transaction=True)


def held() -> list[Pass]:
    return list(held_passes(Cluster.objects.all()))


def test_a_held_pass_waits_until_a_later_look_finds_the_world_in_order() -> None:
    cluster = record_cluster()
    waiting = record_pass(cluster, "held")
    assert held() == [waiting]
    record_pass(cluster, "reconciled")
    assert held() == []


def test_only_the_newest_of_a_cluster_waits() -> None:
    cluster, other = record_cluster(), record_cluster("beta")
    record_pass(cluster, "held")
    newest, others = record_pass(cluster, "held"), record_pass(other, "held")
    record_pass(record_cluster("gamma"), "in_sync")
    assert set(held()) == {newest, others}


@pytest.mark.parametrize(
    ("outcome", "kind", "state"),
    [("failed", "sweep", "closed"), ("reconciled", "requery", "closed"), ("", "sweep", "open")],
    ids=["failed", "over one instance", "not closed yet"],
)
def test_a_pass_that_tells_nothing_about_the_whole_cluster_leaves_it_waiting(
    outcome: str, kind: str, state: str
) -> None:
    cluster = record_cluster()
    waiting = record_pass(cluster, "held")
    record_pass(cluster, outcome, kind=kind, state=state)
    assert held() == [waiting]
