"""How many requests a cluster gets at once, from all workers together."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from proj.backend import Busy, Span
from proj.clock import moment, server

LEASE = 120
"""Seconds after which the place of a worker that died is free again: longer than any request."""

_TAKE = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZREMRANGEBYSCORE', KEYS[1], math.ceil(now + ARGV[2]) + 1, '+inf')
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then return false end
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return time
"""


@contextmanager
def hold(cluster: str, limit: int) -> Iterator[Span]:
    """Hold one of the ``limit`` places of a cluster for the length of a request.

    A place that ends later than any that is taken now was dated by another clock: it is free.
    Each exchange with the server tells its time too, which a request of its own would cost.

    Raises:
        Busy: all places are taken; nothing waits for one, so that no worker is held up.
        redis.exceptions.RedisError: the server does not answer.
    """
    key, owner = f"requests:{cluster}", secrets.token_hex(8)
    taken = server().eval(_TAKE, 1, key, limit, LEASE, owner)
    if not taken:
        raise Busy(f"{cluster}: {limit} requests are under way already")
    begun = moment(*map(int, taken))
    span = Span(begun, begun)
    try:
        yield span
    finally:
        left = server().pipeline(transaction=False)
        left.zrem(key, owner)
        left.time()
        _, ended = left.execute()
        span.ended = moment(*ended)
