"""Whom the client trusts: the pinned certificate, and nobody else on this machine."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from proj.simulator.server import Simulator

ASK = """
import sys
from pathlib import Path
from proj.ganeti.client import Connection, connect
host, port, user, password, pinned, folder = sys.argv[1:]
pem = Path(pinned).read_text()
connection = Connection("c", host, int(port), user, password, pem, certificates=Path(folder))
print(connect(connection).GetVersion())
"""


def ask_where_the_machine_trusts(
    trusted: Path, access: dict[str, Any], pinned: str, folder: Path
) -> subprocess.CompletedProcess[str]:
    """Ask for the version on a machine whose store of trusted authorities is this folder."""
    password = Path(access["password_file"]).read_text()
    return subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c",
         'mount --bind "$1" /etc/ssl/certs && shift && exec "$@"', "sh", str(trusted),
         sys.executable, "-c", ASK,
         access["host"], str(access["port"]), access["user"], password, pinned, str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_what_the_machine_trusts_is_not_trusted_in_place_of_the_pinned_certificate(
    tmp_path: Path,
) -> None:
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    if subprocess.run(["unshare", "--map-root-user", "--mount", "true"], check=False).returncode:
        pytest.skip("it needs a mount namespace")
    with Simulator(tmp_path / "ours") as ours, Simulator(tmp_path / "theirs") as theirs:
        pinned, other = (it.access("sim1")["ca_file"] for it in (ours, theirs))
        (trusted / "authority.pem").write_text(Path(other).read_text())
        refused = ask_where_the_machine_trusts(trusted, theirs.access("sim1"), pinned, tmp_path)
        accepted = ask_where_the_machine_trusts(trusted, ours.access("sim1"), pinned, tmp_path)
    assert "CertificateError" in refused.stderr
    assert accepted.stdout == "2\n"
