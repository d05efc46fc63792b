"""Between the database's row of an instance and the decision's view of it."""

from collections.abc import Iterable
from dataclasses import asdict, is_dataclass
from typing import Any

from proj.inventory.models import Cluster, Instance
from proj.observation import Configuration, Interval, JobEnd, Nic, Status
from proj.reconcile.decide import Change, Memory, Operation, Recorded


def recorded_of(row: Instance, looked: Interval | None) -> Recorded:
    """Read a row.

    A look that found an instance as it was writes no row; ``looked``, the cluster's last
    look, stands for it.
    """
    observed = row.observed
    if looked is not None and looked.not_after > observed.not_after:
        observed = looked
    return Recorded(
        status=Status(row.status),
        backend_status=row.backend_status,
        configuration=Configuration(
            memory=row.memory,
            vcpus=row.vcpus,
            disks=None if row.disks is None else tuple(row.disks),
            nics=None if row.nics is None else tuple(Nic(**nic) for nic in row.nics),
            nodes=None if row.nodes is None else tuple(row.nodes),
            os=row.os,
        ),
        observed=observed,
        memory=memory_of(row),
    )


def looked_of(cluster: Cluster) -> Interval | None:
    """Return the interval of the cluster's last look."""
    if cluster.looked_not_before is None or cluster.looked_not_after is None:
        return None
    return Interval(cluster.looked_not_before, cluster.looked_not_after)


def values_of_changes(changes: Iterable[Change]) -> dict[str, Any]:
    """Return the columns that these changes set."""
    return {change.field: to_json(change.after) for change in changes}


def values_of_memory(memory: Memory) -> dict[str, Any]:
    """Return the columns that keep ``memory``."""
    operation, witness, missing = memory.operation, memory.witness, memory.missing
    return {
        "operation": operation.name if operation else "",
        "operation_job_id": operation.job_id if operation else None,
        "operation_since": operation.since if operation else None,
        "operation_end": (operation.end or "") if operation else "",
        "operation_ended_at": operation.ended_at if operation else None,
        "witness_word": witness[0] if witness else "",
        "witness_not_before": witness[1].not_before if witness else None,
        "witness_not_after": witness[1].not_after if witness else None,
        "missing_first": missing[0] if missing else None,
        "missing_last": missing[1] if missing else None,
    }


def to_json(value: Any) -> Any:
    """Return ``value`` as the database keeps it: tuples as lists, NICs as objects."""
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return value


def memory_of(row: Instance) -> Memory:
    """Read what is kept about an instance until a question about it is settled."""
    operation = witness = missing = None
    if row.operation and row.operation_since:
        end = JobEnd(row.operation_end) if row.operation_end else None
        operation = Operation(
            row.operation,
            row.operation_job_id,
            row.operation_since,
            end,
            row.operation_ended_at,
        )
    if row.witness_not_before and row.witness_not_after:
        witness = (row.witness_word, Interval(row.witness_not_before, row.witness_not_after))
    if row.missing_first and row.missing_last:
        missing = (row.missing_first, row.missing_last)
    return Memory(operation, witness, missing)
