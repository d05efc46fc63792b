"""Whom a cluster's certificate convinces: the pinned one and nobody else."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.broken import authority, certificate, check, rapi, status
from tests.commands import ROOT, Result, add_cluster, is_one_clear_line

pytestmark = pytest.mark.django_db(transaction=True)

STORE = "/etc/ssl/certs"
HERE = "127.0.0.1"
IS_TRUSTED = "refuses user or password"
"""What is said only after the certificate was accepted."""


def trusting(store: Path, *arguments: str) -> Result:
    """Run manage.py where the system trusts the authorities in ``store`` and no others.

    The folder is mounted over the system's in a namespace that ends with the process.
    """
    command = f'mount --bind "{store}" {STORE} && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command, "sh", sys.executable, "manage.py", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A system's store of authorities that holds one of our own: ``system.pem`` beside it."""
    if os.geteuid():
        assert not os.environ.get("CI"), "it needs root"
        pytest.skip("it needs root")
    folder = tmp_path / "store"
    folder.mkdir()
    whole = authority(tmp_path, "system").read_text()
    public = whole[: whole.index("-----BEGIN PRIVATE KEY")]
    (folder / "system.pem").write_text(public)
    # Where applications look that read one file instead of the folder.
    (folder / "ca-certificates.crt").write_text(public)
    subprocess.run(["openssl", "rehash", str(folder)], check=True)
    return folder


def test_an_authority_of_the_system_does_not_stand_in_for_the_pinned_certificate(
    access: dict[str, Any], store: Path, tmp_path: Path
) -> None:
    shown = certificate(tmp_path, "shown", by=tmp_path / "system.pem", address=HERE)
    with rapi(shown, status(401)) as port:
        assert add_cluster(access | {"port": port}).code == 0
        result = trusting(store, "cluster", "check", "broken")
    assert is_one_clear_line(result, 2, "another certificate")


def test_the_system_of_these_tests_does_trust_that_authority(store: Path, tmp_path: Path) -> None:
    shown = certificate(tmp_path, "shown", by=tmp_path / "system.pem", address=HERE)
    talk = (
        "import pycurl, sys; curl = pycurl.Curl(); curl.setopt(pycurl.URL, sys.argv[2]);"
        "curl.setopt(pycurl.WRITEFUNCTION, lambda _: None); curl.perform();"
        "print(curl.getinfo(pycurl.RESPONSE_CODE))"
    )
    with rapi(shown, status(401)) as port:
        result = trusting(
            store, "shell", "-v0", "-c", talk.replace("sys.argv[2]", f"'https://{HERE}:{port}'")
        )
    assert result.out.strip() == "401", result.error


def test_a_pinned_certificate_need_not_name_the_host(access: dict[str, Any]) -> None:
    with rapi(Path(access["ca_file"]), status(401)) as port:
        assert is_one_clear_line(check(access, port), 2, IS_TRUSTED)


@pytest.mark.parametrize(
    ("address", "words"),
    [(HERE, (IS_TRUSTED,)), ("192.0.2.1", ("another host", "--host"))],
)
def test_a_certificate_that_a_given_authority_signed_must_name_the_host(
    access: dict[str, Any], tmp_path: Path, address: str, words: tuple[str, ...]
) -> None:
    trusted = authority(tmp_path, "trusted")
    shown = certificate(tmp_path, "shown", by=trusted, address=address)
    with rapi(shown, status(401)) as port:
        assert is_one_clear_line(check(access, port, ca_file=str(trusted)), 2, *words)


def test_a_certificate_that_another_authority_signed_is_refused(
    access: dict[str, Any], tmp_path: Path
) -> None:
    shown = certificate(tmp_path, "shown", by=authority(tmp_path, "other"), address=HERE)
    trusted = str(authority(tmp_path, "trusted"))
    with rapi(shown, status(401)) as port:
        assert is_one_clear_line(check(access, port, ca_file=trusted), 2, "another certificate")
