"""A host system without Celery: it asks for an instance over HTTP."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.request import Request, urlopen

RECONCILER = os.environ.get("RECONCILER_URL", "http://127.0.0.1:8000")
TOKEN = os.environ["API_TOKEN"]


def reconcile(cluster: str, instance: str) -> str:
    """Have one instance reconciled now, and return where to follow it."""
    request = Request(
        f"{RECONCILER}/api/v1/clusters/{cluster}/instances/{instance}/reconcile",
        headers={"Authorization": f"Bearer {TOKEN}"},
        method="POST",
    )
    with urlopen(request, timeout=10) as answer:
        return str(answer.headers["Location"])


@contextmanager
def reconciled_after_an_error(cluster: str, instance: str) -> Iterator[None]:
    """Have an instance reconciled if what is done to it fails."""
    try:
        yield
    except Exception:
        with suppress(OSError):
            reconcile(cluster, instance)
        raise
