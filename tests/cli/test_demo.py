"""What the demo shows of the drift that was mended."""

from io import StringIO

import pytest
from rich.console import Console

from proj.cli.management.commands import demo
from proj.clock import now
from tests.recorded import record_change, record_cluster, record_instance

pytestmark = pytest.mark.django_db


def test_in_80_columns_names_and_rules_are_whole_and_no_value_is_cut() -> None:
    instance = record_instance(record_cluster("sim1"), "vm00001.sim1")
    record_change(
        instance, now(), field="backend_status", before="ERROR_nodedown", after="ERROR_wrongnode",
        rule="list-word-stands", job_id=123456,
    )  # fmt: skip
    record_change(instance, now(), field="nodes", before=["node1.sim1"], after=["node2.sim1"])
    record_change(instance, now(), field="nics", before=[{"mac": "x"}], after=["y"])
    shown = StringIO()
    Console(file=shown, width=80).print(demo._table())
    lines = [" ".join(line.split()[1:]) for line in shown.getvalue().splitlines()]
    assert "…" not in shown.getvalue()
    assert "vm00001.sim1 nics list of 1 y job-convicts 17" in lines
    assert "vm00001.sim1 nodes node1.sim1 node2.sim1 job-convicts 17" in lines
    (worst,) = (line for line in lines if "list-word-stands" in line)
    assert worst.startswith("vm00001.sim1 Ganeti's ERROR_")
    assert worst.endswith(" list-word-stands 123456")
