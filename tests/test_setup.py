"""What `make setup` leaves behind, and what `make lab` does not."""

import importlib.util
import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.environment import until
from tests.fixtures.lab import LAB, why_not

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("module", ["ganeti.rapi.client", "pycurl", "simplejson"])
def test_the_official_client_and_what_it_needs_can_be_imported(module: str) -> None:
    assert importlib.util.find_spec(module) is not None


def test_no_other_package_of_the_system_can_be_imported() -> None:
    system = {path.stem for path in Path("/usr/lib/python3/dist-packages").glob("*/__init__.py")}
    linked = {path.name for path in (ROOT / ".venv" / "ganeti").iterdir()}
    assert {name.partition(".")[0] for name in linked} == {"ganeti", "simplejson", "pycurl"}
    assert not system & {"apt", "apt_pkg"} or importlib.util.find_spec("apt") is None


def test_a_second_setup_has_nothing_to_do() -> None:
    stamp = ROOT / ".venv" / "installed"
    before = stamp.stat().st_mtime_ns
    subprocess.run(["make", "-s", "setup"], cwd=ROOT, check=True, timeout=20)
    assert stamp.stat().st_mtime_ns == before


def lab(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    command = [str(LAB), arguments[0], "--dir", str(directory), *arguments[1:]]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def links() -> set[str]:
    shown = subprocess.run(["ip", "-j", "link"], capture_output=True, text=True, check=True)
    return {link["ifname"] for link in json.loads(shown.stdout)}


def running(directory: Path) -> int:
    listed = ("exec", "--", "gnt-instance", "list", "--no-headers", "-o", "status")
    return lab(*listed, directory=directory).stdout.split().count("running")


@pytest.mark.ganeti
def test_a_lab_starts_once_and_goes_without_a_trace(tmp_path: Path) -> None:
    reason = why_not()
    if reason:
        assert not os.environ.get("CI"), reason
        pytest.skip(reason)
    directory = tmp_path / "lab"
    before = links()
    try:
        up = lab("up", "--nodes", "1", "--instances", "1", directory=directory)
        assert up.returncode == 0, up.stderr
        assert "cluster add lab1 --host" in up.stdout
        holder = (directory / "lab1" / "node1" / "holder").read_text()
        assert lab("up", "--nodes", "1", directory=directory).returncode == 0
        assert (directory / "lab1" / "node1" / "holder").read_text() == holder
        assert lab("grow", "--instances", "50", directory=directory).returncode == 0
        until(lambda: running(directory) == 50, "the cloned instances run")
    finally:
        assert lab("down", directory=directory).returncode == 0
    assert links() == before
    assert not directory.exists()
    assert not Path(f"/proc/{holder}").exists()
    assert lab("down", directory=directory).returncode == 0
