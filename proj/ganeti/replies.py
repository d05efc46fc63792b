"""Read what Ganeti answers, of any version from 2.4 to 3.1, into Observations.

A record that cannot be read becomes an ``Unreadable`` and spoils nothing but itself.
"""

import marshal
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from proj.backend import Found, Unreadable
from proj.ganeti.nics import parse_nic
from proj.ganeti.states import FORTHCOMING, STATUS_OF_WORD, word_of
from proj.ganeti.values import LARGEST_JOB_ID, number_of, problem_of, shown, text_of
from proj.names import is_instance_name, is_uuid
from proj.observation import Configuration, Interval, Nic, Observation, Status

LIST_FIELDS = (
    "name",
    "uuid",
    "status",
    "forthcoming",
    "be/maxmem",
    "be/vcpus",
    "disk.sizes",
    "nic.ips",
    "nic.macs",
    "nic.modes",
    "nic.links",
    "pnode",
    "snodes",
    "os",
    "tags",
)

NORMAL = 0
"""The result status of a field whose value counts."""
UNKNOWN = 1
"""The result status of a field that this version of Ganeti does not know."""

_MALFORMED = (ValueError, TypeError, KeyError, AttributeError)

Read = Observation | Unreadable


def read_list(
    rows: Sequence[Any], interval: Interval, statuses: Mapping[str, Status] = STATUS_OF_WORD
) -> Iterator[Read]:
    """Read the rows of ``Query("instance", LIST_FIELDS)``: one ``[status, value]`` per field."""
    for row in rows:
        name = uuid = None
        try:
            values = read_fields(row, LIST_FIELDS)
            name = _name(values["name"])
            uuid = _uuid(values["uuid"])
            word = FORTHCOMING if _is_set(values["forthcoming"]) else values["status"]
            yield Observation(
                instance=name,
                status=_status(word, statuses),
                backend_status=word,
                configuration=_listed_configuration(values),
                interval=interval,
                uuid=uuid,
            )
        except _MALFORMED as error:
            yield Unreadable(name, f"row of the list: {problem_of(error)}", uuid)


def prints_of(rows: Sequence[Any]) -> list[tuple[str, str | None, int]]:
    """Return name and uuid in each row of the list, and a number that is equal for equal rows.

    Name and uuid are "" and None where they cannot be told. Whether an instance may have these is
    seen when the row is read.
    """
    found = []
    for row in rows:
        try:
            name, uuid, mark = row[0][1], row[1][1], hash(orjson.dumps(row))
        except (TypeError, IndexError, KeyError):
            # No row, or one that no other reader of JSON would have let pass.
            name, uuid, mark = *_identity_in(row), hash(marshal.dumps(row, 2))
        if not isinstance(name, str):
            name = ""
        found.append((name, uuid if isinstance(uuid, str) else None, mark))
    return found


def _identity_in(row: Any) -> tuple[Any, Any]:
    try:
        return row[0][1], row[1][1]
    except (TypeError, IndexError, KeyError):
        return "", None


def read_found(record: Any) -> Found:
    """Read the record of one instance.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: it is none.
    """
    return Found(_name(record["name"]), _uuid(record.get("uuid")))


def read_query_result(
    result: Any,
    *,
    job_id: int,
    static: bool,
    interval: Interval,
    statuses: Mapping[str, Status] = STATUS_OF_WORD,
) -> Iterator[Read]:
    """Read the result of an OP_INSTANCE_QUERY_DATA opcode: name -> details, one at a time."""
    if not isinstance(result, dict):
        yield Unreadable(None, f"the result of job {job_id} is no table of instances")
        return
    for key, details in result.items():
        name = uuid = None
        try:
            name = _name(key)
            uuid = _uuid(details.get("uuid"))
            word = word_of(details["config_state"], details["run_state"], static=static)
            yield Observation(
                instance=name,
                status=None if word is None else _status(word, statuses),
                backend_status=word,
                configuration=_queried_configuration(details),
                interval=interval,
                job_id=job_id,
                uuid=uuid,
            )
        except _MALFORMED as error:
            yield Unreadable(name, f"result of job {job_id}: {problem_of(error)}", uuid)


def read_fields(row: Any, fields: Sequence[str]) -> dict[str, Any]:
    """Return the values of one row by name; one that does not count is None.

    Raises:
        ValueError: the row is not of the shape that was asked for.
    """
    if not isinstance(row, list) or len(row) != len(fields):
        raise ValueError(f"{len(fields)} fields were asked for, and the row has not as many")
    if not all(isinstance(cell, list) and len(cell) == 2 for cell in row):
        raise ValueError("a field of the row is no pair of a status and a value")
    return {
        field: value if status == NORMAL else None
        for field, (status, value) in zip(fields, row, strict=True)
    }


def rows_of(records: Sequence[Any], fields: Sequence[str]) -> list[Any]:
    """Return the records of a bulk list as rows of these fields, as ``Query`` gives them."""
    return [
        [[NORMAL, record[field]] if field in record else [UNKNOWN, None] for field in fields]
        if isinstance(record, dict)
        else record
        for record in map(_flat, records)
    ]


def _flat(record: Any) -> Any:
    match record:
        case {"beparams": {**backend}}:
            memory = backend.get("maxmem", backend.get("memory"))
            return record | {"be/maxmem": memory, "be/vcpus": backend.get("vcpus")}
    return record


def job_id_of(value: Any) -> int:
    """Read a job's id: a number, or its digits as masters before 2.7 sent it.

    Raises:
        ValueError: it is neither.
    """
    return number_of(value, "job id", largest=LARGEST_JOB_ID)


def _name(value: Any) -> str:
    if not isinstance(value, str) or not is_instance_name(value):
        raise ValueError(f"{shown(value)} is no name of an instance")
    return value


def _uuid(value: Any) -> str | None:
    if value is not None and not (isinstance(value, str) and is_uuid(value)):
        raise ValueError(f"{shown(value)} is no uuid")
    return value


def _is_set(value: Any) -> bool:
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{shown(value)} is neither true nor false")
    return bool(value)


def _status(word: Any, statuses: Mapping[str, Status]) -> Status:
    if not isinstance(word, str) or word not in statuses:
        raise ValueError(f"the state {shown(word)} is not known")
    return statuses[word]


def _listed_configuration(values: Mapping[str, Any]) -> Configuration:
    primary, secondaries = values["pnode"], values["snodes"]
    return Configuration(
        memory=_number(values["be/maxmem"], "memory"),
        vcpus=_number(values["be/vcpus"], "vcpus"),
        disks=_sizes(values["disk.sizes"]),
        nics=_listed_nics(values),
        nodes=None if primary is None else _nodes(primary, secondaries),
        os=_text(values["os"], "os"),
        tags=_tags(values["tags"]),
    )


def _listed_nics(values: Mapping[str, Any]) -> tuple[Nic, ...] | None:
    columns = [values[field] for field in ("nic.ips", "nic.macs", "nic.modes", "nic.links")]
    if any(column is None for column in columns):
        return None
    if len({len(column) for column in columns}) > 1:
        raise ValueError("its NICs have not as many addresses as modes and links")
    return tuple(
        Nic(
            ip=_text(ip, "ip"),
            mac=_text(mac, "mac"),
            mode=_text(mode, "mode"),
            link=_text(link, "link"),
        )
        for ip, mac, mode, link in zip(*columns, strict=True)
    )


def _queried_configuration(details: Mapping[str, Any]) -> Configuration:
    backend = details.get("be_actual") or details.get("be_instance") or {}
    memory = backend.get("maxmem", backend.get("memory"))
    nics, disks, primary = details.get("nics"), details.get("disks"), details.get("pnode")
    return Configuration(
        memory=_number(memory, "memory"),
        vcpus=_number(backend.get("vcpus"), "vcpus"),
        disks=None if disks is None else _sizes([disk.get("size") for disk in disks]),
        nics=None if nics is None else tuple(parse_nic(nic) for nic in nics),
        nodes=None if primary is None else _nodes(primary, details.get("snodes")),
        os=_text(details.get("os"), "os"),
    )


def _nodes(primary: Any, secondaries: Any) -> tuple[str, ...]:
    return tuple(text_of(node, "node") for node in [primary, *(secondaries or [])])


def _tags(values: Any) -> tuple[str, ...] | None:
    if values is not None and not isinstance(values, list):
        raise ValueError("its tags are no list")
    return None if values is None else tuple(sorted(text_of(tag, "tag") for tag in values))


def _sizes(values: Any) -> tuple[int, ...] | None:
    if values is None:
        return None
    sizes = [_number(value, "disk size") for value in values]
    return None if any(size is None for size in sizes) else tuple(s for s in sizes if s is not None)


def _number(value: Any, what: str) -> int | None:
    return None if value is None else number_of(value, what)


def _text(value: Any, what: str) -> str | None:
    return None if value is None else text_of(value, what)
