"""The official client, made safe: verified TLS and no waiting for ever."""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
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


class Body:
    """The body of one answer, withheld from the client where it is the one that is known.

    The client parses whatever it is given, which costs it more than all the rest of a request.
    """

    def __init__(self, known: str = "", meaning: str = "") -> None:
        self._known, self._meaning = known, meaning.encode()
        self._chunks: list[bytes] = []
        self.digest = ""
        """Of the body and the ``meaning`` it is read with, as soon as it was delivered."""

    @property
    def is_known(self) -> bool:
        """Whether the body was withheld."""
        return bool(self.digest) and self.digest == self._known

    def add(self, chunk: bytes) -> None:
        """Take the next part from the wire."""
        self._chunks.append(chunk)

    def deliver(self, write: Callable[[bytes], Any]) -> None:
        """Digest what has come, and hand it on unless it is known."""
        body = b"".join(self._chunks)
        self._chunks.clear()
        digest = hashlib.blake2b(body, digest_size=32)
        digest.update(self._meaning)
        self.digest = digest.hexdigest()
        if not self.is_known:
            write(body)


class WithholdingCurl(pycurl.Curl):  # type: ignore[misc]
    """A handle that receives a ``Body``, and writes it when it is complete, if at all."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.body = body
        self._write: Callable[[bytes], Any] = body.add

    def setopt(self, option: int, value: Any) -> None:
        """Set an option; what is to be written to waits for the whole body."""
        if option == pycurl.WRITEFUNCTION:
            self._write, value = value, self.body.add
        super().setopt(option, value)

    def perform(self) -> None:
        """Send the request, and deliver what came."""
        super().perform()
        self.body.deliver(self._write)


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


@lru_cache
def _is_authority(pem: str) -> bool:
    certificate = x509.load_pem_x509_certificate(pem.encode())
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        return False
    return constraints.value.ca
