"""Wait for passes that the workers carry out."""

import time

from rich.console import Console

from proj.inventory.models import Pass

FAILED = 1
"""The exit code of a command whose pass failed, was held or did not end in time."""

POLL = 0.1


def wait_for(requested: list[Pass], timeout: float, *, quiet: bool = True) -> list[Pass]:
    """Wait until every pass is closed or ``timeout`` seconds are over; return them as they are."""
    deadline = time.monotonic() + timeout
    keys = [pass_of.pk for pass_of in requested]
    console = Console(stderr=True, quiet=quiet)
    with console.status("") as status:
        while True:
            found = list(Pass.objects.filter(pk__in=keys).select_related("cluster").order_by("id"))
            left = [pass_of for pass_of in found if pass_of.state != Pass.State.CLOSED]
            if not left or time.monotonic() > deadline:
                return found
            names = ", ".join(pass_of.cluster.name for pass_of in left)
            status.update(f"{len(found) - len(left)} of {len(found)} done; waiting for {names}")
            time.sleep(POLL)
