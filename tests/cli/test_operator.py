"""What an operator decides by command: mass changes that are held, and a database restored."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from proj.clock import now, server
from proj.inventory.models import Hold, Installation
from tests.commands import command, is_one_clear_line
from tests.recorded import record_cluster, record_hold

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def queue() -> Iterator[str]:
    """The queue to which looks are sent, empty."""
    server().delete("ganeti")
    yield "ganeti"
    server().delete("ganeti")


def test_what_is_held_is_listed_with_each_change() -> None:
    assert command("approve").out == "nothing is held\n"
    hold = record_hold(record_cluster(), "vm1", "vm2")
    assert command("approve").out == (
        f"{hold.pk} alpha: 2 of 10 instances would become DELETED:"
        " vm1 ACTIVE -> DELETED, vm2 ACTIVE -> DELETED\n"
    )
    (told,) = command("approve", "--json").json["holds"]
    assert (told["id"], told["cluster"], told["reason"]) == (hold.pk, "alpha", hold.reason)
    assert told["changes"][1] == {"instance": "vm2", "from": "ACTIVE", "to": "DELETED"}
    assert not Hold.objects.exclude(approved_at=None).exists()


def test_what_is_approved_is_said_and_is_looked_at_anew(queue: str) -> None:
    cluster = record_cluster()
    hold = record_hold(cluster, "vm1")
    other = record_hold(cluster, "vm2", digest="e" * 64)
    done = command("approve", str(hold.pk))
    assert (done.code, done.error) == (0, "")
    assert done.out == "alpha: 1 changes may pass: vm1 ACTIVE -> DELETED\n"
    assert server().llen(queue) == 1
    assert list(Hold.objects.filter(approved_at=None)) == [other]
    assert command("approve").out.startswith(f"{other.pk} alpha: ")


def test_of_many_changes_the_first_are_named_and_the_others_counted(queue: str) -> None:
    hold = record_hold(record_cluster(), *(f"vm{number:02}" for number in range(23)))
    out = command("approve", str(hold.pk)).out
    assert out.startswith("alpha: 23 changes may pass: vm00 ACTIVE -> DELETED, ")
    assert out.endswith("vm19 ACTIVE -> DELETED and 3 more\n")


def test_what_no_look_has_found_for_long_cannot_be_approved(queue: str) -> None:
    old = record_hold(
        record_cluster(), "vm1", current=False, seen_at=now() - timedelta(hours=1, minutes=1)
    )
    assert is_one_clear_line(command("approve", str(old.pk)), 2, f"hold {old.pk} is over")
    nobody = str(old.pk + 1)
    assert is_one_clear_line(
        command("approve", nobody), 2, f"no hold {nobody}", "manage.py approve"
    )
    assert not Hold.objects.exclude(approved_at=None).exists()
    assert server().llen(queue) == 0


def test_after_a_restore_the_database_is_another() -> None:
    seen = set(Installation.objects.values_list("generation", flat=True))
    for _ in range(2):
        assert is_one_clear_line(command("restored"), 0, "begins anew")
        generation = Installation.objects.get().generation
        assert generation not in seen
        seen.add(generation)
