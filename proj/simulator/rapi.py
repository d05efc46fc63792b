"""From a request to the answer that RAPI gives: routing and shapes, no sockets."""

import html
import json
import re
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from proj.simulator.faults import Faults, is_in
from proj.simulator.operations import QUERY
from proj.simulator.queue import Job, Queue
from proj.simulator.truth import Instance, Json, Truth

Row = list[list[Any]]

NORMAL, UNKNOWN, NO_DATA, UNAVAILABLE = 0, 1, 2, 3


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP status and a body."""

    status: int
    body: bytes
    delay: float = 0.0
    """Seconds that it takes because a node hangs."""


class Hangs(Exception):
    """This request is never answered."""


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
            self._check_rights(method, url.path)
            for pattern, handle in _ROUTES:
                match = pattern.fullmatch(url.path)
                if match:
                    names = [unquote(name) for name in match.groups()]
                    options = {key: values[-1] for key, values in parse_qs(url.query).items()}
                    given = json.loads(body) if body else None
                    return handle(self, method, names, options, given)
            raise _not_found()
        except HttpError as error:
            return error.reply

    def _check_rights(self, method: str, path: str) -> None:
        needed: str | None = "" if method == "GET" else "write"
        if path.startswith("/2/query/"):
            needed = self._faults.query_right
        if needed is None:
            raise _not_found()
        if needed and self._faults.rights not in (needed, "write"):
            raise HttpError(403, "Forbidden", "Request forbidden -- authorization will not help")

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
            definitions = _definitions(fields, _JOB_FIELDS)
            return Reply(200, _json({"fields": definitions, "data": rows}))
        raise HttpError(400, "Bad Request", f"unknown resource {what}")

    def instances(self, method: str, names: Sequence[str], options: Any, body: Json) -> Reply:
        if "bulk" in options and options["bulk"] != "0":
            records = [self._bulk(instance) for instance in self._shown()]
            return Reply(200, _json(records), self._delay())
        return _ok([{"id": i.name, "uri": f"/2/instances/{i.name}"} for i in self._shown()])

    def instance(self, method: str, names: Sequence[str], options: Any, body: Json) -> Reply:
        found = self._truth.complete(names[0], ignores_case=False)
        if found is None:
            raise _not_found()
        return Reply(200, _json(self._bulk(found)), self._truth.nodes[found.node].hangs)

    def instance_info(self, method: str, names: Sequence[str], options: Any, body: Json) -> Reply:
        operation: dict[str, Json] = {
            "OP_ID": QUERY,
            "instances": [names[0]],
            "static": options.get("static", "0") not in ("0", ""),
            "use_locking": True,
            "reason": [["gnt:library:rlib2:instances_name_info", "", time.time_ns()]],
        }
        if "reason" in options:
            operation["reason"].insert(0, ["gnt:user", options["reason"], time.time_ns()])
        return _ok(self._queue.submit(operation))

    def jobs(self, method: str, names: Sequence[str], options: Any, body: Json) -> Reply:
        listed = self._queue.listed()
        if "bulk" in options and options["bulk"] != "0":
            return _ok([self._job(job, _JOB_BULK) for job in listed])
        return _ok([{"id": str(job.number), "uri": f"/2/jobs/{job.number}"} for job in listed])

    def job(self, method: str, names: Sequence[str], options: Any, body: Json) -> Reply:
        number = int(names[0])
        if method == "DELETE":
            done = self._queue.cancel(number)
            text = f"Job {number} canceled" if done else f"Job {number} not found in queue"
            return _ok([done, text])
        job = self._queue.find(number)
        return _ok(self._job(job, _JOB) if job else dict.fromkeys(_JOB, None) | {"id": number})

    def _shown(self) -> list[Instance]:
        """Return what a list is made of: whom, how often, and in which order."""
        faults = self._faults
        if faults.empty_list:
            return []
        shown = [i for i in list(self._truth.instances.values()) if i.name not in faults.hidden]
        shown += [i for i in shown if is_in(faults.doubled, i.name)]
        if faults.halved:
            shown = shown[: len(shown) // 2]
        return shown[::-1] if faults.reversed else shown

    def _delay(self) -> float:
        """Return how long a list takes: as long as the slowest node that hangs."""
        nodes = [self._truth.nodes[name] for name in {i.node for i in self._shown()}]
        return max((node.hangs for node in nodes if node.is_silent), default=0.0)

    def _query_instances(self, fields: tuple[str, ...], qfilter: Json) -> Reply:
        # A list is made once for each state of the truth: what is measured is its reader.
        faults, delay = self._faults, self._delay() if "status" in fields else 0.0
        is_plain = qfilter is None and not (faults.doubled or faults.spoils_records)
        switches = (faults.empty_list, faults.halved, faults.reversed, frozenset(faults.hidden))
        key = (self._truth.generation, switches)
        kept = self._lists.get(fields)
        if is_plain and kept is not None and kept[0] == key:
            return Reply(200, kept[1], delay)
        wanted = self._wanted(qfilter)
        rows = [self._row(it, fields) for it in self._shown() if wanted(it)]
        definitions = json.dumps(_definitions(fields, _INSTANCE_FIELDS))
        body = f'{{"fields": {definitions}, "data": [{", ".join(rows)}]}}'.encode()
        if is_plain:
            self._lists[fields] = (key, body)
        return Reply(200, body, delay)

    def _wanted(self, qfilter: Json) -> Callable[[Instance], bool]:
        """Return whether a filter lets an instance through; one of names must know them all."""
        names = _values_in(qfilter, "name")
        if names is None:
            return lambda i: (
                qfilter is None
                or _matches(qfilter, {"name": i.name, "uuid": i.uuid, "pnode": i.node})
            )
        found = {name: self._truth.complete(name, ignores_case=False) for name in names}
        for name, instance in found.items():
            if instance is None:
                problem = f"('Instance name {name} not found', 'unknown_entity')"
                raise HttpError(500, problem, "Server got itself in trouble")
        return lambda i: i in found.values()

    def _row(self, instance: Instance, fields: tuple[str, ...]) -> str:
        if self._faults.spoils_records:
            return json.dumps([self._spoiled_field(instance, name) for name in fields])
        rows = self._rows.setdefault(fields, {})
        stamp = self._truth.stamp_of(instance)
        kept = rows.get(instance.name)
        if kept is None or kept[0] != stamp:
            values = [self._instance_field(instance, name) for name in fields]
            kept = rows[instance.name] = (stamp, json.dumps(values))
        return kept[1]

    def _spoiled_field(self, instance: Instance, field: str) -> list[Any]:
        if is_in(self._faults.malformed, instance.name) and field != "name":
            return [NORMAL, GARBAGE]
        if is_in(self._faults.without_uuid, instance.name) and field == "uuid":
            return [UNKNOWN, None]
        return self._instance_field(instance, field)

    def _instance_field(self, instance: Instance, field: str) -> list[Any]:
        getter = _INSTANCE_FIELDS.get(field)
        return [UNKNOWN, None] if getter is None else [NORMAL, getter(self._truth, instance)]

    def _job_rows(self, fields: Sequence[str], qfilter: Json) -> list[Row]:
        wanted = _values_in(qfilter, "id")
        if wanted is not None:
            found = [(number, self._queue.find(number)) for number in dict.fromkeys(wanted)]
            return [
                self._job_row(job, fields)
                if job
                else [[NORMAL, number] if f == "id" else [UNAVAILABLE, None] for f in fields]
                for number, job in found
            ]
        return [
            self._job_row(job, fields)
            for job in self._queue.listed()
            if qfilter is None or _matches(qfilter, {"id": job.number, "status": job.status})
        ]

    def _job_row(self, job: Job, fields: Sequence[str]) -> Row:
        values = self._job(job, fields)
        return [[NORMAL, values[f]] if f in values else [UNKNOWN, None] for f in fields]

    def _job(self, job: Job, fields: Sequence[str]) -> dict[str, Json]:
        if is_in(self._faults.spoiled, job.number, *job.instances):
            return dict.fromkeys(fields, GARBAGE) | {"id": job.number}
        return {field: _JOB_FIELDS[field](self, job) for field in fields if field in _JOB_FIELDS}

    def _result(self, job: Job) -> Json:
        faults = self._faults
        who: list[int | str] = [job.number, *job.instances]
        if is_in(faults.unfetchable, *who):
            raise HttpError(500, "Internal Server Error", f"Can't load job file of {job.number}")
        if is_in(faults.hanging, *who):
            raise Hangs
        return [GARBAGE if is_in(faults.garbled, *who) else op.result for op in job.ops]

    def _stamp(self, moment: float | None) -> list[int] | None:
        if moment is None:
            return None
        moment = moment + self._queue.skew
        return [int(moment), int(moment % 1 * 1_000_000)]

    def _bulk(self, instance: Instance) -> dict[str, Json]:
        fields = {name: self._spoiled_field(instance, name) for name in _BULK}
        memory, vcpus = instance.memory, instance.vcpus
        backend = {"maxmem": memory, "minmem": memory, "memory": memory, "vcpus": vcpus}
        return {name: value for name, (status, value) in fields.items() if status == NORMAL} | {
            "beparams": backend
        }


GARBAGE = {"garbage": [None]}

_BULK = (
    "name", "admin_state", "status", "oper_state", "pnode", "snodes", "os", "disk_template",
    "disk.sizes", "nic.ips", "nic.macs", "nic.modes", "nic.links",
    "ctime", "mtime", "uuid", "serial_no", "tags",
)  # fmt: skip

_JOB_BULK = ("id", "ops", "status", "summary", "opstatus", "received_ts", "start_ts", "end_ts")
_JOB = (*_JOB_BULK, "oplog", "opresult")

_JOB_FIELDS: dict[str, Callable[[Rapi, Job], Json]] = {
    "id": lambda _, job: job.number,
    "status": lambda _, job: job.status,
    "summary": lambda _, job: [op.summary for op in job.ops],
    "ops": lambda _, job: [op.given for op in job.ops],
    "opstatus": lambda _, job: [op.status for op in job.ops],
    "opresult": lambda rapi, job: rapi._result(job),
    "oplog": lambda _, job: [[] for _ in job.ops],
    "received_ts": lambda rapi, job: rapi._stamp(job.received),
    "start_ts": lambda rapi, job: rapi._stamp(job.started),
    "end_ts": lambda rapi, job: rapi._stamp(job.ended),
    "archived": lambda rapi, job: job.number in rapi._queue.archived,
}

_INSTANCE_FIELDS: dict[str, Callable[[Truth, Instance], Json]] = {
    "name": lambda _, i: i.name,
    "uuid": lambda _, i: i.uuid,
    "tags": lambda _, i: i.tags,
    "status": lambda truth, i: truth.status_of(i),
    "admin_state": lambda _, i: i.admin_state,
    "admin_up": lambda _, i: i.admin_state == "up",
    "oper_state": lambda truth, i: truth.runs(i),
    "forthcoming": lambda _, i: i.is_forthcoming,
    "be/maxmem": lambda _, i: i.memory,
    "be/vcpus": lambda _, i: i.vcpus,
    "disk_template": lambda _, i: "plain" if i.disks else "diskless",
    "disk.sizes": lambda _, i: i.disks,
    "nic.ips": lambda _, i: [nic[0] for nic in i.nics],
    "nic.macs": lambda _, i: [nic[1] for nic in i.nics],
    "nic.modes": lambda _, i: [nic[2] for nic in i.nics],
    "nic.links": lambda _, i: [nic[3] for nic in i.nics],
    "pnode": lambda _, i: i.node,
    "snodes": lambda _, i: i.secondaries,
    "os": lambda _, i: i.os,
    "serial_no": lambda _, i: i.serial,
    "ctime": lambda _, i: i.ctime,
    "mtime": lambda _, i: i.mtime,
}

_OPERATORS = ("|", "&", "!", "=", "==", "!=", ">", "<")

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


def _not_found() -> HttpError:
    return HttpError(404, "Not Found", "Nothing matches the given URI")


def _definitions(fields: Sequence[str], known: Container[str]) -> list[dict[str, str]]:
    return [
        {"name": name, "title": name, "kind": "other", "doc": name}
        if name in known
        else {"name": name, "title": name, "kind": "unknown", "doc": f"Unknown field '{name}'"}
        for name in fields
    ]


def _values_in(qfilter: Json, field: str) -> list[Any] | None:
    """Return what a filter that asks for nothing but values of one field asks for."""
    if not isinstance(qfilter, list) or not qfilter:
        return None
    operator, *operands = qfilter
    if operator in ("=", "==") and operands[0] == field:
        return [operands[1]]
    if operator == "|":
        found = [_values_in(operand, field) for operand in operands]
        if all(values is not None for values in found):
            return [value for values in found if values is not None for value in values]
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
        case "=" | "==":
            return bool(values.get(operands[0]) == operands[1])
        case "!=":
            return bool(values.get(operands[0]) != operands[1])
        case ">":
            return bool(values[operands[0]] > operands[1])
        case _:
            return bool(values[operands[0]] < operands[1])
