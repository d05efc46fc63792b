"""Who an instance is: its uuid, the names it had, and whom a name that is typed means."""

from typing import Any

import pytest

from tests.simulator.inside import Inside

WEB, SHOP = "web.example.org", "shop.example.org"


def about(sim: Inside, name: str) -> Any:
    """Let a query job run to its end, and return the whole job."""
    number = sim.ask(name)
    sim.wait(10)
    return sim.job(number)


def test_a_uuid_is_the_same_in_list_bulk_record_and_job() -> None:
    sim = Inside(WEB, SHOP)
    uuid = sim.truth.instances[WEB].uuid
    assert sim.listed()[WEB] == uuid
    assert {it["name"]: it["uuid"] for it in sim.get("/2/instances?bulk=1")}[WEB] == uuid
    assert sim.get(f"/2/instances/{WEB}")["uuid"] == uuid
    assert about(sim, WEB)["opresult"][0][WEB]["uuid"] == uuid
    assert len({it.uuid for it in sim.truth.instances.values()}) == 2


def test_tags_are_in_the_lists_and_in_no_job() -> None:
    sim = Inside(WEB)
    sim.truth.change(WEB, tags=["b", "a"])
    assert sim.listed("tags") == {WEB: ["b", "a"]}
    assert sim.get(f"/2/instances/{WEB}")["tags"] == ["b", "a"]
    assert "tags" not in about(sim, WEB)["opresult"][0][WEB]


def test_a_field_that_is_not_known_has_the_status_one() -> None:
    sim = Inside(WEB)
    fields = ["name", "admin_state", "admin_up", "oper_state", "forthcoming", "such.a.thing"]
    (row,) = sim.query("instance", fields)
    assert row == [[0, WEB], [0, "up"], [0, True], [0, True], [0, False], [1, None]]


def test_a_beginning_up_to_a_dot_is_completed_while_nobody_has_just_that_name() -> None:
    sim = Inside("web", WEB)
    assert sim.get("/2/instances/web")["name"] == "web"
    sim.truth.remove("web")
    found = sim.get("/2/instances/web")
    assert (found["name"], found["uuid"]) == (WEB, sim.truth.instances[WEB].uuid)
    job = about(sim, "web")
    assert job["ops"][0]["instances"] == ["web"]
    assert list(job["opresult"][0]) == [WEB]


@pytest.mark.parametrize("name", ["we", "web.", "web.exam", "web.example.org.uk"])
def test_nothing_else_is_completed(name: str) -> None:
    sim = Inside(WEB)
    assert sim.reply("GET", f"/2/instances/{name}").status == 404
    assert about(sim, name)["opresult"][0][1][1] == "unknown_entity"


def test_a_beginning_of_two_is_nobodys() -> None:
    sim = Inside(WEB, "web.example.com")
    assert sim.reply("GET", "/2/instances/web").status == 404
    assert about(sim, "web")["status"] == "error"


def test_only_a_job_ignores_case() -> None:
    sim = Inside(WEB)
    assert sim.reply("GET", "/2/instances/WEB").status == 404
    assert list(about(sim, "WEB")["opresult"][0]) == [WEB]


def test_a_query_for_names_completes_them_and_fails_for_one_that_is_not_there() -> None:
    sim = Inside(WEB, SHOP)
    assert sim.query("instance", ["name"], ["=", "name", "web"]) == [[[0, WEB]]]
    body = {"fields": ["name"], "qfilter": ["|", ["=", "name", WEB], ["=", "name", "nobody"]]}
    assert sim.reply("PUT", "/2/query/instance", body).status == 500


def test_a_query_for_uuids_lacks_those_that_are_not_there() -> None:
    sim = Inside(WEB, SHOP)
    wanted = ["|", ["=", "uuid", sim.listed()[WEB]], ["=", "uuid", "nobody"]]
    assert sim.query("instance", ["name"], wanted) == [[[0, WEB]]]


def test_a_renaming_keeps_the_uuid_and_its_summary_names_nobody() -> None:
    sim = Inside(WEB)
    uuid = sim.listed()[WEB]
    sim.truth.stop(WEB)
    number = sim.operate("RENAME", WEB, new_name=SHOP)
    sim.wait(10)
    assert sim.listed() == {SHOP: uuid}
    job = sim.job(number)
    assert (job["summary"], job["opresult"]) == (["INSTANCE_RENAME"], [SHOP])
    (op,) = job["ops"]
    assert (op["instance_name"], op["new_name"], op["instance_uuid"]) == (WEB, SHOP, uuid)


def test_what_runs_or_would_take_anothers_name_is_not_renamed() -> None:
    sim = Inside(WEB, SHOP)
    jobs = [sim.operate("RENAME", WEB, new_name="other")]
    sim.wait(10)
    sim.truth.stop(WEB)
    jobs.append(sim.operate("RENAME", WEB, new_name=SHOP))
    sim.wait(10)
    assert sim.status(*jobs) == ["error", "error"]
    assert set(sim.listed()) == {WEB, SHOP}


def test_a_name_that_is_removed_and_made_again_is_another_instance() -> None:
    sim = Inside(WEB)
    uuid = sim.listed()[WEB]
    for kind in ("REMOVE", "CREATE"):
        sim.operate(kind, WEB)
        sim.wait(10)
    assert set(sim.listed()) == {WEB}
    assert sim.listed()[WEB] != uuid


def test_a_creations_name_is_completed_and_lowered_as_it_starts() -> None:
    sim = Inside()
    sim.truth.domain = "example.com"
    number = sim.operate("CREATE", "New", held=True)
    assert sim.job(number)["summary"] == ["INSTANCE_CREATE(New)"]
    sim.queue.held.clear()
    job = sim.job(number)
    assert job["summary"] == ["INSTANCE_CREATE(new.example.com)"]
    assert job["ops"][0]["instance_name"] == "new.example.com"
    sim.wait(10)
    assert sim.listed("status") == {"new.example.com": "running"}


def test_a_name_is_as_typed_while_a_job_waits_and_whole_when_it_runs() -> None:
    sim = Inside(WEB)
    sim.queue.stuck = True
    number = sim.operate("SHUTDOWN", "Web")
    assert (sim.status(number), sim.job(number)["summary"]) == (
        ["waiting"],
        ["INSTANCE_SHUTDOWN(Web)"],
    )
    sim.queue.stuck = False
    assert sim.job(number)["summary"] == [f"INSTANCE_SHUTDOWN({WEB})"]


def test_a_forthcoming_instance_is_listed_as_stopped_until_it_is_made() -> None:
    sim = Inside()
    sim.operate("CREATE", WEB, forthcoming=True)
    sim.wait(10)
    uuid = sim.listed()[WEB]
    assert sim.listed("forthcoming") == {WEB: True}
    assert sim.listed("status") == {WEB: "ADMIN_down"}
    told = about(sim, WEB)["opresult"][0][WEB]
    assert (told["config_state"], told["run_state"], told["uuid"]) == ("down", "down", uuid)
    refused = sim.operate("STARTUP", WEB)
    assert sim.status(refused) == ["error"]
    sim.operate("CREATE", WEB, commit=True)
    sim.wait(10)
    assert (sim.listed(), sim.listed("forthcoming")) == ({WEB: uuid}, {WEB: False})
    assert sim.listed("status") == {WEB: "running"}
