"""What a query job's row in the queue means."""

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from proj.backend import JobReport, QueuedJob, Unreadable, Verdict, Work
from proj.ganeti.replies import job_id_of, read_fields, read_query_result
from proj.ganeti.states import STATUS_OF_WORD
from proj.ganeti.values import printable, problem_of, shown
from proj.observation import Configuration, Evidence, Interval, JobEnd, Observation, Status

JOB_FIELDS = ("id", "status", "opresult", "ops")
FEED_FIELDS = ("id", "status", "summary")
OPEN = ("queued", "waiting", "running", "canceling")

_NOT_STARTED = frozenset({"queued", "waiting"})
_QUERY = "INSTANCE_QUERY_DATA"
_CHANGES = re.compile(r"INSTANCE_([A-Z_]{1,30})\(([\w.-]{1,255})\)")
_READS_ONLY = frozenset({"QUERY", "CONSOLE"})

_NODE_DOWN = "Error checking node"
_WORD_OF_NODE_DOWN = "ERROR_nodedown"


def reports_on(
    rows: Sequence[Any],
    submitted: Mapping[int, datetime],
    answered: datetime,
    statuses: Mapping[str, Status] = STATUS_OF_WORD,
    evidence: Evidence = Evidence.JOB,
) -> Iterator[JobReport]:
    """Read the rows of ``Query("job", JOB_FIELDS)``; one that cannot be read spoils itself."""
    for row in rows:
        try:
            yield report_on(row, submitted, answered, statuses, evidence)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            job_id = _id_in(row)
            if job_id in submitted:
                yield JobReport(job_id, Verdict.FAILED, error=f"job {job_id}: {problem_of(error)}")


def _id_in(row: Any) -> int:
    try:
        return job_id_of(row[0][1])
    except (ValueError, TypeError, KeyError, IndexError):
        return -1


def report_on(
    row: Any,
    submitted: Mapping[int, datetime],
    answered: datetime,
    statuses: Mapping[str, Status] = STATUS_OF_WORD,
    evidence: Evidence = Evidence.JOB,
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
            return JobReport(job_id, Verdict.PENDING)
        case "canceled":
            return JobReport(job_id, Verdict.RETRY, error=f"job {job_id} was canceled")
        case "success":
            return _success(job_id, values, interval, statuses, evidence)
        case "error":
            return _error(job_id, values, interval, statuses, evidence)
        case other:
            raise ValueError(f"job {job_id} has the unknown status {shown(other)}")


def read_feed(rows: Sequence[Any]) -> Iterator[QueuedJob]:
    """Read the rows of ``Query("job", FEED_FIELDS)``.

    Raises:
        ValueError: a row is not of the shape that was asked for.
    """
    for row in rows:
        values = read_fields(row, FEED_FIELDS)
        summaries = values["summary"] or []
        if not isinstance(summaries, list):
            raise ValueError("the summary of a job is no list")
        works = [work for work in map(_work_in, summaries) if work is not None]
        yield QueuedJob(
            job_id=job_id_of(values["id"]),
            has_started=values["status"] not in _NOT_STARTED,
            end=_end_of(values["status"]),
            work=tuple(works),
            is_query=_QUERY in summaries,
        )


def _work_in(summary: Any) -> Work | None:
    match = _CHANGES.fullmatch(summary) if isinstance(summary, str) else None
    if match is None or match[1] in _READS_ONLY:
        return None
    return Work(instance=match[2], operation=match[1])


def _end_of(status: Any) -> JobEnd | None:
    match status:
        case None:
            return JobEnd.LOST
        case "success":
            return JobEnd.SUCCESS
        case "error" | "canceled":
            return JobEnd.FAILED
        case _:
            return None


def _success(
    job_id: int,
    values: Mapping[str, Any],
    interval: Interval,
    statuses: Mapping[str, Status],
    evidence: Evidence,
) -> JobReport:
    if len(values["ops"]) != len(values["opresult"]):
        raise ValueError("its results were cut short")
    observations, unreadable = [], []
    for operation, result in zip(values["ops"], values["opresult"], strict=True):
        for read in read_query_result(
            result,
            job_id=job_id,
            static=bool(operation.get("static")),
            evidence=evidence,
            interval=interval,
            statuses=statuses,
        ):
            if isinstance(read, Unreadable):
                unreadable.append(read)
            else:
                observations.append(read)
    return JobReport(job_id, Verdict.ANSWERED, tuple(observations), tuple(unreadable))


def _error(
    job_id: int,
    values: Mapping[str, Any],
    interval: Interval,
    statuses: Mapping[str, Status],
    evidence: Evidence,
) -> JobReport:
    kind, message, code = _reason(values["opresult"])
    text = f"job {job_id}: {printable(message)}"
    if code == "unknown_entity":
        return JobReport(job_id, Verdict.ABSENT, error=text)
    if code == "wrong_state" or kind is None:
        return JobReport(job_id, Verdict.RETRY, error=text)
    if message.startswith(_NODE_DOWN):
        names = [name for op in values["ops"] for name in op.get("instances", ())]
        # A job over many instances fails as a whole: which node was down is not told.
        if len(names) == 1:
            seen = Observation(
                instance=names[0],
                status=statuses[_WORD_OF_NODE_DOWN],
                backend_status=_WORD_OF_NODE_DOWN,
                configuration=Configuration(),
                evidence=evidence,
                interval=interval,
                job_id=job_id,
            )
            return JobReport(job_id, Verdict.ANSWERED, (seen,))
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
