"""Simulated clusters in a process of their own, and how they come to be known."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from proj.clock import now
from proj.inventory.models import Cluster, Instance
from proj.reconcile.rows import to_json
from proj.wiring import backend_of
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
    at = now()
    look = backend_of(cluster).look()
    Instance.objects.bulk_create(
        (
            Instance(
                cluster=cluster,
                name=seen.instance,
                status=seen.status or "UNKNOWN",
                backend_status=seen.backend_status or "",
                memory=seen.configuration.memory,
                vcpus=seen.configuration.vcpus,
                disks=to_json(seen.configuration.disks),
                nics=to_json(seen.configuration.nics),
                nodes=to_json(seen.configuration.nodes),
                os=seen.configuration.os,
                observed_not_before=at,
                observed_not_after=at,
                confirmed_at=at,
            )
            for seen in look.listed
        ),
        batch_size=1000,
    )


def names(clusters: Sequence[Cluster]) -> list[str]:
    """Return the clusters' names."""
    return [cluster.name for cluster in clusters]


def _is_complete(listing: Path) -> bool:
    try:
        return bool(json.loads(listing.read_text()))
    except (OSError, ValueError):
        return False
