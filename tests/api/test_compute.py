"""The servers as clients of OpenStack Compute expect them."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from django.test import Client

from proj.inventory.models import Instance
from tests.recorded import record_cluster, record_instance, record_job

pytestmark = pytest.mark.django_db(transaction=True)

SERVERS = "/compute/v2.1/servers"


def get(caller: Client, url: str, status: int = 200) -> Any:
    answer = caller.get(url)
    assert answer.status_code == status, answer.content
    return answer.json()


def names(told: Any) -> list[str]:
    return [server["name"] for server in told["servers"]]


def test_a_server_has_our_status_and_novas_words_beside_it(caller: Client) -> None:
    cluster = record_cluster()
    record_job(cluster, "vm1", "REBOOT")
    record_instance(
        cluster, "vm1", status="REBOOT", memory=512, vcpus=2,
        disks=[1024, 2048], nodes=["node1"],
        nics=[
            {"ip": "192.0.2.7", "mac": "aa:00:00:00:00:07", "mode": "bridged", "link": "br0"},
            {"ip": None, "mac": "aa:00:00:00:00:08", "mode": "bridged", "link": "br0"},
        ],
    )  # fmt: skip
    (server,) = get(caller, f"{SERVERS}/detail")["servers"]
    assert server["status"] == "REBOOT"
    assert server["OS-EXT-STS:task_state"] == "rebooting"
    assert server["OS-EXT-STS:vm_state"] == "active"
    assert server["OS-EXT-AZ:availability_zone"] == "alpha"
    assert server["OS-EXT-SRV-ATTR:host"] == "node1"
    assert server["flavor"] == {"ram": 512, "vcpus": 2, "disk": 3}
    assert server["addresses"] == {
        "br0": [{"addr": "192.0.2.7", "version": 4, "OS-EXT-IPS-MAC:mac_addr": "aa:00:00:00:00:07"}]
    }
    assert server["metadata"] == {"backend_status": "running"}
    assert get(caller, server["links"][0]["href"]) == {"server": server}
    (brief,) = get(caller, SERVERS)["servers"]
    assert brief == {name: server[name] for name in ("id", "name", "links")}


def test_a_stopped_server_at_rest_has_no_task(caller: Client) -> None:
    record_instance(record_cluster(), "vm1", status="STOPPED", nics=None)
    (server,) = get(caller, f"{SERVERS}/detail")["servers"]
    assert server["status"] == "STOPPED"
    assert server["OS-EXT-STS:vm_state"] == "stopped"
    assert server["OS-EXT-STS:task_state"] is None


@pytest.mark.parametrize(
    ("status", "operation", "vm_state", "task_state"),
    [
        ("HARD_REBOOT", "REBOOT", "active", "rebooting_hard"),
        ("RESIZE", "GROW_DISK", "active", "resize_finish"),
        ("ACTIVE", "REPLACE_DISKS", "active", "replace_disks"),
        ("UNKNOWN", "MIGRATE", None, "migrating"),
    ],
)
def test_every_status_and_every_operation_has_a_word(
    caller: Client, status: str, operation: str, vm_state: str | None, task_state: str
) -> None:
    cluster = record_cluster()
    record_instance(cluster, "vm1", status=status)
    record_job(cluster, "vm1", operation)
    (server,) = get(caller, f"{SERVERS}/detail")["servers"]
    assert server["OS-EXT-STS:vm_state"] == vm_state
    assert server["OS-EXT-STS:task_state"] == task_state


def id_of(cluster: str, name: str) -> UUID:
    return Instance.objects.get(cluster__name=cluster, name=name).api_id


def test_a_server_is_known_by_its_id_and_of_twins_the_living_one(caller: Client) -> None:
    twin = uuid4()
    record_instance(record_cluster(), "vm1", uuid=str(twin), api_id=twin, status="DELETED")
    record_instance(record_cluster("beta"), "vm1", uuid=str(twin), api_id=twin)
    server = get(caller, f"{SERVERS}/{twin}")["server"]
    assert (server["OS-EXT-AZ:availability_zone"], server["id"]) == ("beta", str(twin))


def test_servers_are_filtered_by_status_and_by_a_part_of_the_name(caller: Client) -> None:
    cluster = record_cluster()
    record_instance(cluster, "web1")
    record_instance(cluster, "web2", status="STOPPED")
    record_instance(cluster, "db1", status="STOPPED")
    record_instance(cluster, "gone", status="DELETED")
    assert names(get(caller, SERVERS)) == ["db1", "web1", "web2"]
    assert names(get(caller, f"{SERVERS}?status=STOPPED&name=web")) == ["web2"]
    assert names(get(caller, f"{SERVERS}/detail?name=WEB")) == ["web1", "web2"]
    assert names(get(caller, f"{SERVERS}?status=DELETED")) == ["gone"]
    assert get(caller, f"{SERVERS}/{id_of('alpha', 'gone')}")["server"]["status"] == "DELETED"


def test_pages_follow_one_another_by_marker_across_clusters(caller: Client) -> None:
    for cluster in (record_cluster(), record_cluster("beta")):
        for number in range(3):
            record_instance(cluster, f"vm{number}")
    told, pages = get(caller, f"{SERVERS}?limit=2"), []
    while True:
        pages.append([server["id"] for server in told["servers"]])
        if "servers_links" not in told:
            break
        assert told["servers_links"][0]["rel"] == "next"
        told = get(caller, told["servers_links"][0]["href"])
    expected = [str(id_of(c, f"vm{n}")) for c in ("alpha", "beta") for n in range(3)]
    assert [len(page) for page in pages] == [2, 2, 2]
    assert [server for page in pages for server in page] == expected


def test_what_is_wrong_is_said_as_nova_says_it(caller: Client) -> None:
    nobody = uuid4()
    fault = get(caller, f"{SERVERS}/{nobody}", 404)["itemNotFound"]
    assert (fault["code"], str(nobody) in fault["message"]) == (404, True)
    fault = get(caller, f"{SERVERS}?marker={nobody}", 400)["badRequest"]
    assert fault["message"] == f"marker [{nobody}] not found"
    fault = get(caller, f"{SERVERS}?status=SHUTOFF", 400)["badRequest"]
    assert fault["message"].startswith("status: ")


def test_servers_can_only_be_read(caller: Client) -> None:
    for method in (caller.post, caller.put, caller.delete):
        assert method(SERVERS).status_code == 405
        assert method(f"{SERVERS}/{uuid4()}").status_code == 405
