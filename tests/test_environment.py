"""What the tests start ends with them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT
from tests.environment import WITH_US, until

SESSION = """
import sys, time
from pathlib import Path
from tests.environment import start
started = start("sleep", "600", log=Path(sys.argv[1]))
print(started.pid, flush=True)
time.sleep(600)
"""


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_the_tests_started_ends_when_they_are_interrupted(
    tmp_path: Path, how: signal.Signals
) -> None:
    with subprocess.Popen(
        [*WITH_US, sys.executable, "-c", SESSION, str(tmp_path / "log")],
        cwd=ROOT, env=os.environ | {"TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as session:  # fmt: skip
        assert session.stdout is not None
        pid = int(session.stdout.readline())
        # Not before it runs is it bound to its session.
        until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n", "the process runs")
        session.send_signal(how)
    until(lambda: not is_alive(pid), "the process has ended")
