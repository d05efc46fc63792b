"""What waits for an operator, and what is under way."""

from datetime import timedelta

import pytest

from proj.clock import now
from proj.inventory.fleet import held, standings
from proj.inventory.models import Cluster, Job, Question
from proj.reconcile.rows import OLDEST
from tests.recorded import record_cluster, record_hold, record_instance, record_job, record_request

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_hold_waits_while_the_last_look_finds_it_and_nobody_has_approved_it() -> None:
    cluster = record_cluster()
    waiting = record_hold(cluster, "vm1")
    record_hold(cluster, "vm2", digest="e" * 64, current=False)
    record_hold(cluster, "vm3", digest="d" * 64, approved_at=now())
    assert list(held(Cluster.objects.all())) == [waiting]


def test_a_cluster_stands_with_its_questions_its_requests_and_its_jobs() -> None:
    cluster, at = record_cluster(), now()
    long_ago = at - timedelta(minutes=9)
    for name, priority, since in (("vm1", 0, at), ("vm2", 1, long_ago)):
        Question.objects.create(
            cluster=cluster, name=name, priority=priority, wanted_since=since, newer_than=since
        )
    common = {"cluster": cluster, "state": "running", "seen_last": at}
    Job.objects.create(job_id=1, is_query=True, is_ours=True, seen_first=long_ago, **common)
    Job.objects.create(job_id=2, work=[["vm1", "REBOOT", "REBOOT"]], seen_first=at, **common)
    record_request(cluster, "", state="open", closed_at=None)
    (standing,) = standings(Cluster.objects.all(), at=at)
    assert standing.questions == {"On Demand": 1, "Suspect": 1}
    assert standing.oldest_question == long_ago
    assert (standing.open_jobs, standing.stuck) == (1, 1)
    assert standing.requests == {"open": 1}
    assert standing.operations == {"REBOOT": 1}


def test_requests_count_while_they_are_open_and_by_outcome_for_an_hour() -> None:
    cluster, at = record_cluster(), now()
    for outcome in ("in_sync", "failed", "failed"):
        record_request(cluster, outcome)
    record_request(cluster, "held", closed_at=at - timedelta(hours=2))
    (standing,) = standings(Cluster.objects.all(), at=now())
    assert standing.requests == {"in_sync": 1, "failed": 2}


def test_of_a_queue_that_is_not_read_no_operation_is_known() -> None:
    cluster = record_cluster(read_not_after=now() - timedelta(minutes=5))
    record_job(cluster, "vm1", "REBOOT")
    (standing,) = standings(Cluster.objects.all(), at=now())
    assert (standing.is_queue_read, standing.operations) == (False, {})


def test_an_instance_that_was_not_observed_in_this_epoch_counts_from_its_first_record() -> None:
    cluster = record_cluster()
    row = record_instance(
        cluster, "vm1", confirmed_at=None, observed_not_before=OLDEST, observed_not_after=OLDEST
    )
    (standing,) = standings(Cluster.objects.all(), at=now())
    assert standing.oldest == row.created_at
