"""What waits for an operator, and what is under way."""

from datetime import timedelta

import pytest

from proj.clock import now
from proj.inventory.fleet import held, standings
from proj.inventory.models import Cluster, Job, Question, Request
from tests.recorded import record_cluster, record_hold, record_request

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
    assert (standing.open_jobs, standing.stuck, standing.requests) == (1, 1, 1)
    assert standing.operations == {"REBOOT": 1}
    assert Request.objects.count() == 1
