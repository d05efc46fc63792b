"""One reply about thousands of instances, as ``gnt-instance info --all`` leaves it."""

import tracemalloc
from pathlib import Path

import pytest

from proj.backend import Look
from proj.ganeti.backend import GanetiBackend
from proj.ganeti.client import Connection
from proj.inventory.models import Cluster, Instance, Job, Query, Transition
from proj.observation import Observation
from proj.reconcile.rows import to_json
from proj.simulator.server import Simulator
from tests.reconcile.conftest import Engine, make_engine

pytestmark = pytest.mark.django_db(transaction=True)

INSTANCES = 4_000
MEGABYTES = 60


def record(cluster: Cluster, look: Look) -> None:
    """Record every instance as the list shows it."""
    read = look.interval
    Instance.objects.bulk_create(
        (
            Instance(
                cluster=cluster, name=seen.instance, status=seen.status,
                backend_status=seen.backend_status, memory=seen.configuration.memory,
                vcpus=seen.configuration.vcpus, disks=to_json(seen.configuration.disks),
                nics=to_json(seen.configuration.nics), nodes=to_json(seen.configuration.nodes),
                os=seen.configuration.os, observed_not_before=read.not_before,
                observed_not_after=read.not_after,
            )
            for seen in look.listed
            if isinstance(seen, Observation)
        ),
        batch_size=500,
    )  # fmt: skip


def engine_over(simulator: Simulator, folder: Path) -> Engine:
    """Return an engine that follows the simulated cluster through the official client."""
    access = simulator.access("sim1")
    engine = make_engine()
    engine.backend = GanetiBackend(
        Connection(
            name="sim1", host=access["host"], port=access["port"], user=access["user"],
            password=Path(access["password_file"]).read_text(),
            certificate=Path(access["ca_file"]).read_text(), certificates=folder,
        ),
        engine.clock,
    )  # type: ignore[assignment]  # fmt: skip
    return engine


def test_it_confirms_all_and_corrects_the_one_that_differs_in_bounded_memory(
    tmp_path: Path,
) -> None:
    with Simulator(tmp_path, instances=INSTANCES, job_seconds=0) as simulator:
        engine = engine_over(simulator, tmp_path)
        record(engine.cluster, engine.backend.look())
        engine.clock.wait(10)
        engine.follow()
        engine.clock.wait(2)
        truth, queue = simulator["sim1"].truth, simulator["sim1"].queue
        drifted = next(iter(truth.instances))
        truth.crash(drifted)
        queue.submit(
            {"OP_ID": "OP_INSTANCE_QUERY_DATA", "instances": [], "static": False, "reason": []}
        )
        tracemalloc.start()
        try:
            engine.follow()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert Instance.objects.get(name=drifted).status == "STOPPED"
    assert Instance.objects.exclude(confirmed_at=None).count() == INSTANCES
    assert set(Transition.objects.values_list("instance__name", flat=True)) == {drifted}
    assert Query.objects.count() == 1, "only what differs takes a row"
    assert not Job.objects.exists()
    assert peak < MEGABYTES * 1_000_000
