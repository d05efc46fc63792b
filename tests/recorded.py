"""Rows as the engine leaves them, for tests of what shows them."""

from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import F, Q

from proj.clock import now
from proj.inventory.models import Cluster, Hold, Installation, Instance, Job, Request, Transition
from proj.observation import Observation
from proj.reconcile.decide import Listed
from proj.reconcile.record import Item, record
from proj.wiring import context
from tests.commands import add_cluster


def record_cluster(name: str = "alpha", **values: Any) -> Cluster:
    """Record a cluster that was looked at ten seconds ago and is in order."""
    at = now()
    return Cluster.objects.create(
        **{
            "name": name,
            "host": "ganeti.example.com",
            "user": "reconciler",
            "password_source": "env:RAPI_PASSWORD",
            "insecure": True,
            "confirm_max_age": timedelta(hours=24),
            "looked_not_before": at - timedelta(seconds=11),
            "looked_not_after": at - timedelta(seconds=10),
            "read_not_before": at - timedelta(seconds=2),
            "read_not_after": at - timedelta(seconds=1),
            "next_look_at": at + timedelta(seconds=50),
            **values,
        }
    )


def record_all(access: dict[str, Any]) -> Cluster:
    """Add a cluster, every instance that it lists recorded, as if two lists had settled it.

    No worker sees the one without the other. No audit asks by itself: what is counted is the
    test's own doing.
    """
    how = context()
    with transaction.atomic():
        Installation.objects.get_or_create(pk=1)
        added = add_cluster(access)
        assert added.code == 0, added.error
        Cluster.objects.update(jobs_per_hour=0, audit_tokens=0)
        cluster = Cluster.objects.get(name=access["name"])
        listed = how.connect(cluster).look().records
        seen = [it for it in listed if isinstance(it, Observation)]
        assert len(seen) == len(listed)
        items = [Item(Listed(it, is_proof=True), it.uuid, it.instance, "lists") for it in seen]
        record(cluster, items, how.policy_of(cluster), how.tuning, now=how.now)
    return cluster


def is_followed() -> bool:
    """Whether the first look at each cluster is over, and the queue was read since."""
    over = Q(look_token="", read_not_before__gt=F("looked_not_after"))
    return not Cluster.objects.exclude(over).exists()


def record_instance(cluster: Cluster, name: str, **values: Any) -> Instance:
    """Record an instance that runs, as a job said an hour ago."""
    then = now() - timedelta(hours=1)
    return Instance.objects.create(
        **{
            "cluster": cluster,
            "name": name,
            "status": "ACTIVE",
            "backend_status": "" if values.get("status") == "DELETED" else "running",
            "created_at": then,
            "observed_not_before": then,
            "observed_not_after": then,
            "confirmed_at": then,
            **values,
        }
    )


def record_change(instance: Instance, at: datetime, **values: Any) -> Transition:
    """Record that an instance was stopped."""
    return Transition.objects.create(
        **{
            "instance": instance,
            "field": "status",
            "before": "ACTIVE",
            "after": "STOPPED",
            "backend_status": "ADMIN_down",
            "rule": "job-convicts",
            "source": "job",
            "job_id": 17,
            "at": at,
            **values,
        }
    )


def record_request(cluster: Cluster, outcome: str, **values: Any) -> Request:
    """Record a request over a cluster that was closed with ``outcome``."""
    return Request.objects.create(
        **{
            "cluster": cluster,
            "kind": "sweep",
            "state": "closed",
            "outcome": outcome,
            "requested_at": now(),
            "closed_at": now(),
            **values,
        }
    )


def record_job(cluster: Cluster, name: str, operation: str, **values: Any) -> Job:
    """Record that a job of Ganeti's works on an instance."""
    at = now()
    return Job.objects.create(
        **{
            "cluster": cluster,
            "job_id": Job.objects.count() + 1,
            "state": "running",
            "work": [[name, operation, None]],
            "names": [name],
            "seen_first": at,
            "seen_last": at,
            **values,
        }
    )


def record_hold(cluster: Cluster, *names: str, **values: Any) -> Hold:
    """Record that instances would become DELETED, and wait for an operator."""
    return Hold.objects.create(
        **{
            "cluster": cluster,
            "digest": "f" * 64,
            "entries": [[name, name, "ACTIVE", "DELETED"] for name in names],
            "reason": f"{len(names)} of 10 instances would become DELETED",
            "since": now(),
            "seen_at": now(),
            **values,
        }
    )


def record_fleet(clusters: int, instances: int) -> None:
    """Record clusters with everything that a page can show of them."""
    for number in range(clusters):
        cluster = record_cluster(f"c{number}")
        record_hold(cluster, "vm0", "vm1")
        for index in range(instances):
            instance = record_instance(cluster, f"vm{index}", flapping_since=now())
            record_change(instance, now())
