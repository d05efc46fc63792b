"""The commands of manage.py, run as a person runs them."""

import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from django.core.management import CommandError, call_command

from tests.environment import WITH_US

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Result:
    """What a command printed and how it ended."""

    code: int
    out: str
    error: str

    @property
    def json(self) -> Any:
        """The output, read as JSON."""
        return json.loads(self.out)


def manage(*arguments: str, timeout: float = 120, **environment: str) -> Result:
    """Run manage.py in a process of its own."""
    done = subprocess.run(
        [*WITH_US, sys.executable, "manage.py", *arguments],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True,
        timeout=timeout, check=False,
    )  # fmt: skip
    return Result(done.returncode, done.stdout, done.stderr)


def command(name: str, *arguments: str) -> Result:
    """Run a command within this process, where it is not the process that is tested."""
    out, error, code = StringIO(), StringIO(), 0
    with redirect_stdout(out), redirect_stderr(error):
        try:
            call_command(name, *arguments)
        except CommandError as refused:
            print(refused, file=error)
            code = refused.returncode
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Result(code, out.getvalue(), error.getvalue())


def add_cluster(access: dict[str, Any], **changes: str) -> Result:
    """Run ``cluster add`` with what the lab or the simulator says of a cluster."""
    return command(*adding(access | changes))


def adding(access: dict[str, Any]) -> tuple[str, ...]:
    """Return the command that adds a cluster."""
    return (
        "cluster", "add", access["name"], "--host", access["host"], "--port", str(access["port"]),
        "--user", access["user"], "--password-file", access["password_file"],
        "--ca-file", access["ca_file"],
    )  # fmt: skip


def is_one_clear_line(result: Result, code: int, *words: str) -> bool:
    """Whether a command ended with ``code`` and one line that holds these words."""
    said = (result.error or result.out).strip()
    assert result.code == code, said
    assert len(said.splitlines()) == 1, said
    assert "Traceback" not in said
    assert "open sesame" not in result.out + result.error
    for word in words:
        assert word in said, said
    return True
