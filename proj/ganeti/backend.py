"""A Ganeti cluster as a backend: look, query, poll. It reads and never acts."""

import marshal
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from hashlib import blake2b
from typing import Any

from ganeti.rapi.client import GanetiApiError

from proj.backend import JobReport, Look, SaysNothing
from proj.ganeti import jobs, replies
from proj.ganeti.client import PROBE_TIMEOUT, Connection, connect
from proj.ganeti.errors import NOT_FOUND, sorted_errors
from proj.ganeti.states import STATUS_OF_WORD
from proj.observation import Interval, JobEnd, Status

LABEL = "reconciliation"
"""Ganeti counts a rate limit by its label: it must never change from job to job."""


class GanetiBackend:
    """Implements ``proj.backend.Backend`` over RAPI."""

    def __init__(
        self,
        connection: Connection,
        clock: Callable[[], datetime],
        statuses: Mapping[str, Status] = STATUS_OF_WORD,
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._statuses = statuses

    def version(self) -> str:
        """Return the version of RAPI's protocol."""
        return str(self._call(lambda client: client.GetVersion(), timeout=PROBE_TIMEOUT))

    def look(self) -> Look:
        """Read the open jobs, then all instances."""
        begun = self._clock()
        still_open = ["|", *(["=", "status", word] for word in replies.OPEN_JOB)]
        queue = self._query("job", replies.WORK_FIELDS, still_open)
        with self._sorted():
            work = tuple(replies.read_work(queue))
        rows = self._query("instance", replies.LIST_FIELDS, None)
        interval = Interval(begun, self._clock())
        return Look(
            work=work,
            interval=interval,
            size=len(rows),
            digest=_digest(rows),
            read=partial(replies.read_list, rows, interval, self._statuses),
        )

    def submit_query(self, instance: str, *, limit: int) -> int:
        """Issue OP_INSTANCE_QUERY_DATA for one instance."""
        reason = f"rate-limit:{limit}:{LABEL}"
        job_id = self._call(lambda client: client.GetInstanceInfo(instance, reason=reason))
        with self._sorted():
            return replies.job_id_of(job_id)

    def poll(self, submitted: Mapping[int, datetime]) -> Sequence[JobReport]:
        """Read all these jobs by one request."""
        rows = self._query("job", jobs.JOB_FIELDS, _any_of(submitted))
        answered = self._clock()
        with self._sorted():
            return list(jobs.reports_on(rows, submitted, answered, self._statuses))

    def ends(self, job_ids: Sequence[int]) -> Mapping[int, JobEnd]:
        """Read how these jobs ended; one the queue does not know is lost."""
        rows = self._query("job", jobs.END_FIELDS, _any_of(job_ids))
        ends = dict.fromkeys(job_ids, JobEnd.LOST)
        with self._sorted():
            for row in rows:
                values = replies.read_fields(row, jobs.END_FIELDS)
                end = jobs.end_of(row)
                if end is not None:
                    ends[end[0]] = end[1]
                elif values["status"] is not None:
                    ends.pop(replies.job_id_of(values["id"]), None)
        return ends

    def exists(self, instance: str) -> bool:
        """Ask for the very name; a 404 is the only "no"."""

        def ask(client: Any) -> bool:
            try:
                client.GetInstance(instance)
            except GanetiApiError as error:
                if error.code != NOT_FOUND:
                    raise
                return False
            return True

        return bool(self._call(ask))

    def _query(self, what: str, fields: Sequence[str], qfilter: Any) -> list[Any]:
        answer = self._call(lambda client: client.Query(what, list(fields), qfilter))
        rows = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(rows, list):
            raise SaysNothing(
                f"{self._connection.name}: {self._connection.where} gave no table of {what}s"
            )
        return rows

    def _call(self, request: Callable[[Any], Any], **options: int) -> Any:
        with self._sorted():
            return request(connect(self._connection, **options))

    def _sorted(self) -> Any:
        return sorted_errors(self._connection.name, self._connection.where)


def _digest(rows: list[Any]) -> str:
    # Version 2 of the format writes equal values alike, whatever objects hold them.
    return blake2b(marshal.dumps(rows, 2), digest_size=32).hexdigest()


def _any_of(job_ids: Any) -> list[Any]:
    return ["|", *(["=", "id", job_id] for job_id in job_ids)]
