"""Servers that answer as no RAPI should, and the certificates that they show."""

import contextlib
import ipaddress
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.commands import Result, add_cluster, manage

Answer = Callable[[BaseHTTPRequestHandler], None]


def certificate(folder: Path, name: str, *, by: Path | None = None, address: str = "") -> Path:
    """Write a certificate and its key, and return the file.

    Args:
        folder: where to.
        name: of the file.
        by: the file of the authority that signs it; by default it signs itself.
        address: the IP address that it is for; by default it names a host that nobody asks for.
    """
    return _write(folder / f"{name}.pem", by=by, address=address, is_authority=False)


def authority(folder: Path, name: str) -> Path:
    """Write the certificate of an authority and its key, and return the file."""
    return _write(folder / f"{name}.pem", by=None, address="", is_authority=True)


def _write(path: Path, *, by: Path | None, address: str, is_authority: bool) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ganeti.example")])
    if is_authority:
        subject = issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, path.stem)])
    signer = key
    if by is not None:
        issuer = x509.load_pem_x509_certificate(by.read_bytes()).subject
        loaded = serialization.load_pem_private_key(by.read_bytes(), None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        signer = loaded
    names: list[x509.GeneralName] = [x509.DNSName("ganeti.example")]
    if address:
        names = [x509.IPAddress(ipaddress.ip_address(address))]
    today = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - timedelta(days=1))
        .not_valid_after(today + timedelta(days=1))
    )
    if is_authority:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
    elif by is not None or address:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    signed = builder.sign(signer, hashes.SHA256())
    path.write_bytes(signed.public_bytes(serialization.Encoding.PEM) + private)
    return path


@contextlib.contextmanager
def rapi(pem: Path, answer: Answer) -> Iterator[int]:
    """Run a TLS server that answers every request by ``answer``; gives its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        do_PUT = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def status(code: int) -> Answer:
    """Return an answer with this HTTP status, as RAPI words it."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        body = b'{"code": %d, "message": "no", "explain": "because"}' % code
        text(body, code)(handler)

    return answer


def text(body: bytes, code: int = 200, *, promised: int | None = None) -> Answer:
    """Return an answer with this body; one that promises more than it gives is cut."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(promised or len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def check(access: dict[str, Any], port: int | None = None, **changes: Any) -> Result:
    """Add a cluster and check it."""
    added = add_cluster(access | {"port": port or access["port"]} | changes)
    assert added.code == 0, added.error
    return manage("cluster", "check", access["name"])
