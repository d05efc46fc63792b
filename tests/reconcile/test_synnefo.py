"""The scenarios that Synnefo published for its own reconciliation."""

import pytest

from proj.backend import Unreadable
from proj.inventory.models import Instance, Transition
from proj.observation import Configuration, JobEnd, Nic
from tests.reconcile.conftest import Engine


@pytest.mark.parametrize("running", [False, True])
def test_a_build_whose_job_is_open_and_whose_instance_is_not_there_yet_stays_a_build(
    engine: Engine, running: bool
) -> None:
    engine.backend.begin("vm1", "CREATE", running=running)
    for _ in range(3):
        engine.run()
        engine.clock.wait(100)
    assert engine.recorded() == {"vm1": "BUILD"}


def test_a_build_whose_job_failed_becomes_an_error_and_is_kept_until_proven_gone(
    engine: Engine,
) -> None:
    job_id = engine.backend.begin("vm1", "CREATE")
    engine.run()
    engine.backend.finish(job_id, JobEnd.FAILED)
    engine.clock.wait(5)
    engine.run()
    assert engine.recorded() == {"vm1": "ERROR"}
    engine.clock.wait(100)
    engine.look()
    assert engine.recorded() == {"vm1": "ERROR"}
    engine.run()
    assert engine.recorded() == {"vm1": "DELETED"}
    after = Transition.objects.filter(field="status").order_by("id").values_list("after", flat=True)
    assert list(after) == ["BUILD", "ERROR", "DELETED"]


def test_stopped_here_and_up_there_becomes_active(ten: Engine) -> None:
    ten.backend.truth["vm3"] = "ADMIN_down"
    ten.run()
    assert ten.recorded()["vm3"] == "STOPPED ADMIN_down"
    ten.backend.truth["vm3"] = "running"
    ten.run()
    assert ten.recorded()["vm3"] == "ACTIVE running"


def test_what_is_unknown_here_is_never_deleted_there(ten: Engine) -> None:
    ten.backend.truth["stranger"] = "running"
    before = dict(ten.backend.truth)
    ten.run()
    assert ten.backend.truth == before
    assert ten.recorded()["stranger"] == "ACTIVE running"


def test_changed_memory_vcpus_and_nics_are_recorded_while_the_status_stays(ten: Engine) -> None:
    nic = Nic("10.0.0.1", "aa:00:00:00:00:01", "bridged", "br0")
    made_of = Configuration(memory=8, vcpus=2, nics=(nic,))
    ten.backend.configuration["vm3"] = made_of
    ten.run()
    row = Instance.objects.get(name="vm3")
    assert (row.status, row.memory, row.vcpus) == ("ACTIVE", 8, 2)
    assert row.nics == [
        {"ip": "10.0.0.1", "mac": "aa:00:00:00:00:01", "mode": "bridged", "link": "br0"}
    ]


def test_a_record_that_cannot_be_read_is_kept_with_the_pass_and_harms_no_other(
    ten: Engine,
) -> None:
    ten.backend.unreadable = [Unreadable("vm3", "the state 'dancing' is not known")]
    ten.backend.hidden = {"vm3"}
    ten.backend.truth["vm4"] = "ERROR_down"
    done = ten.run()
    assert done.findings == [{"instance": "vm3", "problem": "the state 'dancing' is not known"}]
    assert ten.recorded()["vm3"] == "ACTIVE running"
    assert ten.recorded()["vm4"] == "STOPPED ERROR_down"


def test_where_even_a_name_cannot_be_read_nobody_is_missing(ten: Engine) -> None:
    ten.backend.unreadable = [Unreadable(None, "no name")]
    ten.backend.hidden = {"vm3"}
    for _ in range(3):
        ten.run()
        ten.clock.wait(100)
    assert ten.recorded()["vm3"] == "ACTIVE running"
