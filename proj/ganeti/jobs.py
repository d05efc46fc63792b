"""What a job's row in the queue means."""

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from proj.backend import JobReport, JobState, QueuedJob, Unreadable, Verdict
from proj.ganeti.opcodes import QUERY, work_of
from proj.ganeti.replies import job_id_of, read_fields, read_query_result
from proj.ganeti.states import STATUS_OF_WORD
from proj.ganeti.values import printable, problem_of, shown
from proj.observation import Interval, Status

LABEL = "reconciliation"
"""Ganeti counts a rate limit by its label: it must never change from job to job."""

JOB_FIELDS = ("id", "status", "opresult", "ops")
FEED_FIELDS = ("id", "status", "ops")
OPEN = ("queued", "waiting", "running", "canceling")

_STATES: Mapping[Any, JobState] = {
    None: JobState.UNKNOWN,
    "queued": JobState.QUEUED,
    "waiting": JobState.WAITING,
    # It may run all the same.
    "canceling": JobState.WAITING,
    "running": JobState.RUNNING,
    "success": JobState.ENDED,
    "error": JobState.ENDED,
    "canceled": JobState.ENDED,
}
_OURS = re.compile(rf"rate-limit:\d+:{LABEL}")
_MALFORMED = (ValueError, TypeError, KeyError, IndexError, AttributeError)


def reports_on(
    rows: Sequence[Any],
    submitted: Mapping[int, datetime],
    answered: datetime,
    statuses: Mapping[str, Status] = STATUS_OF_WORD,
) -> Iterator[JobReport]:
    """Read the rows of ``Query("job", JOB_FIELDS)``; one that cannot be read spoils itself."""
    for row in rows:
        try:
            yield report_on(row, submitted, answered, statuses)
        except _MALFORMED as error:
            job_id = id_in(row)
            if job_id in submitted:
                yield JobReport(job_id, Verdict.FAILED, error=f"job {job_id}: {problem_of(error)}")


def id_in(row: Any) -> int:
    """Return the id in a row of either fields; -1 where it cannot be told."""
    try:
        return job_id_of(row[0][1])
    except _MALFORMED:
        return -1


def report_on(
    row: Any,
    submitted: Mapping[int, datetime],
    answered: datetime,
    statuses: Mapping[str, Status] = STATUS_OF_WORD,
) -> JobReport:
    """Read one row of ``Query("job", JOB_FIELDS)``.

    Raises:
        ValueError: the row is not of the shape that was asked for.
    """
    values = read_fields(row, JOB_FIELDS)
    job_id = job_id_of(values["id"])
    interval = Interval(submitted[job_id], answered)
    match values["status"]:
        case None:
            return JobReport(job_id, Verdict.LOST, error=f"job {job_id} is lost")
        case status if status in OPEN:
            return JobReport(job_id, Verdict.PENDING, is_unstarted=status in ("queued", "waiting"))
        case "canceled":
            return JobReport(job_id, Verdict.RETRY, error=f"job {job_id} was canceled")
        case "success":
            return _success(job_id, values, interval, statuses)
        case "error":
            return _error(job_id, values["opresult"])
        case other:
            raise ValueError(f"job {job_id} has the unknown status {shown(other)}")


def read_queue(rows: Sequence[Any]) -> tuple[list[QueuedJob], int]:
    """Read the rows of ``Query("job", FEED_FIELDS)``; one that cannot be read spoils itself.

    Returns:
        The jobs, and the number of rows that could not be read.
    """
    found, unreadable = [], 0
    for row in rows:
        try:
            found.append(_queued_job(row))
        except _MALFORMED:
            unreadable += 1
    return found, unreadable


def _queued_job(row: Any) -> QueuedJob:
    values = read_fields(row, FEED_FIELDS)
    opcodes = values["ops"] or []
    works = [work for opcode in opcodes for work in work_of(opcode)]
    return QueuedJob(
        job_id=job_id_of(values["id"]),
        state=_STATES[values["status"]],
        work=tuple(dict.fromkeys(works)),
        # One of several is `waiting` again between them: nobody knows when each of them read.
        is_query=len(opcodes) == 1 and opcodes[0]["OP_ID"] == QUERY,
        is_ours=any(_bears_our_label(opcode) for opcode in opcodes),
    )


def _bears_our_label(opcode: Mapping[str, Any]) -> bool:
    return any(
        isinstance(text, str) and _OURS.fullmatch(text) for _, text, _ in opcode.get("reason") or ()
    )


def _success(
    job_id: int,
    values: Mapping[str, Any],
    interval: Interval,
    statuses: Mapping[str, Status],
) -> JobReport:
    if len(values["ops"]) != len(values["opresult"]):
        raise ValueError("its results were cut short")
    observations, unreadable = [], []
    for operation, result in zip(values["ops"], values["opresult"], strict=True):
        for read in read_query_result(
            result,
            job_id=job_id,
            static=bool(operation.get("static")),
            interval=interval,
            statuses=statuses,
        ):
            if isinstance(read, Unreadable):
                unreadable.append(read)
            else:
                observations.append(read)
    return JobReport(job_id, Verdict.ANSWERED, tuple(observations), tuple(unreadable))


def _error(job_id: int, results: Any) -> JobReport:
    kind, message, code = _reason(results)
    text = f"job {job_id}: {printable(message)}"
    if code == "unknown_entity":
        return JobReport(job_id, Verdict.ABSENT, error=text)
    if code == "wrong_state" or kind is None:
        return JobReport(job_id, Verdict.RETRY, error=text)
    return JobReport(job_id, Verdict.FAILED, error=text)


def _reason(results: Any) -> tuple[str | None, str, str | None]:
    """Return the error's class, its text and its code, as far as the job tells them."""
    result = results[0] if isinstance(results, list) and results else None
    if isinstance(result, list) and len(result) == 2 and isinstance(result[1], list):
        kind, arguments = result
        message = str(arguments[0]) if arguments else str(kind)
        code = str(arguments[1]) if len(arguments) > 1 else None
        return str(kind), html.unescape(message), code
    return None, html.unescape(str(result)) if result else "ended without a reason", None
