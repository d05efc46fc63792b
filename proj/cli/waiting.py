"""Wait for requests that the workers carry out."""

import time

from rich.console import Console

from proj.inventory.models import Request
from proj.reconcile.requests import Removed

FAILED = 1
"""The exit code of a command whose request failed, was held or did not end in time."""

POLL = 0.1


def wait_for(requested: list[Request], timeout: float, *, quiet: bool = True) -> list[Request]:
    """Wait until every request is closed or ``timeout`` seconds are over; return them all.

    Raises:
        Removed: a cluster was removed meanwhile, and the requests with it.
    """
    deadline = time.monotonic() + timeout
    names_of = {request.pk: request.cluster.name for request in requested}
    console = Console(stderr=True, quiet=quiet)
    with console.status("") as status:
        while True:
            mine = Request.objects.filter(pk__in=names_of).select_related("cluster")
            found = list(mine.order_by("id"))
            for key in names_of.keys() - {request.pk for request in found}:
                raise Removed(names_of[key])
            left = [request for request in found if request.state != Request.State.CLOSED]
            if not left or time.monotonic() > deadline:
                return found
            names = ", ".join(sorted({request.cluster.name for request in left}))
            status.update(f"{len(found) - len(left)} of {len(found)} done; waiting for {names}")
            time.sleep(POLL)
