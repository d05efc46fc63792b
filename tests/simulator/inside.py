"""A simulated cluster without a network, on a clock that the test moves."""

import json
from typing import Any

from proj.simulator.faults import Faults
from proj.simulator.queue import Queue
from proj.simulator.rapi import Rapi, Reply
from proj.simulator.truth import Truth


class Inside:
    """What RAPI answers, and all that can be done behind its back. A job takes ten seconds."""

    def __init__(self, *names: str, nodes: int = 2) -> None:
        self._now = 1_000_000.0
        self.truth = Truth("sim", nodes=nodes, instances=0, clock=lambda: self._now)
        self.nodes = list(self.truth.nodes)
        for number, name in enumerate(names):
            self.truth.add(name, self.nodes[number % nodes])
        self.faults, self.queue = Faults(), Queue(self.truth, seconds=10)
        self.rapi = Rapi(self.truth, self.queue, self.faults)

    def wait(self, seconds: float) -> None:
        """Let time pass, and the jobs with it."""
        self._now += seconds
        self.queue.advance()

    def reply(self, method: str, path: str, body: Any = None) -> Reply:
        """Return the answer to a request, whatever it is."""
        return self.rapi.answer(method, path, json.dumps(body).encode() if body else b"")

    def get(self, path: str) -> Any:
        """Return what a request that is fulfilled gives."""
        reply = self.reply("GET", path)
        assert reply.status == 200, reply
        return json.loads(reply.body)

    def query(self, what: str, fields: list[str], qfilter: Any = None) -> list[list[Any]]:
        """Return the rows of a query, each field as status and value."""
        reply = self.reply("PUT", f"/2/query/{what}", {"fields": fields, "qfilter": qfilter})
        assert reply.status == 200, reply
        rows: list[list[Any]] = json.loads(reply.body)["data"]
        return rows

    def listed(self, field: str = "uuid") -> dict[str, Any]:
        """Return one field of the list, by the instances' names."""
        return {name: value for (_, name), (_, value) in self.query("instance", ["name", field])}

    def ask(self, name: str) -> int:
        """Submit a query job for an instance, as a client does."""
        return int(self.get(f"/2/instances/{name}/info"))

    def operate(self, kind: str, name: str, **options: Any) -> int:
        """Submit somebody else's job, which takes ten seconds unless told otherwise."""
        how = {key: options.pop(key) for key in ("seconds", "held", "unseen") if key in options}
        given = {"OP_ID": f"OP_INSTANCE_{kind}", "instance_name": name} | options
        return self.queue.submit(given, **how)

    def job(self, number: int) -> Any:
        """Return a job as it is shown."""
        return self.get(f"/2/jobs/{number}")

    def status(self, *numbers: int) -> list[str]:
        """Return how far jobs have come."""
        return [self.job(number)["status"] for number in numbers]
