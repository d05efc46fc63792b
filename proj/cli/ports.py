"""Whether the ports are free at which people are served."""

import errno
import os
import socket

from django.conf import settings

from proj.cli.output import refuse


def refuse_taken(by: str) -> None:
    """End the command where the web process or Flower could not listen.

    Args:
        by: the command that listens there, most likely.
    """
    for name in ("WEB_PORT", "FLOWER_PORT"):
        number: int = getattr(settings, name)
        try:
            _try(number)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                refuse(f"port {number} is taken ({name}): is {by} running?")
            refuse(f"port {number} cannot be had ({name}): {os.strerror(error.errno or 0)}")


def _try(port: int) -> None:
    with socket.socket() as probe:
        # As servers do: connections that have just ended take no port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
