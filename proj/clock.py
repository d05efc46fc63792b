"""The one clock of all workers: the Redis server's; and how long ago something was."""

from datetime import UTC, datetime
from functools import cache

import redis
from django.conf import settings

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


def now() -> datetime:
    """Return the time of the Redis server, in UTC, to the microsecond.

    Raises:
        redis.exceptions.RedisError: the server does not answer.
    """
    return moment(*server().time())


def moment(seconds: int, microseconds: int) -> datetime:
    """Return what Redis' TIME says as a moment in UTC."""
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=microseconds)


def now_or_here() -> datetime:
    """Return ``now()``, or this machine's time while Redis does not answer.

    For ages that a person reads; nothing may be decided by it.
    """
    try:
        return now()
    except redis.RedisError:
        return datetime.now(UTC)


def age(then: datetime | None, at: datetime) -> str:
    """Return how long ago ``then`` was, in the largest unit of which there are two."""
    if then is None:
        return "never"
    seconds = max(0, round((at - then).total_seconds()))
    for size, unit in _UNITS:
        if seconds >= 2 * size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


@cache
def server() -> "redis.Redis":
    """Return the connection to Redis that this process shares."""
    return redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=5, socket_connect_timeout=5, socket_keepalive=True
    )
