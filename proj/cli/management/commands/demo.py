"""manage.py demo: simulated clusters that drift, and the service that mends them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table

from proj.cli.base import PlainCommand
from proj.cli.output import refuse
from proj.cli.ports import refuse_taken
from proj.inventory.models import Cluster, Instance, Transition

LATEST = 15
COLUMNS = ("at", "instance", "field", "from", "to", "rule", "job")
WHOLE = {"at", "instance", "rule", "job"}
FIELDS = {"backend_status": "Ganeti's"}
"""Of which the column has no room for the name."""


class Command(PlainCommand):
    """Start everything, show the drift being mended, and stop it all on Ctrl-C."""

    help = "Run the service against simulated clusters that drift. For make demo."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--clusters", type=int, default=3)
        parser.add_argument("--instances", type=int, default=200)
        parser.add_argument("--drift", type=float, default=2.0, metavar="S")
        parser.add_argument("--seconds", type=float, help="stop by itself after so long")

    def handle(self, *args: Any, **options: Any) -> None:
        if "/demo" not in str(settings.VAR_DIR):
            refuse("the demo keeps its own database: run it by make demo")
        # A shell that starts it in the background lets it ignore Ctrl-C.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        call_command("migrate", verbosity=0)
        refuse_taken("make up")
        Cluster.objects.all().delete()
        with ExitStack() as stack:
            try:
                _start_all(stack, options)
                _watch(options["seconds"])
            except KeyboardInterrupt:
                pass
        self.stdout.write("stopped")


def _start_all(stack: ExitStack, options: dict[str, Any]) -> None:
    directory = settings.VAR_DIR / "simulator"
    listing = directory / "clusters.json"
    listing.unlink(missing_ok=True)
    port = settings.REDIS_URL.rpartition(":")[2].partition("/")[0]
    _start(stack, "redis", ["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", ""])
    _start(
        stack, "simulator",
        [sys.executable, "-m", "proj.simulator", "--dir", str(directory),
         "--clusters", str(options["clusters"]), "--instances", str(options["instances"]),
         "--drift", str(options["drift"])],
    )  # fmt: skip
    while not listing.exists():
        time.sleep(0.05)
    for access in json.loads(listing.read_text()):
        call_command(
            "cluster", "add", access["name"], "--host", access["host"],
            "--port", str(access["port"]), "--user", access["user"],
            "--password-file", access["password_file"], "--ca-file", access["ca_file"],
            "--max-in-flight", "10", "--jobs-per-hour", "3600",
        )  # fmt: skip
    _start(stack, "procfile", [str(Path(sys.executable).parent / "honcho"), "start"])


def _start(stack: ExitStack, name: str, command: list[str]) -> None:
    """Start a process that ends with this one, even when this one is killed."""
    if shutil.which(command[0]) is None:
        refuse(f"{command[0]} is not installed: make setup")
    log = stack.enter_context((settings.VAR_DIR / f"{name}.log").open("wb"))
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "TERM", *command], stdin=subprocess.DEVNULL, stdout=log,
        stderr=log, cwd=settings.BASE_DIR, env=os.environ, start_new_session=True,
    )  # fmt: skip
    stack.callback(_end, process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(40)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _watch(seconds: float | None) -> None:
    deadline = time.monotonic() + seconds if seconds else float("inf")
    console = Console()
    with Live(_table(), console=console, auto_refresh=False) as live:
        while time.monotonic() < deadline:
            live.update(_table(), refresh=console.is_terminal)
            time.sleep(0.5)


def _table() -> Table:
    counts = [
        f"{status} {Instance.objects.filter(status=status).count()}"
        for status in ("ACTIVE", "STOPPED", "ERROR", "UNKNOWN")
    ]
    title = f"{Cluster.objects.count()} clusters: {', '.join(counts)}"
    web, flower = (f"http://127.0.0.1:{it}" for it in (settings.WEB_PORT, settings.FLOWER_PORT))
    # In 80 columns the names and the rules are whole, and what is long breaks into lines.
    table = Table(box=SIMPLE_HEAD, padding=0, show_edge=False, title=title)
    table.caption = f"{web}; Flower {flower}; Ctrl-C stops"
    for name in COLUMNS:
        table.add_column(name, no_wrap=name in WHOLE, overflow="fold")
    latest = Transition.objects.exclude(rule="adopted").select_related("instance")
    for change in latest[:LATEST]:
        table.add_row(
            f"{change.at:%H:%M:%S}", change.instance.name, FIELDS.get(change.field, change.field),
            _short(change.before), _short(change.after), change.rule, str(change.job_id or ""),
        )  # fmt: skip
    return table


def _short(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    is_plain = all(isinstance(it, str | int) for it in value)
    return " ".join(map(str, value)) if is_plain else f"list of {len(value)}"
