"""Asking for something to be reconciled: what is accepted, and what is refused with a reason."""

import json
from datetime import timedelta
from typing import Any

import pytest
from celery import current_app
from django.db import connection
from django.test import Client

from proj.clock import now
from proj.inventory.models import Hold, Job, Question, Request
from proj.reconcile import shown
from tests.recorded import record_cluster, record_hold, record_instance

pytestmark = pytest.mark.django_db(transaction=True)

INSTANCE = "/api/v1/clusters/alpha/instances/vm1"
QUEUES = ("on-demand", "ganeti", "reconcile")


def post(caller: Client, url: str, status: int, **body: Any) -> Any:
    answer = caller.post(url, json.dumps(body), "application/json")
    assert answer.status_code == status, answer.content
    told = answer.json()
    assert answer.get("Location") == told.get("url")
    return told


@pytest.fixture(autouse=True)
def broker(redis: None) -> Any:
    """The broker, without messages of tests before."""
    with current_app.connection_for_write() as to_broker:
        client = to_broker.default_channel.client
        client.delete(*QUEUES)
        yield client
        client.delete(*QUEUES)


def sent(broker: Any, queue: str) -> list[tuple[str, Any]]:
    """Return task and arguments of each message that waits in a queue."""
    messages = [json.loads(it) for it in broker.lrange(queue, 0, -1)]
    return [(it["headers"]["task"], it["headers"]["kwargsrepr"]) for it in messages]


def test_an_instance_that_nobody_knows_may_be_asked_about(caller: Client, broker: Any) -> None:
    record_cluster()
    told = post(caller, f"{INSTANCE}/reconcile", 202)
    assert told["url"] == f"http://testserver/api/v1/passes/{told['pass']}"
    assert caller.get(told["url"]).json() == shown.describe(Request.objects.get())
    question = Question.objects.get()
    assert (question.name, question.uuid, question.priority) == ("vm1", None, 0)
    assert sent(broker, "on-demand") == [("tasks.query.issue_jobs", "{'cluster': 'alpha'}")]


@pytest.mark.parametrize(
    ("how", "kind", "task"),
    [
        ({}, "sweep", "query_cluster"),
        ({"all": True}, "all", "query_cluster"),
        ({"plan": True}, "plan", "plan_cluster"),
    ],
)
def test_a_cluster_is_gone_over_as_asked(
    caller: Client, broker: Any, how: dict[str, bool], kind: str, task: str
) -> None:
    record_cluster()
    told = post(caller, "/api/v1/clusters/alpha/reconcile", 202, **how)
    row = Request.objects.get(pk=told["pass"])
    assert (row.kind, row.state) == (kind, "open")
    assert sent(broker, "ganeti") == [(f"tasks.query.{task}", "{'cluster': 'alpha'}")]


@pytest.mark.parametrize(
    ("path", "task"), [("/instances/vm1", "issue_jobs"), ("", "query_cluster")]
)
def test_the_workers_are_told_when_the_request_is_committed_and_not_before(
    caller: Client, monkeypatch: pytest.MonkeyPatch, path: str, task: str
) -> None:
    record_cluster()
    open_when_told: list[bool] = []
    monkeypatch.setattr(
        f"tasks.query.{task}.delay",
        lambda **_: open_when_told.append(connection.in_atomic_block),
    )
    post(caller, f"/api/v1/clusters/alpha{path}/reconcile", 202)
    assert open_when_told == [False]


def test_a_plan_for_one_instance_asks_no_question(caller: Client, broker: Any) -> None:
    record_cluster()
    told = post(caller, f"{INSTANCE}/reconcile", 202, plan=True)
    row = Request.objects.get(pk=told["pass"])
    assert (row.kind, row.name) == ("plan", "vm1")
    assert sent(broker, "ganeti") == [("tasks.query.plan_cluster", "{'cluster': 'alpha'}")]
    assert not Question.objects.exists()


POSTS = [f"{INSTANCE}/reconcile", "/api/v1/clusters/alpha/reconcile"]


@pytest.mark.parametrize("url", [*POSTS, f"{INSTANCE}/operations"])
def test_an_unknown_cluster_is_said(caller: Client, url: str) -> None:
    assert post(caller, url, 404, action="REBOOT") == {"detail": "no cluster alpha"}


@pytest.mark.parametrize("url", POSTS)
def test_a_paused_cluster_is_left_alone_and_it_is_said_what_to_do(caller: Client, url: str) -> None:
    record_cluster(paused=True)
    told = post(caller, url, 409)
    assert told == {"detail": "alpha is paused: manage.py cluster resume alpha"}
    assert not Request.objects.exists()


@pytest.mark.parametrize("name", ["a b", "a%00", "vm1;", "é", "v" * 256])
@pytest.mark.parametrize("verb", ["reconcile", "operations"])
def test_a_name_that_no_instance_can_have_is_refused(caller: Client, name: str, verb: str) -> None:
    record_cluster()
    post(caller, f"/api/v1/clusters/alpha/instances/{name}/{verb}", 422, action="REBOOT")
    assert not Question.objects.exists()


def test_a_body_that_cannot_be_read_is_refused(caller: Client) -> None:
    record_cluster()
    url = "/api/v1/clusters/alpha/reconcile"
    assert caller.post(url, "{cut", "application/json").status_code == 400
    assert caller.post(url, '{"all": "perhaps"}', "application/json").status_code == 422
    assert not Request.objects.exists()


@pytest.mark.parametrize("job_id", [None, 123])
def test_an_operation_that_began_is_announced(caller: Client, job_id: int | None) -> None:
    cluster = record_cluster()
    record_instance(cluster, "vm1")
    told = post(caller, f"{INSTANCE}/operations", 202, action="REBOOT", job_id=job_id)
    assert told == {"action": "REBOOT", "url": f"http://testserver{INSTANCE}"}
    shown = caller.get(told["url"]).json()
    assert (shown["status"], shown["task_state"]) == ("REBOOT", "REBOOT")
    assert Job.objects.get().job_id == job_id


def test_above_a_number_of_open_requests_one_is_to_come_again(caller: Client) -> None:
    cluster = record_cluster()
    common = {"cluster": cluster, "kind": "instance", "requested_at": cluster.looked_not_after}
    Request.objects.bulk_create(Request(name=f"other{number}", **common) for number in range(1000))
    answer = caller.post(f"{INSTANCE}/reconcile", "{}", "application/json")
    assert (answer.status_code, answer["Retry-After"]) == (429, "10")


def test_what_is_held_is_approved_by_its_id(caller: Client, broker: Any) -> None:
    hold = record_hold(record_cluster(), "vm1")
    answer = caller.post(f"/api/v1/holds/{hold.pk}/approve")
    assert (answer.status_code, answer.json()["id"]) == (200, hold.pk)
    assert Hold.objects.get().approved_at is not None
    assert sent(broker, "ganeti") == [("tasks.query.query_cluster", "{'cluster': 'alpha'}")]
    assert caller.post(f"/api/v1/holds/{hold.pk + 1}/approve").status_code == 404


def test_what_no_look_has_found_for_long_cannot_be_approved(caller: Client, broker: Any) -> None:
    long_ago = now() - timedelta(hours=1, minutes=1)
    hold = record_hold(record_cluster(), "vm1", current=False, seen_at=long_ago)
    answer = caller.post(f"/api/v1/holds/{hold.pk}/approve")
    assert answer.status_code == 409
    assert f"hold {hold.pk} is over" in answer.json()["detail"]
    assert Hold.objects.get().approved_at is None
    assert sent(broker, "ganeti") == []


def test_an_operation_that_ganeti_does_not_have_is_refused(caller: Client) -> None:
    record_cluster()
    told = post(caller, f"{INSTANCE}/operations", 422, action="EXPLODE")
    assert "EXPLODE" in told["detail"]


@pytest.mark.parametrize("job_id", [0, -1, 2**63, "x"])
def test_a_job_id_that_no_job_can_have_is_refused(caller: Client, job_id: object) -> None:
    record_cluster()
    post(caller, f"{INSTANCE}/operations", 422, action="REBOOT", job_id=job_id)
