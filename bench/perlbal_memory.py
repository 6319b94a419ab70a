"""What the balancer keeps beside its peers: of clients that ask for nothing, of large bodies.

Idle clients are connected once for each figure: what one costs is what the process has grown by
since it was started.  Of bodies, the most that the process ever had is told (the system notes
it), with a small one and a large one: where memory is flat, they are the same.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil

from bench import perlbal
from bench.harness import Comparison, Load, Subject
from lj_services.daemon.listening import allow_open_files

TITLE = "Load balancer: memory"
ROUNDS = 1

IDLE = 18_000
"""Clients that are connected and ask for nothing."""
AT_ONCE = 100
"""How many of them ask at once, before."""
MIB = 1 << 20
LARGE_MIB = 4 << 10
PIECE = bytes(MIB)

# -- clients that ask for nothing ---------------------------------------------------

_started_with: dict[int, int] = {}
"""Bytes of memory that a process had before its first client."""


def idle(subject: Subject, *, clients: int) -> float:
    """KiB of memory that a client costs who was served once and stays connected."""
    assert subject.pid is not None
    process = psutil.Process(subject.pid)
    before = _started_with.setdefault(subject.pid, process.memory_info().rss)
    with ExitStack() as stack:
        connected: list[socket.socket] = []
        while len(connected) < clients:
            some = []
            for _ in range(min(AT_ONCE, clients - len(connected))):
                client = stack.enter_context(socket.create_connection(_address(subject)))
                _ask(client, "GET /1k HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n")
                some.append(client)
            for client in some:
                _read(client, 1024)
            connected += some
        for client in connected:
            client.setblocking(False)
            try:
                client.recv(1)
            except BlockingIOError:
                continue
            raise RuntimeError("the balancer has hung up on an idle client")
        return (process.memory_info().rss - before) / 1024 / clients


# -- large bodies -------------------------------------------------------------------


class _Large(BaseHTTPRequestHandler):
    """Takes bodies of any size, and gives those whose size is in MiB the path."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Take a body, then say so."""
        left = int(self.headers["Content-Length"])
        room = memoryview(bytearray(MIB))
        while left:
            left -= self.rfile.readinto(room[: min(left, MIB)])  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        """Give a body."""
        size_mib = int(self.path.removeprefix("/"))
        self.send_response(200)
        self.send_header("Content-Length", str(size_mib * MIB))
        self.end_headers()
        for _ in range(size_mib):
            self.wfile.write(PIECE)

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""


class _Node(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Balancers drop connections that nobody needs; what is missing, the client tells."""


@contextmanager
def before_a_large_node(text: str, words: perlbal.Words, extra: str = "") -> Iterator[Subject]:
    """A balancer with a node that takes and gives large bodies."""
    with _Node(("127.0.0.1", 0), _Large) as node:
        thread = threading.Thread(target=node.serve_forever, args=(0.1,))
        thread.start()
        try:
            with perlbal.contender(text, words, extra=extra, node=node.server_port) as subject:
                yield subject
        finally:
            node.shutdown()
            thread.join()


def peak(subject: Subject, *, size_mib: int, upload: bool) -> float:
    """The most memory that the process had, in MiB, while one body went through it."""
    process = Path(f"/proc/{subject.pid}")
    (process / "clear_refs").write_text("5")  # forget the peak there was before
    with socket.create_connection(_address(subject)) as client:
        if upload:
            size = f"Content-Length: {size_mib * MIB}\r\n"
            _ask(client, f"POST / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n{size}")
            for _ in range(size_mib):
                client.sendall(PIECE)
            _read(client, 0)
        else:
            _ask(client, f"GET /{size_mib} HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n")
            _read(client, size_mib * MIB)
    lines = (process / "status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


# -- HTTP, by hand ------------------------------------------------------------------


def _address(subject: Subject) -> tuple[str, int]:
    return "127.0.0.1", int(subject.value.rpartition(":")[2])


def _ask(client: socket.socket, head: str) -> None:
    client.sendall(f"{head}\r\n".encode())


def _read(client: socket.socket, size: int) -> None:
    """Read a response whose body has `size` bytes.

    Raises:
        RuntimeError: it is another one, or ends too early.
    """
    received = b""
    while b"\r\n\r\n" not in received:
        data = client.recv(4096)
        if not data:
            raise RuntimeError(f"the balancer has hung up: {received!r}")
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    if b" 200 " not in head:
        raise RuntimeError(f"the balancer has answered {head!r}")
    left = size - len(body)
    room = memoryview(bytearray(MIB))
    while left:
        count = client.recv_into(room[: min(left, MIB)])
        if not count:
            raise RuntimeError(f"the balancer has hung up {left} bytes too early")
        left -= count


# -- what is compared ---------------------------------------------------------------

_PATIENT = "  SET persist_client_idle_timeout = 600\n"
_TO_DISK = perlbal.PROXY.replace(
    "{settings}", "  SET buffer_uploads = on\n  SET buffer_uploads_path = {folder}\n"
)


def comparisons(quick: bool) -> Iterator[Comparison]:
    """Beside each peer."""
    count = IDLE // 10 if quick else IDLE
    allow_open_files(IDLE + 1000)
    idle_clients = Load(
        f"{count:,} idle clients",
        "KiB each",
        partial(idle, clients=count),
        better="lower",
        with_cpu=False,
    )
    patient = partial(perlbal.contender, perlbal.PROXY, settings=_PATIENT)
    ours = perlbal.ours(partial(patient, perlbal.run_ours))
    xs = partial(patient, perlbal.run_perlbal, extra=perlbal.XS)
    haproxy = partial(perlbal.contender, perlbal.HAPROXY, perlbal.run_haproxy)
    nginx = partial(perlbal.contender, perlbal.NGINX_PROXY, perlbal.run_nginx)
    for peer in (perlbal.perlbal(xs), perlbal.haproxy(haproxy), perlbal.nginx(nginx)):
        yield Comparison(
            f"Clients that stay connected, beside {peer.name}",
            ours=ours,
            peer=peer,
            loads=[idle_clients],
            goal="under 8 KiB each",
            notes=["Each was served once.  Measured once."],
        )
    large_mib = 256 if quick else LARGE_MIB
    large = "256 MiB" if quick else "4 GiB"
    uploads, downloads = (
        [
            Load(
                f"{name} of {size}",
                "MiB",
                partial(peak, size_mib=size_mib, upload=name == "upload"),
                better="lower",
                with_cpu=False,
            )
            for size, size_mib in (("1 MiB", 1), (large, large_mib))
        ]
        for name in ("upload", "download")
    )
    through = perlbal.ours(partial(before_a_large_node, perlbal.PROXY, perlbal.run_ours))
    peers = (
        perlbal.perlbal(
            partial(before_a_large_node, perlbal.PROXY, perlbal.run_perlbal, perlbal.XS)
        ),
        perlbal.haproxy(partial(before_a_large_node, perlbal.HAPROXY, perlbal.run_haproxy)),
    )
    for peer in peers:
        yield Comparison(
            f"Most memory while a body goes through, beside {peer.name}",
            ours=through,
            peer=peer,
            loads=uploads + downloads,
            goal="the same for small ones and large ones",
            notes=["The whole process.  Measured once."],
        )
    yield Comparison(
        "Most memory while an upload is put to the disk first, beside Perlbal",
        ours=perlbal.ours(partial(before_a_large_node, _TO_DISK, perlbal.run_ours)),
        peer=perlbal.perlbal(
            partial(before_a_large_node, _TO_DISK, perlbal.run_perlbal, perlbal.XS)
        ),
        loads=uploads,
        goal="the same for small ones and large ones",
        notes=["The whole process.  Measured once."],
    )
