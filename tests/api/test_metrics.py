"""What Prometheus is told."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from proj.clock import now
from proj.inventory import fleet
from proj.inventory.models import Question
from tests.recorded import (
    record_change,
    record_cluster,
    record_hold,
    record_instance,
    record_job,
    record_request,
)

pytestmark = pytest.mark.django_db(transaction=True)


def scrape() -> dict[str, dict[tuple[str, ...], float]]:
    """Return the value of each series: name -> values of the labels, cluster first -> value."""
    answer = Client().get("/metrics")
    assert answer["Content-Type"].startswith("text/plain; version=")
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(answer.content.decode()):
        assert family.documentation
        assert family.type == "gauge"
        series = found.setdefault(family.name.removeprefix("reconciler_"), {})
        for sample in family.samples:
            cluster = sample.labels.pop("cluster")
            series[cluster, *sample.labels.values()] = sample.value
    return found


def test_instances_are_counted_by_cluster_status_and_operation() -> None:
    alpha, beta = record_cluster(), record_cluster("beta")
    record_instance(alpha, "vm1")
    record_instance(alpha, "vm2", status="REBOOT")
    record_instance(alpha, "vm3")
    record_job(alpha, "vm2", "REBOOT")
    record_job(alpha, "vm3", "REBOOT", state="ended")
    record_instance(beta, "vm1", status="STOPPED", flapping_since=now())
    told = scrape()
    assert told["instances"]["alpha", "ACTIVE"] == 2
    assert told["instances"]["alpha", "STOPPED"] == 0
    assert told["instances"]["beta", "STOPPED"] == 1
    assert told["operations"] == {("alpha", "REBOOT"): 1}
    assert told["instances_flapping"] == {("alpha",): 0, ("beta",): 1}


def test_confirmations_are_held_against_their_maximum_age_and_the_budget() -> None:
    cluster = record_cluster(jobs_per_hour=2, confirm_max_age=timedelta(hours=2))
    at = now()
    for number, hours in enumerate((1, 1, 1, 3, 5)):
        record_instance(cluster, f"vm{number}", confirmed_at=at - timedelta(hours=hours))
    record_instance(cluster, "new", confirmed_at=None)
    record_instance(cluster, "gone", status="DELETED", confirmed_at=at - timedelta(hours=99))
    record_cluster("empty")
    told = scrape()
    assert told["instances_overdue"]["alpha",] == 2
    assert 5 * 3600 <= told["oldest_confirmation_age_seconds"]["alpha",] < 5 * 3600 + 60
    assert ("empty",) not in told["oldest_confirmation_age_seconds"]
    assert told["confirm_max_age_seconds"]["alpha",] == 2 * 3600
    assert told["audit_round_seconds"]["alpha",] == 3 * 3600


def test_requests_questions_and_holds_are_counted_while_they_are_not_over() -> None:
    cluster, at = record_cluster(), now()
    record_request(cluster, "", state="open", closed_at=None)
    record_request(cluster, "in_sync")
    record_hold(cluster, "vm1")
    for number, priority in enumerate((0, 1, 1)):
        Question.objects.create(
            cluster=cluster, name=f"vm{number}", priority=priority, newer_than=at,
            wanted_since=at - timedelta(seconds=30),
        )  # fmt: skip
    told = scrape()
    assert told["requests"] == {
        ("alpha", "open"): 1, ("alpha", "in_sync"): 1, ("alpha", "reconciled"): 0,
        ("alpha", "failed"): 0, ("alpha", "held"): 0,
    }  # fmt: skip
    assert told["questions"] == {
        ("alpha", "On Demand"): 1, ("alpha", "Suspect"): 2, ("alpha", "Audit"): 0,
    }  # fmt: skip
    assert 30 <= told["oldest_question_age_seconds"]["alpha",] < 60
    assert told["holds"]["alpha",] == 1


def test_a_cluster_in_trouble_shows() -> None:
    alpha = record_cluster(
        failures=3, paused=True, follow_failures=2, ask_failures=1, set_aside=4, epoch=5
    )
    record_job(alpha, "vm1", "", is_ours=True, is_query=True, seen_first=now() - timedelta(hours=1))
    record_cluster("new", looked_not_after=None)
    told = scrape()
    assert (told["reading_failures"]["alpha",], told["ask_failures"]["alpha",]) == (2, 1)
    assert (told["set_aside"]["alpha",], told["epoch"]["alpha",]) == (4, 5)
    assert (told["jobs_in_flight"]["alpha",], told["jobs_stuck"]["alpha",]) == (1, 1)
    assert 1 <= told["last_reading_age_seconds"]["alpha",] < 60
    assert told["cluster_failures"] == {("alpha",): 3, ("new",): 0}
    assert told["cluster_paused"] == {("alpha",): 1, ("new",): 0}
    assert 10 <= told["last_look_age_seconds"]["alpha",] < 60
    assert ("new",) not in told["last_look_age_seconds"]


def test_transitions_of_the_last_hour_are_counted_by_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    instance = record_instance(record_cluster(), "vm1")
    record_change(instance, now() - timedelta(hours=2))
    for _ in range(3):
        record_change(instance, now())
    record_change(instance, now(), rule="gone")
    counts = {("alpha", "job-convicts"): 3, ("alpha", "gone"): 1}
    assert scrape()["transitions_last_hour"] == counts
    monkeypatch.setattr(fleet, "NEWEST", 2)
    assert sum(scrape()["transitions_last_hour"].values()) == 2


def test_no_label_names_an_instance_so_that_a_thousand_cost_no_series_more() -> None:
    cluster = record_cluster()
    record_change(record_instance(cluster, "vm0"), now())
    few = Client().get("/metrics").content.decode()
    for number in range(1, 20):
        record_change(record_instance(cluster, f"vm{number}"), now())
    many = Client().get("/metrics").content.decode()
    assert len(few.splitlines()) == len(many.splitlines())
    assert "vm" not in many.replace("vm_", "")


def test_a_scraper_that_prefers_openmetrics_is_answered_in_it() -> None:
    record_cluster()
    accept = "application/openmetrics-text; version=1.0.0"
    answer: Any = Client().get("/metrics", headers={"Accept": accept})
    assert answer["Content-Type"].startswith("application/openmetrics-text")
    assert list(openmetrics.text_string_to_metric_families(answer.content.decode()))
