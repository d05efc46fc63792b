"""The official client, made safe: verified TLS and no waiting for ever."""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import pycurl
from cryptography import x509
from ganeti.rapi.client import GanetiRapiClient, GenericCurlConfig

CONNECT_TIMEOUT = 5
PROBE_TIMEOUT = 10
REQUEST_TIMEOUT = 75
"""Seconds. A node that hangs delays a list by 60 s before Ganeti gives it up."""

_global_init = threading.Lock()
_is_initialised = False


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach a cluster's RAPI."""

    name: str
    host: str
    port: int
    user: str
    password: str
    certificate: str | None
    """PEM of RAPI's own certificate, or of the CA that signed it."""
    insecure: bool = False
    certificates: Path = Path("var/certificates")
    """The folder in which the certificate is kept for curl."""

    def __repr__(self) -> str:
        return f"Connection({self.name}: {self.user}@{self.where})"

    @property
    def where(self) -> str:
        """Host and port."""
        return f"{self.host}:{self.port}"


class DigestingCurl(pycurl.Curl):  # type: ignore[misc]
    """A handle that digests the body it receives, before anybody has parsed it."""

    def __init__(self) -> None:
        super().__init__()
        self.digest = hashlib.blake2b(digest_size=32)

    def setopt(self, option: int, value: Any) -> None:
        """Set an option; what is written to is told to the digest too."""
        if option == pycurl.WRITEFUNCTION:
            super().setopt(option, partial(self._digest_and_write, value))
        else:
            super().setopt(option, value)

    def _digest_and_write(self, write: Callable[[bytes], int], data: bytes) -> int:
        self.digest.update(data)
        return write(data)


def connect(
    connection: Connection,
    *,
    timeout: int = REQUEST_TIMEOUT,
    curl_factory: Callable[[], Any] | None = None,
) -> Any:
    """Return an official client. RAPI closes every connection, so there is none to keep.

    Args:
        connection: where to go, and whom to trust.
        timeout: seconds for a whole request.
        curl_factory: makes the handle of each request; a plain one by default.
    """
    _init_curl()
    return GanetiRapiClient(
        connection.host,
        port=connection.port,
        username=connection.user,
        password=connection.password,
        curl_config_fn=_curl_config(connection, timeout),
        curl_factory=curl_factory,
    )


def _init_curl() -> None:
    global _is_initialised
    with _global_init:
        if not _is_initialised:
            pycurl.global_init(pycurl.GLOBAL_ALL)
            _is_initialised = True


def _curl_config(connection: Connection, timeout: int) -> Callable[..., None]:
    common = {"proxy": "", "connect_timeout": CONNECT_TIMEOUT, "timeout": timeout}
    if connection.certificate is not None and not connection.insecure:
        common["cafile"] = str(_certificate_file(connection))
        # A pinned certificate of RAPI names no host that we would know; a CA signs many.
        common["verify_hostname"] = _is_authority(connection.certificate)
    general = GenericCurlConfig(**common)

    def configure(curl: Any, logger: Any) -> None:
        general(curl, logger)
        # Debian's curl trusts the system's authorities beside the pinned certificate, and reads
        # all of them anew for each request.
        curl.unsetopt(pycurl.CAPATH)
        curl.setopt(pycurl.NOSIGNAL, 1)

    return configure


def _certificate_file(connection: Connection) -> Path:
    pem = connection.certificate or ""
    digest = hashlib.sha256(pem.encode()).hexdigest()[:32]
    path = connection.certificates / f"{digest}.pem"
    if not path.exists():
        connection.certificates.mkdir(mode=0o700, parents=True, exist_ok=True)
        with NamedTemporaryFile("w", dir=connection.certificates, delete=False) as file:
            file.write(pem)
        Path(file.name).replace(path)
    return path


def _is_authority(pem: str) -> bool:
    certificate = x509.load_pem_x509_certificate(pem.encode())
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        return False
    return constraints.value.ca
