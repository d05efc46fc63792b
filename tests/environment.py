"""The servers of a test session, loaded by pytest before Django reads its settings.

Redis and PostgreSQL are real, private to the session and gone when it ends. ``--database``
chooses what the tests and the workers run on.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

WITH_US = ("setpriv", "--pdeathsig", "TERM")
"""Before a command: it ends with this process, even when this one is killed."""
HOME = Path(tempfile.mkdtemp(prefix="reconciler-tests-"))
POSTGRES = "/usr/lib/postgresql"


def free_port() -> int:
    """Return a port of the loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Whether somebody listens at this port of the loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def until(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    """Wait until ``condition`` gives something true, and return it."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds:g} s still not: {what}")
        time.sleep(0.02)


def start(*command: str, log: Path, **options: Any) -> subprocess.Popen[bytes]:
    """Start a server that ends with this process, even when it is killed."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [*WITH_US, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            **options,
        )


def end(process: subprocess.Popen[bytes], how: int = signal.SIGTERM) -> None:
    """End a process that ``start`` started, and wait for it."""
    if process.poll() is None:
        process.send_signal(how)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--database", choices=("sqlite", "postgres"), default="sqlite")


REDIS_PORT = free_port()
POSTGRES_PORT = free_port()
os.environ["VAR_DIR"] = str(HOME / "var")
os.environ["REDIS_URL"] = f"redis://127.0.0.1:{REDIS_PORT}/0"
os.environ["DATABASE_URL"] = f"sqlite:///{HOME / 'db.sqlite3'}"
# Django's settings are read before pytest has parsed its options.
if "--database=postgres" in sys.argv:
    os.environ["DATABASE_URL"] = f"postgres://postgres@127.0.0.1:{POSTGRES_PORT}/postgres"


def pytest_configure() -> None:
    # A terminated session tidies up as an interrupted one does. A shell that starts it in the
    # background lets it ignore an interrupt, and so would all that it starts.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


def pytest_unconfigure() -> None:
    shutil.rmtree(HOME, ignore_errors=True)


@contextmanager
def redis_server() -> Iterator[subprocess.Popen[bytes]]:
    """Run the Redis that REDIS_URL names."""
    server = start(
        "redis-server", "--port", str(REDIS_PORT), "--bind", "127.0.0.1", "--save", "",
        log=HOME / "redis.log",
    )  # fmt: skip
    try:
        until(lambda: listens(REDIS_PORT), "Redis listens")
        yield server
    finally:
        end(server)


@contextmanager
def postgres_server() -> Iterator[None]:
    """Run the PostgreSQL that DATABASE_URL names."""
    programs = sorted(Path(POSTGRES).glob("*/bin"))[-1]
    data = HOME / "postgres"
    data.mkdir()
    HOME.chmod(0o755)
    become: tuple[str, ...] = ()
    if os.geteuid() == 0:
        shutil.chown(data, "postgres", "postgres")
        become = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")
    subprocess.run(
        [*become, str(programs / "initdb"), "-A", "trust", "-U", "postgres", "-D", str(data)],
        check=True, capture_output=True, cwd="/",
    )  # fmt: skip
    server = start(
        *become, "--pdeathsig", "INT", str(programs / "postgres"), "-D", str(data),
        "-p", str(POSTGRES_PORT), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off",
        "-c", f"unix_socket_directories={data}", "-c", "max_connections=200",
        log=HOME / "postgres.log", cwd="/",
    ) if become else start(
        str(programs / "postgres"), "-D", str(data), "-p", str(POSTGRES_PORT),
        "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={data}",
        log=HOME / "postgres.log", cwd="/",
    )  # fmt: skip
    try:
        until(lambda: b"ready to accept" in (HOME / "postgres.log").read_bytes(), "PostgreSQL")
        yield
    finally:
        end(server, signal.SIGINT)
