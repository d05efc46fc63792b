"""Simulated clusters in a process of their own, and how they come to be known."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from django.db.models import F

from proj.clock import now
from proj.inventory.models import Cluster, Instance
from proj.observation import CONFIGURATION_FIELDS, Observation, to_json
from proj.reconcile import feed
from proj.reconcile.turns import turn
from proj.wiring import backend_of, context
from tests.environment import end, start, until

IN_FLIGHT = 10
"""Jobs in flight a cluster, as the demo has it: a simulated job takes 0.02 s."""


@contextmanager
def fleet(folder: Path, *, clusters: int, instances: int) -> Iterator[list[Cluster]]:
    """Run simulated clusters, and record all of them as they are."""
    listing = folder / "clusters.json"
    listing.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    process = start(
        sys.executable, "-m", "proj.simulator", "--dir", str(folder),
        "--clusters", str(clusters), "--instances", str(instances), "--job-seconds", "0.02",
        log=folder / "simulator.log",
    )  # fmt: skip
    try:
        until(lambda: _is_complete(listing), "the simulator serves", 120)
        known = [add(access) for access in json.loads(listing.read_text())]
        for cluster in known:
            record(cluster)
        yield known
    finally:
        Cluster.objects.all().delete()
        end(process)


def add(access: dict[str, Any], max_in_flight: int = IN_FLIGHT) -> Cluster:
    """Add a cluster as ``cluster add`` does; nothing of it is due for the audit."""
    return Cluster.objects.create(
        name=access["name"],
        host=access["host"],
        port=access["port"],
        user=access["user"],
        password_source=f"file:{access['password_file']}",
        certificate=Path(access["ca_file"]).read_text(),
        confirm_max_age=timedelta(days=365),
        max_in_flight=max_in_flight,
    )


def record(cluster: Cluster) -> None:
    """Record every instance as the list shows it, as if each had been confirmed just now."""
    # Workers that run already leave it alone until it is known.
    Cluster.objects.filter(pk=cluster.pk).update(paused=True)
    with turn(cluster.name, "look", 60, now=now) as held:
        # The first turn begins the cluster's epoch, to which the rows have to belong.
        assert held is not None
        cluster.refresh_from_db()
        at = now()
        records = backend_of(cluster).look().records
    Instance.objects.bulk_create(
        (_row(cluster, it, at) for it in records if isinstance(it, Observation)), batch_size=1000
    )
    Cluster.objects.filter(pk=cluster.pk).update(paused=False)
    # Nothing is asked before the queue was read.
    feed.follow(cluster.name, context())


def _row(cluster: Cluster, seen: Observation, at: Any) -> Instance:
    configuration = {
        name: to_json(getattr(seen.configuration, name)) for name in CONFIGURATION_FIELDS
    }
    return Instance(
        cluster=cluster,
        uuid=seen.uuid,
        api_id=UUID(seen.uuid) if seen.uuid else uuid4(),
        name=seen.instance,
        status=seen.status or "UNKNOWN",
        backend_status=seen.backend_status or "",
        **configuration,
        epoch=cluster.epoch,
        created_at=at,
        observed_not_before=at,
        observed_not_after=at,
        confirmed_at=at,
        audited_at=at,
    )


def names(clusters: Sequence[Cluster]) -> list[str]:
    """Return the clusters' names."""
    return [cluster.name for cluster in clusters]


def stop(keys: Sequence[int]) -> None:
    """Record instances as stopped, as if they had been started behind our back since."""
    Instance.objects.filter(pk__in=keys).update(
        status="STOPPED", backend_status="ADMIN_down", revision=F("revision") + 1
    )


def _is_complete(listing: Path) -> bool:
    try:
        return bool(json.loads(listing.read_text()))
    except (OSError, ValueError):
        return False
