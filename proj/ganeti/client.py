"""The official client, made safe: verified TLS and no waiting for ever."""

import hashlib
import threading
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import orjson
import pycurl
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from ganeti.rapi.client import GanetiRapiClient, GenericCurlConfig

CONNECT_TIMEOUT = 5
PROBE_TIMEOUT = 10
REQUEST_TIMEOUT = 75
"""Seconds. A node that hangs delays a list by 60 s before Ganeti gives it up."""

OK = 200

ANOTHER_HOST = "target host name"
"""Curl's words for a certificate that names another host; they have no code of their own."""
_ANOTHER_KEY = pycurl.E_SSL_PINNEDPUBKEYNOTMATCH

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
    """The body of one answer, read in the client's place, or not at all where it is known.

    The client's own parser takes longer over a list than all the rest of the request.
    """

    def __init__(self, known: str = "", meaning: str = "") -> None:
        self._known, self._meaning = known, meaning.encode()
        self._chunks: list[bytes] = []
        self._content: Any = None
        self.digest = ""
        """Of the body and the ``meaning`` it is read with, as soon as it was delivered."""

    @property
    def is_known(self) -> bool:
        """Whether the body was not read."""
        return bool(self.digest) and self.digest == self._known

    def add(self, chunk: bytes) -> None:
        """Take the next part from the wire."""
        self._chunks.append(chunk)

    def deliver(self, write: Callable[[bytes], Any], *, is_ok: bool) -> None:
        """Digest and read what has come; the client gets errors, and what it may know to read."""
        body = b"".join(self._chunks)
        self._chunks.clear()
        if is_ok:
            digest = hashlib.sha256(body)
            digest.update(self._meaning)
            self.digest = digest.hexdigest()
            if self.is_known:
                return
            with suppress(ValueError):
                self._content = orjson.loads(body)
                return
        write(body)

    def read(self, answer: Any) -> Any:
        """Return what was read, where the client was given nothing."""
        return self._content if answer is None else answer


class PinningCurl(pycurl.Curl):  # type: ignore[misc]
    """A handle that does not ask whose name is on a certificate if it is the very one we hold.

    ``openssl req -x509`` makes a certificate of RAPI an authority too, and it names no host.
    """

    def __init__(self) -> None:
        super().__init__()
        self.key: str | None = None
        """Of the authority that we hold: its public key, as curl wants it."""

    def perform(self) -> None:
        """Send the request; where the name is wrong, once more to the holder of the key."""
        try:
            super().perform()
        except pycurl.error as error:
            if self.key is None or ANOTHER_HOST not in str(error):
                raise
            self.setopt(pycurl.PINNEDPUBLICKEY, self.key)
            self.setopt(pycurl.SSL_VERIFYHOST, 0)
            try:
                super().perform()
            except pycurl.error as other:
                raise (error if other.args[0] == _ANOTHER_KEY else other) from None


class WithholdingCurl(PinningCurl):
    """A handle that receives a ``Body``, which is read when it is complete."""

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
        self.body.deliver(self._write, is_ok=self.getinfo(pycurl.RESPONSE_CODE) == OK)


def connect(
    connection: Connection,
    *,
    timeout: int = REQUEST_TIMEOUT,
    curl_factory: Callable[[], Any] = PinningCurl,
) -> Any:
    """Return an official client. RAPI closes every connection, so there is none to keep.

    Args:
        connection: where to go, and whom to trust.
        timeout: seconds for a whole request.
        curl_factory: makes the handle of each request.
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
    key = None
    common = {"proxy": "", "connect_timeout": CONNECT_TIMEOUT, "timeout": timeout}
    if connection.certificate is not None and not connection.insecure:
        common["cafile"] = str(_certificate_file(connection))
        # A pinned certificate of RAPI names no host that we would know; a CA signs many.
        key = _key_of_authority(connection.certificate)
        common["verify_hostname"] = key is not None
    general = GenericCurlConfig(**common)

    def configure(curl: Any, logger: Any) -> None:
        general(curl, logger)
        curl.key = key
        # Debian's curl trusts the system's authorities beside the pinned certificate, and reads
        # all of them anew for each request.
        curl.unsetopt(pycurl.CAPATH)
        curl.setopt(pycurl.NOSIGNAL, 1)
        # A path is sent as it is written: curl would fold dot segments into another resource.
        curl.setopt(pycurl.PATH_AS_IS, 1)

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
def _key_of_authority(pem: str) -> str | None:
    """Return the public key of a certificate that may sign others, as curl wants it."""
    certificate = x509.load_pem_x509_certificate(pem.encode())
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        return None
    if not constraints.value.ca:
        return None
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return "sha256//" + b64encode(hashlib.sha256(key).digest()).decode()
