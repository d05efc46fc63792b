"""A Ganeti cluster as a backend: look, query, poll. It reads and never acts."""

import marshal
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Any

from ganeti.rapi.client import GanetiApiError

from proj.backend import Feed, JobReport, Look, QueuedJob, SaysNothing
from proj.ganeti import jobs, replies
from proj.ganeti.client import PROBE_TIMEOUT, Body, Connection, WithholdingCurl, connect
from proj.ganeti.errors import FORBIDDEN, NOT_FOUND, sorted_errors
from proj.ganeti.states import STATUS_OF_WORD
from proj.observation import Evidence, Interval, JobEnd, Status

LABEL = "reconciliation"
"""Ganeti counts a rate limit by its label: it must never change from job to job."""


class GanetiBackend:
    """Implements ``proj.backend.Backend`` over RAPI.

    Every request passes through ``gate``, which holds the bound on requests at a time.
    """

    def __init__(
        self,
        connection: Connection,
        clock: Callable[[], datetime],
        statuses: Mapping[str, Status] = STATUS_OF_WORD,
        gate: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._statuses = statuses
        self._gate = gate

    def version(self) -> str:
        """Return the version of RAPI's protocol."""
        return str(self._call(lambda client: client.GetVersion(), timeout=PROBE_TIMEOUT))

    def look(self) -> Look:
        """Read all instances."""
        look = self.look_unless("")
        assert isinstance(look, Look)
        return look

    def look_unless(self, digest: str) -> Look | Interval:
        """Read all instances; an answer with this digest is not even parsed."""
        # An operator who gives a word another meaning has every list read anew.
        begun, body = self._clock(), Body(digest, meaning=str(sorted(self._statuses.items())))
        answer = self._call(
            lambda client: client.Query("instance", list(replies.LIST_FIELDS)),
            curl_factory=lambda: WithholdingCurl(body),
        )
        interval = Interval(begun, self._clock())
        if body.is_known:
            return interval
        rows = self._rows(answer, "instance")
        return Look(
            interval=interval,
            size=len(rows),
            digest=body.digest,
            prints=lambda: [(replies.name_in(row), hash(marshal.dumps(row, 2))) for row in rows],
            read=lambda places: replies.read_list(
                [rows[place] for place in places], interval, self._statuses
            ),
        )

    def feed(self, after: int | None, known: Sequence[int]) -> Feed:
        """Read what is new in the queue; a second request asks for known jobs that are archived.

        Ganeti keeps the archive out of any query but one for nothing but ids.
        """
        begun = self._clock()
        if after is None:
            newest, rows = self._begin_feed()
        else:
            newest = after
            rows = self._query("job", jobs.FEED_FIELDS, ["|", [">", "id", after], *_ids(known)])
        with self._sorted():
            found = {job.job_id: job for job in jobs.read_feed(rows)}
        hidden = [job_id for job_id in known if job_id not in found]
        if hidden:
            rows = self._query("job", jobs.FEED_FIELDS, _any_of(hidden))
            lost = {job_id: QueuedJob(job_id, True, JobEnd.LOST) for job_id in hidden}
            with self._sorted():
                found |= lost | {job.job_id: job for job in jobs.read_feed(rows)}
        return Feed(
            jobs=tuple(found[job_id] for job_id in sorted(found)),
            newest=max([newest, *found]),
            interval=Interval(begun, self._clock()),
        )

    def _begin_feed(self) -> tuple[int, list[Any]]:
        listed = self._call(lambda client: client.GetJobs())
        with self._sorted():
            newest = max((replies.job_id_of(job) for job in listed), default=0)
        still_open = ["|", *(["=", "status", word] for word in jobs.OPEN)]
        return newest, self._query("job", jobs.FEED_FIELDS, still_open)

    def submit_query(self, instance: str, *, limit: int) -> int:
        """Issue OP_INSTANCE_QUERY_DATA for one instance."""
        reason = f"rate-limit:{limit}:{LABEL}"
        job_id = self._call(lambda client: client.GetInstanceInfo(instance, reason=reason))
        with self._sorted():
            return replies.job_id_of(job_id)

    def poll(
        self, submitted: Mapping[int, datetime], *, evidence: Evidence = Evidence.JOB
    ) -> Sequence[JobReport]:
        """Read all these jobs by one request."""
        rows = self._query("job", jobs.JOB_FIELDS, _any_of(submitted))
        answered = self._clock()
        with self._sorted():
            return list(jobs.reports_on(rows, submitted, answered, self._statuses, evidence))

    def cancel(self, job_id: int) -> bool:
        """Cancel the job, where the user has the option ``write``."""

        def ask(client: Any) -> bool:
            try:
                done, _ = client.CancelJob(job_id)
            except GanetiApiError as error:
                if error.code != FORBIDDEN:
                    raise
                return False
            return bool(done)

        return bool(self._call(ask))

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
        return self._rows(answer, what)

    def _rows(self, answer: Any, what: str) -> list[Any]:
        rows = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(rows, list):
            raise SaysNothing(
                f"{self._connection.name}: {self._connection.where} gave no table of {what}s"
            )
        return rows

    def _call(self, request: Callable[[Any], Any], **options: Any) -> Any:
        with self._gate(), self._sorted():
            return request(connect(self._connection, **options))

    def _sorted(self) -> Any:
        return sorted_errors(self._connection.name, self._connection.where)


def _any_of(job_ids: Iterable[int]) -> list[Any]:
    return ["|", *_ids(job_ids)]


def _ids(job_ids: Iterable[int]) -> list[Any]:
    return [["=", "id", job_id] for job_id in job_ids]
