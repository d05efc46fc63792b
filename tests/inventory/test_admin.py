"""Django's admin: clusters can be edited, what the service records can only be read."""

import pytest
from django.apps import apps
from django.contrib.auth.models import User
from django.test import Client

from proj.clock import now
from proj.inventory.models import Cluster, Question
from tests.recorded import (
    record_change,
    record_cluster,
    record_hold,
    record_instance,
    record_job,
    record_request,
)

pytestmark = pytest.mark.django_db(transaction=True)

RECORDS = ("instance", "request", "question", "job", "hold", "transition")


@pytest.fixture
def admin() -> Client:
    """Somebody who may do anything."""
    client = Client()
    client.force_login(User.objects.create_superuser("admin"))
    return client


def record_all() -> None:
    cluster = record_cluster()
    record_change(record_instance(cluster, "vm1"), now())
    record_request(cluster, "in_sync")
    record_job(cluster, "vm1", "REBOOT")
    record_hold(cluster, "vm1")
    Question.objects.create(
        cluster=cluster, name="vm1", priority=1, wanted_since=now(), newer_than=now()
    )


@pytest.mark.parametrize("model", [*RECORDS, "cluster"])
def test_every_kind_of_row_is_shown(admin: Client, model: str) -> None:
    record_all()
    answer = admin.get(f"/admin/inventory/{model}/")
    assert (answer.status_code, b"1 " in answer.content) == (200, True)


@pytest.mark.parametrize("model", RECORDS)
def test_what_the_service_records_can_only_be_read(admin: Client, model: str) -> None:
    record_all()
    row = apps.get_model("inventory", model).objects.get()
    url = f"/admin/inventory/{model}"
    assert admin.get(f"{url}/{row.pk}/change/").status_code == 200
    assert admin.post(f"{url}/{row.pk}/change/", {}).status_code == 403
    for page in ("add", f"{row.pk}/delete"):
        assert admin.get(f"{url}/{page}/").status_code == 403


def test_a_cluster_can_be_edited(admin: Client) -> None:
    cluster = record_cluster()
    url = f"/admin/inventory/cluster/{cluster.pk}/change/"
    values = {
        "name": "gnt1.example.com", "host": "h", "port": 5080, "user": "u",
        "password_source": "env:X", "unknown": "adopt", "max_in_flight": 3, "max_requests": 4,
        "jobs_per_hour": 240, "confirm_max_age": "1 00:00:00",
    }  # fmt: skip
    assert admin.post(url, values).status_code == 302
    assert Cluster.objects.get().name == "gnt1.example.com"
    assert admin.post(url, values | {"name": "a b"}).status_code == 200
    assert Cluster.objects.get().name == "gnt1.example.com"
