"""Whom the client trusts: the pinned certificate, and nobody else; and what it sends."""

import subprocess
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from proj.backend import Misconfigured
from proj.ganeti.backend import GanetiBackend
from proj.ganeti.client import Connection, connect
from proj.observation import Interval
from proj.simulator.server import Simulator
from tests.broken import authority, certificate, rapi, status, text
from tests.fixtures.gates import ungated

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


def reached(port: int, pinned: Path) -> Connection:
    pem = pinned.read_text()
    return Connection("c", "127.0.0.1", port, "u", "p", pem, certificates=pinned.parent)


def version(port: int, pinned: Path) -> str:
    return GanetiBackend(reached(port, pinned), ungated).version()


def test_a_certificate_that_is_an_authority_by_itself_need_not_name_the_host(
    tmp_path: Path,
) -> None:
    own = authority(tmp_path, "ganeti.example.com")
    with rapi(own, text(b"2")) as port:
        assert version(port, own) == "2"


def test_what_an_authority_signed_must_name_the_host(tmp_path: Path) -> None:
    ours = authority(tmp_path, "ours")
    good = certificate(tmp_path, "good", by=ours, address="127.0.0.1")
    other = certificate(tmp_path, "other", by=ours, address="127.0.0.9")
    with rapi(good, text(b"2")) as port:
        assert version(port, ours) == "2"
    with rapi(other, text(b"2")) as port, pytest.raises(Misconfigured, match="for another host"):
        version(port, ours)


def test_another_authority_of_the_same_name_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    ours = authority(tmp_path, "rapi")
    theirs = authority(tmp_path / "theirs", "rapi")
    with rapi(theirs, text(b"2")) as port, pytest.raises(Misconfigured, match="another certif"):
        version(port, ours)


def test_a_path_is_sent_as_it_is_written(tmp_path: Path) -> None:
    paths = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        paths.append(handler.path)
        text(b"{}")(handler)

    own = certificate(tmp_path, "own")
    with rapi(own, answer) as port:
        connect(reached(port, own)).GetInstance("../info")
    assert paths == ["/2/instances/../info"]


def test_a_list_in_bulk_that_is_as_it_was_is_not_read_again(tmp_path: Path) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        (status(404) if handler.command == "PUT" else text(b'[{"name": "vm1"}]'))(handler)

    own = certificate(tmp_path, "own")
    with rapi(own, answer) as port:
        backend = GanetiBackend(reached(port, own), ungated)
        look = backend.look()
        assert look.size == 1
        assert isinstance(backend.look_unless(look.digest), Interval)
