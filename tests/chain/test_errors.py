"""What goes wrong outside gets one clear line, and nothing is lost."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from proj.inventory.models import Instance, Pass
from tests.commands import Result, add_cluster, adding, command, manage
from tests.environment import free_port
from tests.fixtures.workers import Processes

pytestmark = pytest.mark.django_db(transaction=True)

Answer = Callable[[BaseHTTPRequestHandler], None]


def certificate(folder: Path, name: str) -> Path:
    """Write a self-signed certificate and its key, and return the file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ganeti.example")])
    today = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - timedelta(days=1))
        .not_valid_after(today + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = folder / f"{name}.pem"
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


@pytest.fixture
def access(tmp_path: Path) -> dict[str, Any]:
    """Access to a cluster that nobody runs yet."""
    password = tmp_path / "password"
    password.write_text("open sesame")
    return {
        "name": "broken",
        "host": "127.0.0.1",
        "port": free_port(),
        "user": "reconciler",
        "password_file": str(password),
        "ca_file": str(certificate(tmp_path, "own")),
    }


def is_one_clear_line(result: Result, code: int, *words: str) -> bool:
    """Whether a command ended with ``code`` and one line that holds these words."""
    said = (result.error or result.out).strip()
    assert result.code == code, said
    assert len(said.splitlines()) == 1, said
    assert "Traceback" not in said
    assert "open sesame" not in result.out + result.error
    for word in words:
        assert word in said, said
    return True


def check(access: dict[str, Any], port: int | None = None, **changes: Any) -> Result:
    """Add a cluster and check it."""
    added = add_cluster(access | {"port": port or access["port"]} | changes)
    assert added.code == 0, added.error
    return manage("cluster", "check", access["name"])


def test_a_closed_port_is_said_with_its_address(access: dict[str, Any]) -> None:
    result = check(access)
    assert is_one_clear_line(result, 2, f"127.0.0.1:{access['port']}", "nothing listens")


def test_an_unknown_host_is_said_with_its_name(access: dict[str, Any]) -> None:
    assert is_one_clear_line(check(access, host="nowhere.invalid"), 2, "nowhere.invalid", "DNS")


def test_a_wrong_password_is_said_and_not_shown(access: dict[str, Any]) -> None:
    with rapi(Path(access["ca_file"]), status(401)) as port:
        assert is_one_clear_line(check(access, port), 2, "refuses user or password")


def test_a_user_without_the_right_to_read_is_told_which_one(access: dict[str, Any]) -> None:
    with rapi(Path(access["ca_file"]), status(403)) as port:
        assert is_one_clear_line(check(access, port), 2, "option read")


def test_another_certificate_than_the_pinned_one_is_refused(
    access: dict[str, Any], tmp_path: Path
) -> None:
    asked: list[str] = []
    with rapi(certificate(tmp_path, "other"), lambda handler: asked.append(handler.path)) as port:
        assert is_one_clear_line(check(access, port), 2, "another certificate", "rapi.pem")
    assert asked == []


@pytest.mark.parametrize(
    "answer",
    [text(b"<html>busy</html>"), text(b'["cut', promised=500), text(b"")],
    ids=["garbage", "cut", "empty"],
)
def test_an_answer_that_cannot_be_read_is_said(access: dict[str, Any], answer: Answer) -> None:
    with rapi(Path(access["ca_file"]), answer) as port:
        assert is_one_clear_line(check(access, port), 2, "broken")


def test_a_host_that_accepts_and_says_nothing_is_given_up(access: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        result = check(access, silent.getsockname()[1])
    assert is_one_clear_line(result, 2, "does not answer in time")


def test_a_cluster_name_can_be_used_once(access: dict[str, Any]) -> None:
    assert add_cluster(access).code == 0
    assert is_one_clear_line(manage(*adding(access)), 2, "exists already")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"port": "0"}, ("0 is no port",)),
        ({"name": "a name"}, ("name:",)),
        ({"password_file": "/nowhere"}, ("/nowhere", "No such file")),
        ({"ca_file": "/dev/null"}, ("no PEM certificate",)),
    ],
)
def test_bad_input_to_cluster_add_is_refused(
    access: dict[str, Any], changes: dict[str, str], words: tuple[str, ...]
) -> None:
    assert is_one_clear_line(manage(*adding(access | changes)), 2, *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("reconcile",), ("no cluster to reconcile",)),
        (("reconcile", "--cluster", "nobody"), ("no cluster nobody",)),
        (("reconcile", "--instance", "vm1"), ("write CLUSTER/NAME",)),
        (("cluster", "pause", "nobody"), ("no cluster nobody",)),
    ],
)
def test_wrong_usage_says_what_to_do(arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert is_one_clear_line(manage(*arguments), 2, *words)


def test_a_redis_that_does_not_answer_is_named(access: dict[str, Any]) -> None:
    assert add_cluster(access).code == 0
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    assert is_one_clear_line(manage("reconcile", REDIS_URL=nowhere), 2, "REDIS_URL")


def test_a_database_url_that_cannot_be_read_is_named() -> None:
    assert is_one_clear_line(manage("cluster", "list", DATABASE_URL="nonsense"), 1, "DATABASE_URL")


def test_a_pass_over_a_cluster_that_refuses_us_fails_and_keeps_every_instance(
    access: dict[str, Any], workers: Processes
) -> None:
    with rapi(Path(access["ca_file"]), status(401)) as port:
        assert add_cluster(access | {"port": port}).code == 0
        keep_one_instance()
        done = command("reconcile", "--json", "--timeout", "60")
    assert done.code == 1
    (report,) = done.json["passes"]
    assert report["outcome"] == "failed"
    assert "refuses user or password" in report["error"]
    assert Instance.objects.get().status == "ACTIVE"


def test_a_closed_port_is_tried_again_and_then_fails_the_pass(
    access: dict[str, Any], processes: Processes
) -> None:
    processes.start("ganeti", "beat", BEAT_PERIOD="0.5")
    assert add_cluster(access).code == 0
    keep_one_instance()
    done = command("reconcile", "--json", "--timeout", "60")
    assert done.code == 1
    assert "nothing listens" in done.json["passes"][0]["error"]
    assert Pass.objects.get().attempts >= 2
    assert Instance.objects.get().status == "ACTIVE"


def keep_one_instance() -> None:
    """Record an instance that no failure may touch."""
    from proj.inventory.models import Cluster

    long_ago = datetime(2026, 1, 1, tzinfo=UTC)
    Instance.objects.create(
        cluster=Cluster.objects.get(),
        name="vm1",
        status="ACTIVE",
        backend_status="running",
        observed_not_before=long_ago,
        observed_not_after=long_ago,
    )
