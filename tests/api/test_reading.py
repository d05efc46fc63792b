"""What the API tells of what is recorded."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from proj.clock import now
from proj.inventory.models import Instance, Job
from proj.reconcile.rows import OLDEST
from tests.recorded import (
    record_change,
    record_cluster,
    record_fleet,
    record_hold,
    record_instance,
    record_job,
)

pytestmark = pytest.mark.django_db(transaction=True)

UUID = "8a0c3f52-6f0b-4d0e-9b53-0f2a4c1d7e66"
NIC = {"ip": "192.0.2.7", "mac": "aa:00:00:00:00:07", "mode": "bridged", "link": "br0"}


def get(caller: Client, url: str, status: int = 200) -> Any:
    answer = caller.get(url)
    assert answer.status_code == status, answer.content
    return answer.json()


def is_same(told: str, then: datetime | None) -> bool:
    """Whether a time was told, to the millisecond."""
    assert then is not None
    return abs(datetime.fromisoformat(told) - then) < timedelta(milliseconds=1)


def test_a_cluster_is_told_with_what_its_instances_add_up_to(caller: Client) -> None:
    cluster = record_cluster(jobs_per_hour=1, failures=2, last_error="nothing listens")
    for number in range(30):
        record_instance(cluster, f"vm{number}")
    record_instance(cluster, "old", confirmed_at=now() - timedelta(hours=30))
    record_instance(cluster, "gone", status="DELETED", confirmed_at=now() - timedelta(days=900))
    hold = record_hold(cluster, "vm1")
    record_cluster("beta")
    told = get(caller, "/api/v1/clusters/alpha")
    assert told["instances"] == {"ACTIVE": 31, "DELETED": 1}
    assert (told["overdue"], told["flapping"], told["holds"]) == (1, 0, [hold.pk])
    assert (told["failures"], told["last_error"]) == (2, "nothing listens")
    assert "confirm each only every 31 h, not every 24 h" in told["audit"]
    oldest = datetime.fromisoformat(told["oldest_confirmation"])
    assert timedelta(hours=30) <= now() - oldest < timedelta(hours=31)
    assert (told["is_queue_read"], told["stuck_jobs"], told["epoch"]) == (True, 0, 0)
    assert [it["name"] for it in get(caller, "/api/v1/clusters")["clusters"]] == ["alpha", "beta"]
    assert get(caller, "/api/v1/clusters")["clusters"][0] == told


def test_an_instance_is_told_with_its_configuration_and_how_old_the_knowledge_is(
    caller: Client,
) -> None:
    cluster = record_cluster()
    instance = record_instance(
        cluster, "vm1.example.com", memory=512, vcpus=2, disks=[1024], nics=[NIC],
        nodes=["node1", "node2"], os="debootstrap+default", tags=["web"], status="REBOOT",
        uuid=UUID, api_id=UUID,
    )  # fmt: skip
    record_job(cluster, "vm1.example.com", "REBOOT")
    told = get(caller, "/api/v1/clusters/alpha/instances/vm1.example.com")
    assert told["configuration"] == {
        "memory": 512, "vcpus": 2, "disks": [1024], "nics": [NIC], "nodes": ["node1", "node2"],
        "os": "debootstrap+default", "tags": ["web"],
    }  # fmt: skip
    assert (told["status"], told["task_state"]) == ("REBOOT", "REBOOT")
    assert (told["cluster"], told["backend_status"]) == ("alpha", "running")
    assert (told["uuid"], told["id"]) == (UUID, UUID)
    assert is_same(told["confirmed_at"], instance.confirmed_at)
    assert is_same(told["observed_at"], cluster.looked_not_after)


def test_an_instance_at_rest_has_no_task_state(caller: Client) -> None:
    cluster = record_cluster()
    record_instance(cluster, "vm1")
    record_job(cluster, "vm1", "REBOOT", state="ended")
    record_job(cluster, "vm11", "REBOOT")
    assert get(caller, "/api/v1/clusters/alpha/instances/vm1")["task_state"] is None


def test_of_a_queue_that_cannot_be_read_no_operation_is_told(caller: Client) -> None:
    cluster = record_cluster(read_not_after=now() - timedelta(minutes=5))
    record_instance(cluster, "vm1")
    record_job(cluster, "vm1", "REBOOT")
    assert get(caller, "/api/v1/clusters/alpha/instances/vm1")["task_state"] is None


def test_a_cluster_may_have_a_domain_name(caller: Client) -> None:
    record_instance(record_cluster("gnt1.example.com"), "vm1")
    url = "/api/v1/clusters/gnt1.example.com/instances/vm1"
    assert get(caller, url)["cluster"] == "gnt1.example.com"


def test_of_a_name_that_was_used_twice_the_one_that_lives_is_told(caller: Client) -> None:
    cluster = record_cluster()
    record_instance(cluster, "vm1", status="DELETED", uuid=UUID)
    assert get(caller, "/api/v1/clusters/alpha/instances/vm1")["status"] == "DELETED"
    record_instance(cluster, "vm1", uuid=UUID.replace("8", "9"))
    assert get(caller, "/api/v1/clusters/alpha/instances/vm1")["status"] == "ACTIVE"


def test_what_is_held_is_told_with_each_change(caller: Client) -> None:
    hold = record_hold(record_cluster(), "vm1", "vm2")
    (told,) = get(caller, "/api/v1/clusters/alpha/holds")["holds"]
    assert (told["id"], told["reason"]) == (hold.pk, hold.reason)
    assert told["changes"][0] == {"instance": "vm1", "from": "ACTIVE", "to": "DELETED"}


def test_instances_come_in_pages_of_those_with_the_status_asked_for(caller: Client) -> None:
    cluster = record_cluster()
    for number in range(5):
        record_instance(cluster, f"vm{number}", status=("STOPPED", "ACTIVE")[number % 2])
    record_instance(record_cluster("beta"), "other", status="STOPPED")
    url, names = "/api/v1/clusters/alpha/instances?status=STOPPED&limit=2", []
    while url:
        told = get(caller, url)
        names.append([it["name"] for it in told["instances"]])
        url = told["next"]
    assert names == [["vm0", "vm2"], ["vm4"]]
    assert len(get(caller, "/api/v1/clusters/alpha/instances")["instances"]) == 5


def test_a_name_that_was_used_three_times_is_told_three_times_in_pages_too(caller: Client) -> None:
    cluster = record_cluster()
    for number in range(3):
        uuid = UUID.replace("8", str(number))
        record_instance(cluster, "vm1", uuid=uuid, status=("DELETED", "ACTIVE")[number // 2])
    url, found = "/api/v1/clusters/alpha/instances?limit=1", []
    while url:
        told = get(caller, url)
        found += [it["uuid"][0] for it in told["instances"]]
        url = told["next"]
    assert found == ["0", "1", "2"]
    rest = get(caller, "/api/v1/clusters/alpha/instances?after=vm1")
    assert rest == {"instances": [], "next": None}


def test_what_nobody_has_read_since_the_clock_jumped_was_not_observed(caller: Client) -> None:
    cluster = record_cluster()
    values = {"observed_not_before": OLDEST, "observed_not_after": OLDEST, "confirmed_at": None}
    record_instance(cluster, "vm1", **values)
    record_instance(cluster, "vm2", missing_first=now(), missing_last=now(), **values)
    told = get(caller, "/api/v1/clusters/alpha/instances")["instances"]
    assert is_same(told[0]["observed_at"], cluster.looked_not_after)
    assert told[1]["observed_at"] is None


def test_what_has_begun_is_told_before_what_only_waits(caller: Client) -> None:
    cluster = record_cluster()
    record_instance(cluster, "vm1")
    record_job(cluster, "vm1", "MIGRATE")
    record_job(cluster, "vm1", "SHUTDOWN", state="queued")
    url = "/api/v1/clusters/alpha/instances/vm1"
    assert get(caller, url)["task_state"] == "MIGRATE"
    Job.objects.filter(state="running").delete()
    assert get(caller, url)["task_state"] == "SHUTDOWN"


def test_transitions_come_newest_first_and_in_pages(caller: Client) -> None:
    instance = record_instance(record_cluster(), "vm1")
    for number in range(5):
        record_change(instance, now(), before=number, after=number + 1)
    url, seen = "/api/v1/clusters/alpha/instances/vm1/transitions?limit=2", []
    while url:
        told = get(caller, url)
        seen += [(it["from"], it["to"]) for it in told["transitions"]]
        url = told["next"]
    assert seen == [(4, 5), (3, 4), (2, 3), (1, 2), (0, 1)]
    assert set(told["transitions"][0]) == {
        "id", "at", "field", "from", "to", "backend_status", "rule", "source", "job_id", "folded",
    }  # fmt: skip


@pytest.mark.parametrize(
    "path", ["/nobody", "/nobody/instances", "/nobody/instances/vm1", "/alpha/instances/nobody",
             "/alpha/instances/nobody/transitions"],
)  # fmt: skip
def test_what_is_not_there_is_said(caller: Client, path: str) -> None:
    record_cluster()
    assert get(caller, f"/api/v1/clusters{path}", 404)["detail"].startswith("no ")


@pytest.mark.parametrize(
    "query", ["status=RUNNING", "limit=0", "limit=1001", "limit=x", "after=a%00b"]
)
def test_a_question_that_cannot_be_meant_is_refused(caller: Client, query: str) -> None:
    record_cluster()
    get(caller, f"/api/v1/clusters/alpha/instances?{query}", 422)


@pytest.mark.parametrize("name", ["a%00b", "a b", "v" * 256])
@pytest.mark.parametrize("verb", ["", "/transitions"])
def test_a_name_that_no_instance_can_have_is_refused(caller: Client, name: str, verb: str) -> None:
    record_cluster()
    get(caller, f"/api/v1/clusters/alpha/instances/{name}{verb}", 422)


def test_an_id_beyond_every_row_is_no_row(caller: Client) -> None:
    get(caller, f"/api/v1/passes/{10**30}", 404)


@pytest.mark.parametrize(
    "url",
    ["/api/v1/clusters", "/api/v1/clusters/c0", "/api/v1/clusters/c0/instances",
     "/api/v1/clusters/c0/instances/vm0/transitions", "/compute/v2.1/servers/detail",
     "/metrics", "/", "/readyz"],
)  # fmt: skip
def test_an_answer_costs_the_same_statements_whatever_the_number_of_clusters(
    caller: Client, url: str
) -> None:
    record_fleet(clusters=1, instances=2)
    few = statements(caller, url)
    record_more(clusters=4)
    many = statements(caller, url)
    assert few == many <= 16


def statements(caller: Client, url: str) -> int:
    with CaptureQueriesContext(connection) as captured:
        assert caller.get(url).status_code == 200
    return len(captured)


def record_more(clusters: int) -> None:
    for number in range(clusters):
        cluster = record_cluster(f"more{number}")
        record_hold(cluster, "vm0")
        for index in range(5):
            instance = record_instance(cluster, f"vm{index}", flapping_since=now())
            record_change(instance, now())
    for index in range(5):
        record_instance(Instance.objects.get(cluster__name="c0", name="vm0").cluster, f"new{index}")
