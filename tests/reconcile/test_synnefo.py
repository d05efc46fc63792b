"""The scenarios that Synnefo published for its own reconciliation."""

import pytest

from proj.observation import Nic
from tests.reconcile.conftest import Stage


def test_a_build_whose_job_runs_and_whose_instance_is_not_listed_yet_stays_a_build(
    empty: Stage,
) -> None:
    empty.world.begin_create("vm1")
    empty.world.faults.missing.add("vm1")
    empty.go_on(300, step=2)
    assert empty.recorded() == {"vm1": "BUILD"}


def test_a_build_whose_job_is_queued_is_nobody_yet(empty: Stage) -> None:
    job = empty.world.begin_create("vm1", held=True, seconds=1)
    empty.go_on(100, step=2)
    assert empty.recorded() == {}
    empty.world.release(job)
    empty.go_on(20)
    assert empty.recorded() == {"vm1": "ACTIVE running"}


def test_a_build_whose_job_failed_and_left_nothing_becomes_an_error_by_proof(empty: Stage) -> None:
    job = empty.world.begin_create("vm1")
    empty.go_on(5)
    assert empty.recorded()["vm1"].split()[0] == "BUILD"
    with empty.world.at_once():
        empty.world.finish(job, "error", leaving="before")
    empty.engine.feed_now()
    assert empty.recorded()["vm1"].split()[0] == "BUILD"
    empty.go_on(60)
    assert [after for _, after, _ in empty.trail("vm1")][-1] in ("ERROR", "DELETED")


def test_stopped_here_and_up_there_becomes_active(ten: Stage) -> None:
    ten.world.stop("vm3")
    ten.run()
    assert ten.recorded()["vm3"] == "STOPPED ADMIN_down"
    ten.world.start("vm3")
    ten.run()
    assert ten.recorded()["vm3"] == "ACTIVE running"


def test_what_is_unknown_here_is_never_deleted_there(ten: Stage) -> None:
    ten.world.create("stranger")
    before = ten.world.names()
    ten.run()
    assert ten.world.names() == before
    assert not ten.world.harm
    assert ten.recorded()["stranger"] == "ACTIVE running"


def test_changed_memory_vcpus_and_nics_are_recorded_while_the_status_stays(ten: Stage) -> None:
    nic = Nic("10.0.0.1", "aa:00:00:00:00:01", "bridged", "br0")
    ten.world.change("vm3", memory=8, vcpus=2, nics=(nic,))
    ten.run()
    row = ten.row("vm3")
    assert (row.status, row.memory, row.vcpus) == ("ACTIVE", 8, 2)
    assert row.nics == [
        {"ip": "10.0.0.1", "mac": "aa:00:00:00:00:01", "mode": "bridged", "link": "br0"}
    ]


def test_a_record_that_cannot_be_read_is_named_and_harms_no_other(ten: Stage) -> None:
    ten.world.faults.unreadable.add("vm3")
    ten.world.crash("vm3", "vm4")
    ten.go_on(70)
    assert [it["instance"] for it in ten.engine.cluster.findings] == ["vm3"]
    assert ten.recorded()["vm3"] == "ACTIVE running"
    assert ten.recorded()["vm4"] == "STOPPED ERROR_down"


def test_a_record_that_only_says_whom_it_is_about_keeps_nobody_else_from_being_gone(
    ten: Stage,
) -> None:
    ten.world.faults.unreadable.add("vm0")
    ten.world.remove("vm3")
    ten.go_on(200, step=2)
    assert ten.recorded()["vm3"] == "DELETED"
    assert ten.recorded()["vm0"] == "ACTIVE running"


@pytest.mark.parametrize("spoil", ["nameless", "uuidless", "twice"])
def test_where_a_list_is_not_complete_nobody_is_missing(ten: Stage, spoil: str) -> None:
    faults = ten.world.faults
    match spoil:
        case "nameless":
            faults.nameless = 1
        case "uuidless":
            faults.uuidless.add("vm4")
        case _:
            faults.twice.add("vm4")
    ten.world.remove("vm3")
    ten.go_on(200, step=2)
    assert ten.recorded()["vm3"] == "ACTIVE running"
    faults.stop()
    ten.go_on(60)
    assert ten.recorded()["vm3"] == "DELETED"
