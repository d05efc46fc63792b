"""Many clusters in one process: TLS, HTTP and basic authentication on ports of the loopback."""

import asyncio
import base64
import contextlib
import http.client
import json
import secrets
import ssl
import threading
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from proj.simulator import control
from proj.simulator.faults import Faults
from proj.simulator.queue import Queue
from proj.simulator.rapi import Hangs, HttpError, Rapi, Reply
from proj.simulator.truth import Truth

USER = "reconciler"
CONTROL = "/simulator/"
DOWN = 0.1
"""The part of each of its lives in which a RAPI that is restarted does not answer yet."""


@dataclass(slots=True)
class Cluster:
    """A simulated cluster: change its truth, fill its queue, switch its faults."""

    name: str
    truth: Truth
    queue: Queue
    faults: Faults
    rapi: Rapi
    password: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    port: int = 0


class Simulator:
    """Clusters that answer at 127.0.0.1 while the ``with`` block lasts."""

    def __init__(
        self,
        directory: Path,
        *,
        clusters: int = 1,
        instances: int = 20,
        nodes: int = 2,
        job_seconds: float = 0.3,
    ) -> None:
        self._directory = directory
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._servers: dict[str, asyncio.Server] = {}
        self._moving: dict[str, asyncio.Task[None]] = {}
        self.clusters: dict[str, Cluster] = {}
        for number in range(1, clusters + 1):
            name = f"sim{number}"
            truth, faults = Truth(name, nodes=nodes, instances=instances), Faults()
            queue = Queue(truth, seconds=job_seconds)
            self.clusters[name] = Cluster(name, truth, queue, faults, Rapi(truth, queue, faults))

    def __enter__(self) -> "Simulator":
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self._make_certificate())
        self._thread.start()
        for name in self.clusters:
            self._run(self._listen(name))
        listing = json.dumps([self.access(name) for name in self.clusters], indent=2)
        (self._directory / "clusters.json").write_text(listing)
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __getitem__(self, name: str) -> Cluster:
        return self.clusters[name]

    def __iter__(self) -> Iterator[Cluster]:
        return iter(self.clusters.values())

    def access(self, name: str) -> dict[str, Any]:
        """Return what ``manage.py cluster add`` needs."""
        password = self._directory / f"{name}.password"
        password.touch(mode=0o600)
        password.write_text(self.clusters[name].password)
        return {
            "name": name,
            "host": "127.0.0.1",
            "port": self.clusters[name].port,
            "user": USER,
            "password_file": str(password.resolve()),
            "ca_file": str((self._directory / "certificate.pem").resolve()),
        }

    @contextlib.contextmanager
    def master_moves(self, name: str) -> Iterator[None]:
        """Let nothing listen for a while; then another master, and what ran has died."""
        self._run(self._leave(name))
        try:
            yield
        finally:
            self._run(self._listen(name))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _listen(self, name: str) -> None:
        cluster = self.clusters[name]

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._converse(cluster, reader, writer)
            with contextlib.suppress(OSError):
                writer.close()
                await writer.wait_closed()

        server = await asyncio.start_server(talk, "127.0.0.1", cluster.port, ssl=self._context)
        cluster.port = server.sockets[0].getsockname()[1]
        self._servers[name] = server

    async def _leave(self, name: str) -> None:
        self._servers.pop(name).close()
        self.clusters[name].queue.move_master()

    async def _converse(
        self, cluster: Cluster, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer one request and close, as RAPI does."""
        request = await _read(reader)
        is_control = request.target.startswith(CONTROL)
        faults = Faults() if is_control else cluster.faults
        life = _life(faults)
        while faults.hang:
            await asyncio.sleep(0.1)
        if faults.latency:
            await asyncio.sleep(faults.latency)
        if not _is_authentic(cluster, request.authorization):
            reply = HttpError(401, "Unauthorized", "No permission").reply
        elif is_control:
            reply = self._control(cluster, request)
        else:
            try:
                reply = cluster.rapi.answer(request.method, request.target, request.body)
            except Hangs:
                await asyncio.Event().wait()
        if reply.delay:
            await asyncio.sleep(reply.delay)
        if life is None or life != _life(faults):
            writer.transport.abort()
            return
        if faults.garbage:
            reply = Reply(200, b"<html>not what you asked for</html>")
        writer.write(_bytes_of(reply, cut=faults.cut))
        await writer.drain()

    def _control(self, cluster: Cluster, request: "Request") -> Reply:
        targets: dict[str, control.Target] = {
            "faults": cluster.faults, "queue": cluster.queue, "truth": cluster.truth,
        }  # fmt: skip
        what = request.target.removeprefix(CONTROL)
        try:
            if what == "master":
                self._move_master(cluster.name, float(request.body))
            elif what in targets:
                cluster.queue.advance()
                control.command(targets[what], request.body)
            else:
                raise control.Refused(f"no {what}; there is {', '.join(targets)}, master")
        except (control.Refused, ValueError) as error:
            return HttpError(400, "Bad Request", str(error)).reply
        return Reply(200, b"null")

    def _move_master(self, name: str, seconds: float) -> None:
        async def away() -> None:
            await self._leave(name)
            await asyncio.sleep(seconds)
            await self._listen(name)

        self._moving[name] = self._loop.create_task(away())

    async def _stop(self) -> None:
        for server in self._servers.values():
            server.close()
        mine = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in mine:
            task.cancel()
        await asyncio.gather(*mine, return_exceptions=True)

    def _make_certificate(self) -> Path:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ganeti.example.com")])
        today = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(today - timedelta(days=1))
            .not_valid_after(today + timedelta(days=365))
            .sign(key, hashes.SHA256())
        )
        public = certificate.public_bytes(serialization.Encoding.PEM)
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        (self._directory / "certificate.pem").write_bytes(public)
        both = self._directory / "rapi.pem"
        both.touch(mode=0o600)
        both.write_bytes(public + private)
        return both


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, as far as it matters."""

    method: str
    target: str
    authorization: str
    body: bytes


async def _read(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    request, *lines = head.split("\r\n")
    method, target, _ = request.split(" ", 2)
    headers = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines if line)
    }
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(method, target, headers.get("authorization", ""), body)


def _life(faults: Faults) -> float | None:
    """Return in which of its lives a RAPI that is restarted is, if it lives."""
    if not faults.restarts:
        return 0.0
    life, age = divmod(time.monotonic(), faults.restarts)
    return life if age > DOWN * faults.restarts else None


def _is_authentic(cluster: Cluster, header: str) -> bool:
    expected = base64.b64encode(f"{USER}:{cluster.password}".encode()).decode()
    return secrets.compare_digest(header.encode(), f"Basic {expected}".encode())


def _bytes_of(reply: Reply, *, cut: bool) -> bytes:
    reason = http.client.responses.get(reply.status, "Error")
    head = (
        f"HTTP/1.1 {reply.status} {reason}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(reply.body)}\r\nConnection: close\r\n\r\n"
    )
    body = reply.body[: len(reply.body) // 2] if cut else reply.body
    return head.encode() + body
