"""A Ganeti cluster as a backend: look, query, poll. It reads and never acts."""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

from ganeti.rapi.client import GanetiApiError

from proj.backend import (
    Found,
    Gate,
    JobReport,
    JobState,
    Look,
    QueuedJob,
    Reading,
    SaysNothing,
    Submitted,
)
from proj.ganeti import jobs, replies
from proj.ganeti.client import PROBE_TIMEOUT, Body, Connection, WithholdingCurl, connect
from proj.ganeti.errors import FORBIDDEN, NOT_FOUND, NOT_IMPLEMENTED, sorted_errors
from proj.ganeti.states import STATUS_OF_WORD
from proj.ganeti.values import shown
from proj.names import is_instance_name
from proj.observation import Interval, Status

_MISSING = frozenset({NOT_FOUND, NOT_IMPLEMENTED})
_REFUSED = _MISSING | {FORBIDDEN}


class GanetiBackend:
    """Implements ``proj.backend.Backend`` over RAPI.

    Every request passes through ``gate``, which holds the bound on requests at a time.
    """

    def __init__(
        self, connection: Connection, gate: Gate, statuses: Mapping[str, Status] = STATUS_OF_WORD
    ) -> None:
        self._connection = connection
        self._gate = gate
        self._statuses = statuses

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
        body = Body(digest, meaning=str(sorted(self._statuses.items())))
        answer, interval = self._timed(
            lambda client: _first_of(
                _MISSING,
                lambda: body.read(client.Query("instance", list(replies.LIST_FIELDS))),
                lambda: _table(body.read(client.GetInstances(bulk=True)), replies.LIST_FIELDS),
            ),
            curl_factory=lambda: WithholdingCurl(body),
        )
        if body.is_known:
            return interval
        rows = self._rows(answer, "instance")
        return Look(
            interval=interval,
            size=len(rows),
            digest=body.digest,
            prints=lambda: replies.prints_of(rows),
            read=lambda places: replies.read_list(
                [rows[place] for place in places], interval, self._statuses
            ),
        )

    def read_queue(self, after: int | None, known: Sequence[int], *, whole: bool) -> Reading:
        """Read the queue; one more request asks for known jobs that are archived.

        Ganeti keeps the archive out of any query but one for nothing but ids. A known job whose
        row cannot be read is UNKNOWN: what it does is impossible to tell as well.
        """
        # Asked for first: what is submitted in between has a higher id, and is new next time.
        highest, before = self._highest() if whole else (None, None)
        found = {job_id: QueuedJob(job_id, JobState.UNKNOWN) for job_id in known}
        rows, interval = self._part_of_queue(after, known, whole=whole)
        begun, ended = (before or interval).not_before, interval.not_after
        listed = {jobs.id_in(row) for row in rows}
        hidden = [job_id for job_id in known if job_id not in listed]
        if hidden:
            more, interval = self._query_jobs(jobs.FEED_FIELDS, hidden)
            rows, ended = rows + more, interval.not_after
        read, unreadable = jobs.read_queue(rows)
        found |= {
            job.job_id: job
            for job in read
            if job.job_id in found
            or (after is not None and job.job_id > after)
            or (whole and job.is_open)
        }
        return Reading(
            jobs=tuple(found[job_id] for job_id in sorted(found)),
            interval=Interval(begun, ended),
            highest=highest,
            unreadable=unreadable,
        )

    def _highest(self) -> tuple[int, Interval]:
        listed, interval = self._timed(lambda client: client.GetJobs())
        with self._sorted():
            return max((replies.job_id_of(job) for job in listed), default=0), interval

    def _part_of_queue(
        self, after: int | None, known: Sequence[int], *, whole: bool
    ) -> tuple[list[Any], Interval]:
        parts = _ids(known)
        if after is not None:
            parts.append([">", "id", after])
        if whole:
            parts += [["=", "status", word] for word in jobs.OPEN]
        fields = list(jobs.FEED_FIELDS)
        answer, interval = self._timed(
            lambda client: _first_of(
                _REFUSED,
                lambda: client.Query("job", fields, ["|", *parts]),
                lambda: _table(self._whole_queue(client), fields),
            )
        )
        return self._rows(answer, "job"), interval

    def _whole_queue(self, client: Any) -> Any:
        records = client.GetJobs(bulk=True)
        if records and not any("status" in record for record in records):
            raise SaysNothing(
                f"{self._connection.name}: the Ganeti of {self._connection.where}"
                " is too old to tell the states of its jobs"
            )
        return records

    def submit_query(self, instance: str, *, limit: int) -> Submitted:
        """Issue OP_INSTANCE_QUERY_DATA for one instance."""
        name, reason = self._quoted(instance), f"rate-limit:{limit}:{jobs.LABEL}"
        job_id, interval = self._timed(lambda client: client.GetInstanceInfo(name, reason=reason))
        with self._sorted():
            return Submitted(replies.job_id_of(job_id), interval.not_before)

    def poll(self, submitted: Mapping[int, datetime]) -> Sequence[JobReport]:
        """Read all these jobs by one request, or by one each where Ganeti has no such query."""
        rows, interval = self._query_jobs(jobs.JOB_FIELDS, submitted)
        answered = interval.not_after
        with self._sorted():
            return list(jobs.reports_on(rows, submitted, answered, self._statuses))

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

    def find(self, instance: str) -> Found | None:
        """Ask for the name; a 404 is the only "no"."""
        name = self._quoted(instance)

        def ask(client: Any) -> Found | None:
            try:
                return replies.read_found(client.GetInstance(name))
            except GanetiApiError as error:
                if error.code != NOT_FOUND:
                    raise
                return None

        found: Found | None = self._call(ask)
        return found

    def _quoted(self, instance: str) -> str:
        if not is_instance_name(instance):
            raise SaysNothing(
                f"{self._connection.name}: {shown(instance)} is no name of an instance:"
                " nothing was asked"
            )
        return quote(instance, safe="")

    def _query_jobs(
        self, fields: Sequence[str], job_ids: Iterable[int]
    ) -> tuple[list[Any], Interval]:
        answer, interval = self._timed(
            lambda client: _first_of(
                _REFUSED,
                lambda: client.Query("job", list(fields), ["|", *_ids(job_ids)]),
                lambda: _table([_job(client, job_id) for job_id in job_ids], fields),
            )
        )
        return self._rows(answer, "job"), interval

    def _rows(self, answer: Any, what: str) -> list[Any]:
        rows = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(rows, list):
            raise SaysNothing(
                f"{self._connection.name}: {self._connection.where} gave no table of {what}s"
            )
        return rows

    def _call(self, request: Callable[[Any], Any], **options: Any) -> Any:
        return self._timed(request, **options)[0]

    def _timed(self, request: Callable[[Any], Any], **options: Any) -> tuple[Any, Interval]:
        with self._gate() as span, self._sorted():
            answer = request(connect(self._connection, **options))
        return answer, Interval(span.begun, span.ended)

    def _sorted(self) -> Any:
        return sorted_errors(self._connection.name, self._connection.where)


def _first_of(codes: Container[int], query: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
    """Return the answer to the query, or to the other request where RAPI refuses it with these.

    RAPI has /2/query since Ganeti 2.5, and lets readers use it since 2.7.
    """
    try:
        return query()
    except GanetiApiError as error:
        if error.code not in codes:
            raise
        return otherwise()


def _table(records: Any, fields: Sequence[str]) -> Any:
    """Return a list in bulk as the table that a query would have given."""
    return {"data": replies.rows_of(records, fields)} if isinstance(records, list) else None


def _job(client: Any, job_id: int) -> Any:
    """Return a job's record; one that an old Ganeti does not know has all but its id null."""
    try:
        return client.GetJobStatus(job_id)
    except GanetiApiError as error:
        if error.code != NOT_FOUND:
            raise
        return {"id": job_id}


def _ids(job_ids: Iterable[int]) -> list[Any]:
    return [["=", "id", job_id] for job_id in job_ids]
