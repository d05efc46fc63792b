"""One reply about thousands of instances, as ``gnt-instance info --all`` leaves it."""

import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from proj.backend import Look, timed
from proj.ganeti.backend import GanetiBackend
from proj.ganeti.client import Connection
from proj.inventory.models import Cluster, Instance, Job, Question, Transition
from proj.observation import CONFIGURATION_FIELDS, Observation, to_json
from proj.reconcile import memo
from proj.simulator.server import Simulator
from tests.fixtures.driven import Engine
from tests.world.clock import Clock

pytestmark = pytest.mark.django_db(transaction=True)

INSTANCES = 4_000
MEGABYTES = 60


@dataclass
class Served:
    """A simulated cluster behind its sockets."""

    simulator: Simulator
    folder: Path
    clock: Clock = field(default_factory=Clock)
    touch: Callable[[str], object] = lambda _: None
    touched: Callable[[str], object] = lambda _: None

    def backend(self) -> GanetiBackend:
        """Return a connection to the cluster."""
        access = self.simulator.access("sim1")
        return GanetiBackend(
            Connection(
                name="sim1", host=access["host"], port=access["port"], user=access["user"],
                password=Path(access["password_file"]).read_text(),
                certificate=Path(access["ca_file"]).read_text(), certificates=self.folder,
            ),
            lambda: timed(self.clock),
        )  # fmt: skip


def record(cluster: Cluster, look: Look) -> None:
    """Record every instance as the list shows it."""
    read = look.interval
    Instance.objects.bulk_create(
        (
            Instance(
                cluster=cluster, name=seen.instance, uuid=seen.uuid, api_id=seen.uuid,
                status=seen.status, backend_status=seen.backend_status,
                created_at=read.not_after, observed_not_before=read.not_before,
                observed_not_after=read.not_after, epoch=cluster.epoch,
                **{it: to_json(getattr(seen.configuration, it)) for it in CONFIGURATION_FIELDS},
            )
            for seen in look.records
            if isinstance(seen, Observation)
        ),
        batch_size=500,
    )  # fmt: skip


def test_it_confirms_all_and_corrects_the_one_that_differs_in_bounded_memory(
    tmp_path: Path,
) -> None:
    memo.forget()
    with Simulator(tmp_path, instances=INSTANCES, job_seconds=0) as simulator:
        served = Served(simulator, tmp_path)
        engine = Engine(served, "sim1")  # type: ignore[arg-type]
        engine.add_cluster()
        engine.feed_now()
        record(engine.cluster, served.backend().look())
        served.clock.wait(2)
        engine.feed_now()
        served.clock.wait(2)
        truth, queue = simulator["sim1"].truth, simulator["sim1"].queue
        drifted = next(iter(truth.instances))
        truth.crash(drifted)
        queue.submit(
            {"OP_ID": "OP_INSTANCE_QUERY_DATA", "instances": [], "static": False, "reason": []}
        )
        tracemalloc.start()
        try:
            engine.feed_now()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        served.clock.wait(2)
        engine.feed_now()
    assert Instance.objects.get(name=drifted).status == "STOPPED"
    assert Instance.objects.exclude(confirmed_at=None).count() == INSTANCES
    assert set(Transition.objects.values_list("instance__name", flat=True)) == {drifted}
    assert not Question.objects.exists()
    assert not Job.objects.exists()
    assert peak < MEGABYTES * 1_000_000
