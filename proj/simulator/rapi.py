"""From a request to the answer that RAPI gives: routing and shapes, no sockets."""

import html
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from proj.simulator.faults import Faults
from proj.simulator.queue import Queue
from proj.simulator.truth import Instance, Job, Json, Truth

Row = list[list[Any]]

NORMAL, UNKNOWN, NO_DATA, UNAVAILABLE = 0, 1, 2, 3


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP status and a body."""

    status: int
    body: bytes


class HttpError(Exception):
    """RAPI's answer to a request that it does not fulfil."""

    def __init__(self, status: int, message: str, explain: str = "") -> None:
        super().__init__(message)
        self.reply = Reply(
            status,
            _json({"code": status, "message": message, "explain": html.escape(explain)}),
        )


class Rapi:
    """One cluster's RAPI."""

    def __init__(self, truth: Truth, queue: Queue, faults: Faults) -> None:
        self._truth, self._queue, self._faults = truth, queue, faults
        self._lists: dict[tuple[str, ...], tuple[object, bytes]] = {}
        self._rows: dict[tuple[str, ...], dict[str, tuple[int, str]]] = {}
        self.requests: list[tuple[str, str]] = []

    def answer(self, method: str, target: str, body: bytes) -> Reply:
        """Answer one authenticated request."""
        url = urlsplit(target)
        self.requests.append((method, url.path))
        del self.requests[:-1000]
        if self._faults.status is not None:
            return HttpError(self._faults.status, "Fault", "switched on").reply
        self._queue.advance()
        try:
            for pattern, handle in _ROUTES:
                match = pattern.fullmatch(url.path)
                if match:
                    names = [unquote(name) for name in match.groups()]
                    options = {key: values[-1] for key, values in parse_qs(url.query).items()}
                    given = json.loads(body) if body else None
                    return handle(self, method, names, options, given)
            raise HttpError(404, "Not Found", "Nothing matches the given URI")
        except HttpError as error:
            return error.reply

    def version(self, method: str, names: Sequence[str], options: Any, body: Json) -> Reply:
        return _ok(2)

    def features(self, method: str, names: Sequence[str], options: Any, body: Json) -> Reply:
        return _ok(["instance-create-reqv1", "instance-reinstall-reqv1"])

    def info(self, method: str, names: Sequence[str], options: Any, body: Json) -> Reply:
        names_of = {"name": self._truth.name, "master": self._truth.master}
        return _ok(names_of | {"software_version": "3.0.2"})

    def query(self, method: str, names: Sequence[str], options: Any, body: Json) -> Reply:
        what = names[0]
        if not isinstance(body, dict) or "fields" not in body:
            raise HttpError(400, "Bad Request", "Missing required parameter: fields")
        fields, qfilter = tuple(body["fields"]), body.get("qfilter", body.get("filter"))
        _check_operators(qfilter)
        if what == "instance":
            return self._query_instances(fields, qfilter)
        if what == "job":
            rows = self._job_rows(fields, qfilter)
            return Reply(200, _json({"fields": _definitions(fields), "data": rows}))
        raise HttpError(400, "Bad Request", f"unknown resource {what}")

    def instances(self, method: str, names: Sequence[str], options: Any, body: Json) -> Reply:
        if "bulk" in options and options["bulk"] != "0":
            return _ok([self._bulk(instance) for instance in self._shown()])
        return _ok([{"id": i.name, "uri": f"/2/instances/{i.name}"} for i in self._shown()])

    def instance(self, method: str, names: Sequence[str], options: Any, body: Json) -> Reply:
        found = self._truth.instances.get(names[0])
        if found is None:
            raise HttpError(404, "Not Found", f"Instance '{names[0]}' not known")
        return _ok(self._bulk(found))

    def instance_info(self, method: str, names: Sequence[str], options: Any, body: Json) -> Reply:
        operation: dict[str, Json] = {
            "OP_ID": "OP_INSTANCE_QUERY_DATA",
            "instances": [names[0]],
            "static": options.get("static", "0") not in ("0", ""),
            "use_locking": True,
            "reason": [],
        }
        if "reason" in options:
            operation["reason"] = [["gnt:user", options["reason"], time.time_ns()]]
        return _ok(self._queue.submit(operation))

    def jobs(self, method: str, names: Sequence[str], options: Any, body: Json) -> Reply:
        listed = list(self._queue.jobs.values())
        if "bulk" in options and options["bulk"] != "0":
            return _ok([self._job(job) for job in listed])
        return _ok([{"id": str(job.number), "uri": f"/2/jobs/{job.number}"} for job in listed])

    def job(self, method: str, names: Sequence[str], options: Any, body: Json) -> Reply:
        number = int(names[0])
        if method == "DELETE":
            done = self._queue.cancel(number)
            text = f"Job {number} canceled" if done else f"Job {number} not found in queue"
            return _ok([done, text])
        job = self._queue.find(number)
        return _ok(self._job(job) if job else dict.fromkeys(_JOB, None) | {"id": number})

    def _shown(self) -> list[Instance]:
        if self._faults.empty_list:
            return []
        hidden = self._faults.hidden
        return [i for i in list(self._truth.instances.values()) if i.name not in hidden]

    def _query_instances(self, fields: tuple[str, ...], qfilter: Json) -> Reply:
        # A list is made once for each state of the truth: what is measured is its reader.
        key = (self._truth.generation, self._faults.empty_list, frozenset(self._faults.hidden))
        kept = self._lists.get(fields)
        if qfilter is None and kept is not None and kept[0] == key:
            return Reply(200, kept[1])
        rows = [
            self._row(instance, fields)
            for instance in self._shown()
            if qfilter is None or _matches(qfilter, {"name": instance.name, "pnode": instance.node})
        ]
        definitions = json.dumps(_definitions(fields))
        body = f'{{"fields": {definitions}, "data": [{", ".join(rows)}]}}'.encode()
        if qfilter is None:
            self._lists[fields] = (key, body)
        return Reply(200, body)

    def _row(self, instance: Instance, fields: tuple[str, ...]) -> str:
        rows = self._rows.setdefault(fields, {})
        stamp = self._truth.stamp_of(instance)
        kept = rows.get(instance.name)
        if kept is None or kept[0] != stamp:
            values = [self._instance_field(instance, name) for name in fields]
            kept = rows[instance.name] = (stamp, json.dumps(values))
        return kept[1]

    def _instance_field(self, instance: Instance, field: str) -> list[Any]:
        getter = _INSTANCE_FIELDS.get(field)
        if field == "status":
            return [NORMAL, self._truth.status_of(instance)]
        return [UNKNOWN, None] if getter is None else [NORMAL, getter(instance)]

    def _job_rows(self, fields: Sequence[str], qfilter: Json) -> list[Row]:
        wanted = _ids_in(qfilter)
        if wanted is not None:
            rows = []
            for number in dict.fromkeys(wanted):
                job = self._queue.find(number)
                if job is None:
                    rows.append(
                        [[NORMAL, number] if f == "id" else [UNAVAILABLE, None] for f in fields]
                    )
                else:
                    rows.append(self._job_row(job, fields))
            return rows
        return [
            self._job_row(job, fields)
            for job in list(self._queue.jobs.values())
            if qfilter is None or _matches(qfilter, {"id": job.number, "status": job.status})
        ]

    def _job_row(self, job: Job, fields: Sequence[str]) -> Row:
        values = self._job(job)
        return [[NORMAL, values[f]] if f in values else [UNKNOWN, None] for f in fields]

    def _job(self, job: Job) -> dict[str, Json]:
        return {
            "id": job.number,
            "status": job.status,
            "summary": [job.summary],
            "ops": [job.operation],
            "opstatus": [job.status],
            "opresult": [job.result],
            "oplog": [[]],
            "received_ts": self._stamp(job.received),
            "start_ts": self._stamp(job.started),
            "end_ts": self._stamp(job.ended),
        }

    def _stamp(self, monotonic: float | None) -> list[int] | None:
        if monotonic is None:
            return None
        moment = time.time() - time.monotonic() + monotonic + self._queue.skew
        return [int(moment), int(moment % 1 * 1_000_000)]

    def _bulk(self, instance: Instance) -> dict[str, Json]:
        status = self._truth.status_of(instance)
        unknown = status in ("ERROR_nodedown", "ERROR_nodeoffline")
        return {
            "name": instance.name,
            "admin_state": instance.admin_state,
            "status": status,
            "oper_state": None if unknown else instance.running_on == instance.node,
            "pnode": instance.node,
            "snodes": instance.secondaries,
            "os": instance.os,
            "beparams": {
                "maxmem": instance.memory,
                "minmem": instance.memory,
                "memory": instance.memory,
                "vcpus": instance.vcpus,
            },
            "disk.sizes": instance.disks,
            "nic.ips": [nic[0] for nic in instance.nics],
            "nic.macs": [nic[1] for nic in instance.nics],
            "nic.modes": [nic[2] for nic in instance.nics],
            "nic.links": [nic[3] for nic in instance.nics],
            "serial_no": instance.serial,
            "mtime": instance.mtime,
        }


_JOB = (
    "id", "status", "summary", "ops", "opstatus", "opresult", "oplog",
    "received_ts", "start_ts", "end_ts",
)  # fmt: skip

_INSTANCE_FIELDS: dict[str, Callable[[Instance], Json]] = {
    "name": lambda i: i.name,
    "be/maxmem": lambda i: i.memory,
    "be/vcpus": lambda i: i.vcpus,
    "disk.sizes": lambda i: i.disks,
    "nic.ips": lambda i: [nic[0] for nic in i.nics],
    "nic.macs": lambda i: [nic[1] for nic in i.nics],
    "nic.modes": lambda i: [nic[2] for nic in i.nics],
    "nic.links": lambda i: [nic[3] for nic in i.nics],
    "pnode": lambda i: i.node,
    "snodes": lambda i: i.secondaries,
    "os": lambda i: i.os,
    "serial_no": lambda i: i.serial,
    "mtime": lambda i: i.mtime,
}

_OPERATORS = ("|", "&", "!", "=", "!=", ">", "<")

Handler = Callable[[Rapi, str, Sequence[str], dict[str, str], Json], Reply]

_ROUTES: tuple[tuple[re.Pattern[str], Handler], ...] = (
    (re.compile(r"/version"), Rapi.version),
    (re.compile(r"/2/features"), Rapi.features),
    (re.compile(r"/2/info"), Rapi.info),
    (re.compile(r"/2/query/([^/]+)"), Rapi.query),
    (re.compile(r"/2/instances"), Rapi.instances),
    (re.compile(r"/2/instances/([^/]+)"), Rapi.instance),
    (re.compile(r"/2/instances/([^/]+)/info"), Rapi.instance_info),
    (re.compile(r"/2/jobs"), Rapi.jobs),
    (re.compile(r"/2/jobs/(\d+)"), Rapi.job),
)


def _ok(value: Json) -> Reply:
    return Reply(200, _json(value))


def _json(value: Json) -> bytes:
    return json.dumps(value).encode()


def _definitions(fields: Sequence[str]) -> list[dict[str, str]]:
    return [{"name": name, "title": name, "kind": "other", "doc": name} for name in fields]


def _ids_in(qfilter: Json) -> list[int] | None:
    """Return the ids of a filter that asks for nothing but ids: such jobs need not exist."""
    if not isinstance(qfilter, list) or not qfilter:
        return None
    operator, *operands = qfilter
    if operator == "=" and operands[0] == "id":
        return [int(operands[1])]
    if operator == "|":
        found = [_ids_in(operand) for operand in operands]
        if all(ids is not None for ids in found):
            return [number for ids in found if ids is not None for number in ids]
    return None


def _check_operators(qfilter: Json) -> None:
    """Refuse a filter as Ganeti does, whether there is anything to filter or not."""
    if not isinstance(qfilter, list) or not qfilter:
        return
    operator, *operands = qfilter
    if operator not in _OPERATORS:
        raise HttpError(502, "Bad Gateway", f"Unknown filter operator {operator}")
    for operand in operands:
        _check_operators(operand)


def _matches(qfilter: Json, values: dict[str, Any]) -> bool:
    operator, *operands = qfilter
    match operator:
        case "|":
            return any(_matches(operand, values) for operand in operands)
        case "&":
            return all(_matches(operand, values) for operand in operands)
        case "!":
            return not _matches(operands[0], values)
        case "=":
            return bool(values.get(operands[0]) == operands[1])
        case "!=":
            return bool(values.get(operands[0]) != operands[1])
        case ">":
            return bool(values[operands[0]] > operands[1])
        case _:
            return bool(values[operands[0]] < operands[1])
