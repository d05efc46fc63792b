"""The commands of manage.py, run as a person runs them."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True,
        timeout=timeout, check=False,
    )  # fmt: skip
    return Result(done.returncode, done.stdout, done.stderr)


def add_cluster(access: dict[str, Any], **changes: str) -> Result:
    """Run ``cluster add`` with what the lab or the simulator says of a cluster."""
    values = access | changes
    return manage(
        "cluster", "add", values["name"], "--host", values["host"], "--port", str(values["port"]),
        "--user", values["user"], "--password-file", values["password_file"],
        "--ca-file", values["ca_file"],
    )  # fmt: skip
