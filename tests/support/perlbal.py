"""Balancers for tests, ours and Debian's Perlbal; nodes behind them; clients before them."""

from __future__ import annotations

import json
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.process import Running, accepts, free_port, spawn

LJ = Path(sys.executable).parent / "lj"
LONGEST_WAIT_S = 60.0
Which = Literal["ours", "perlbal"]


@dataclass
class Answer:
    """A response, as it came."""

    version: str
    status: int
    fields: dict[str, str]
    lines: list[str]
    body: bytes
    whole: bool = True
    """Whether all of the body came that was told of."""

    @property
    def json(self) -> Any:
        """The body of the echoing node."""
        return json.loads(self.body)


class Talk:
    """One connection to an HTTP server, spoken by hand."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection((host, port), LONGEST_WAIT_S)
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def line(self) -> bytes:
        """The next line, as it is."""
        return self._file.readline()

    def read(self, method: str = "GET") -> Answer:
        """The next response, whole."""
        status = self._file.readline().decode("latin-1")
        assert status, "closed without a response"
        version, code, *_ = status.split(" ")
        lines = []
        while (line := self._file.readline()) not in (b"\r\n", b""):
            lines.append(line.decode("latin-1").rstrip("\r\n"))
        fields: dict[str, str] = {}
        for each in lines:
            name, _, value = each.partition(":")
            fields[name.lower()] = value.strip()
        answer = Answer(version, int(code), fields, lines, b"")
        if method == "HEAD" or answer.status in (204, 304) or answer.status < 200:
            return answer
        if fields.get("transfer-encoding") == "chunked":
            answer.body, answer.whole = self._chunks()
        elif "content-length" in fields:
            size = int(fields["content-length"])
            answer.body = self._file.read(size)
            answer.whole = len(answer.body) == size
        else:
            answer.body = self._file.read()
        return answer

    def _chunks(self) -> tuple[bytes, bool]:
        body = b""
        while line := self._file.readline():
            size = int(line, 16)
            data = self._file.read(size + 2)
            if len(data) < size + 2:
                return body + data, False
            if not size:
                return body, True
            body += data[:-2]
        return body, False

    def ask(self, request: bytes) -> Answer:
        """Send a request, read the response."""
        self.send(request)
        return self.read(request.split(b" ", 1)[0].decode())

    def rest(self) -> bytes:
        """Everything until the server closes."""
        return self._file.read()

    @property
    def closed(self) -> bool:
        """Whether the server closes; waits until it says or does something."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True


def get(port: int, target: str = "/", *lines: str, version: str = "1.1") -> Answer:
    """One GET over a connection of its own."""
    head = "".join(f"{line}\r\n" for line in ("Host: site.example", "Connection: close", *lines))
    with Talk(port) as talk:
        return talk.ask(f"GET {target} HTTP/{version}\r\n{head}\r\n".encode())


class _Echo(BaseHTTPRequestHandler):
    """Tells what it was asked; ``?status=``, ``?header=`` and others say how to answer."""

    protocol_version = "HTTP/1.1"
    node: Node

    def _answer(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        chunked = self.headers.get("Transfer-Encoding") == "chunked"
        body = (
            self._chunks()
            if chunked
            else self.rfile.read(int(self.headers.get("Content-Length") or 0))
        )
        with self.node.lock:
            self.node.requests.append(f"{self.command} {self.path}")
            if url.path in self.node.failing:
                self.node.failing.remove(url.path)
                query["status"] = "500"
        if url.path == "/die":
            self.close_connection = True
            return
        if url.path == "/wait":
            self.node.arrived.release()
            self.node.go.acquire(timeout=LONGEST_WAIT_S)
        told = {
            "node": self.node.name,
            "method": self.command,
            "path": self.path,
            "version": self.request_version,
            "headers": self.headers.items(),
            "body": body.decode("latin-1"),
            "connection": self.client_address[1],
        }
        sent = json.dumps(told).encode() + b" " * int(query.get("pad", 0))
        if "empty" in query:
            sent = b""
        self.send_response(int(query.get("status", 200)))
        for name, value in self.node.answer_fields.get(url.path, ()):
            self.send_header(name, value)
        if url.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for start in range(0, len(sent), 50):
                piece = sent[start : start + 50]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
            return
        if url.path == "/until-close":
            self.close_connection = True
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(sent)
            return
        extra = 10 if url.path == "/short" else 0
        self.send_header("Content-Length", str(len(sent) + extra))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(sent)
        if extra:
            self.wfile.flush()
            self.close_connection = True

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = _answer  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """Tests look at `Node.requests`."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no error."""


@dataclass
class Node:
    """A program behind the balancer, in this process: echoes requests as JSON."""

    name: str = "node"
    port: int = 0
    requests: list[str] = field(default_factory=list)
    failing: list[str] = field(default_factory=list)
    """Paths that are answered 500, once for each time they are here."""
    answer_fields: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    arrived: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def seen(self, method: str = "GET") -> list[str]:
        """Paths that were asked for with `method`."""
        with self.lock:
            asked = [request.split(" ") for request in self.requests]
        return [path for used, path in asked if used == method]


@contextmanager
def echoing(name: str = "node", port: int = 0) -> Iterator[Node]:
    """A node that echoes, for the length of the block."""
    node = Node(name)
    handler = type("Handler", (_Echo,), {"node": node})
    with _Server(("127.0.0.1", port), handler) as server:
        node.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield node
        finally:
            for _ in range(100):
                node.go.release()
            server.shutdown()
            thread.join()


class RawNode:
    """A node that does with each connection what a function says."""

    def __init__(self, script: Callable[[socket.socket], None]) -> None:
        self.connections = 0
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _serve(self) -> None:
        while True:
            try:
                connected, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._run, args=(connected,), daemon=True).start()

    def _run(self, connected: socket.socket) -> None:
        connected.settimeout(LONGEST_WAIT_S)
        with connected:
            try:
                self._script(connected)
            except OSError:
                return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@contextmanager
def raw_node(script: Callable[[socket.socket], None]) -> Iterator[RawNode]:
    """A `RawNode` for the length of the block."""
    node = RawNode(script)
    try:
        yield node
    finally:
        node.close()


def read_head(connected: socket.socket) -> bytes:
    """What a node is sent, up to the end of the head."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connected.recv(1 << 16)
        if not more:
            return data
        data += more
    return data


class Balancer:
    """A running balancer: ours, or Debian's Perlbal."""

    def __init__(self, which: Which, port: int, console: int, running: Running) -> None:
        self.which = which
        self.port = port
        self.console = console
        self.running = running

    def command(self, line: str) -> list[str]:
        """What the console answers to a line, without the dot that ends long answers."""
        with socket.create_connection(("127.0.0.1", self.console), LONGEST_WAIT_S) as connected:
            connected.sendall(f"{line}\r\nversion\r\n".encode())
            lines: list[str] = []
            with connected.makefile("r", newline="\r\n") as answers:
                while not (line := answers.readline()).startswith("starttime"):
                    assert line, f"the console has hung up after {lines}"
                    lines.append(line.rstrip("\r\n"))
        if lines and lines[-1] == ".":
            lines.pop()
        return lines

    def command_and_go(self, line: str) -> str:
        """The first line of what the console answers; what follows is not waited for."""
        with socket.create_connection(("127.0.0.1", self.console), LONGEST_WAIT_S) as connected:
            connected.sendall(f"{line}\r\n".encode())
            with connected.makefile("r") as answers:
                return answers.readline().rstrip("\r\n")

    def talk(self) -> Talk:
        """A connection as a client."""
        return Talk(self.port)


class Start(Protocol):
    """What the fixture is."""

    def __call__(self, config: str, which: Which = "ours", *words: str) -> Balancer: ...


def _argv(which: Which, config: Path, words: tuple[str, ...]) -> list[str | Path]:
    if which == "ours":
        return [LJ, "perlbal", "serve", "--config", config, *words]
    program = shutil.which("perlbal")
    assert program is not None, "Debian's perlbal is not installed: see packages.txt"
    return [program, f"--config={config}", *words]


@contextmanager
def starting(folder: Path) -> Iterator[Start]:
    """Gives what starts balancers for the length of the block; their files are in `folder`."""
    with ExitStack() as stack:

        def start(config: str, which: Which = "ours", *words: str) -> Balancer:
            port, console = free_port(), free_port()
            text = config.replace("PORT", str(port))
            text += (
                "\nCREATE SERVICE console\n  SET role = management\n"
                f"  SET listen = 127.0.0.1:{console}\nENABLE console\n"
            )
            file = folder / f"{which}-{port}.conf"
            file.write_text(text)
            running = stack.enter_context(
                spawn(
                    _argv(which, file, words),
                    folder / f"{which}-{port}.log",
                    ready=lambda: accepts(console),
                )
            )
            return Balancer(which, port, console, running)

        yield start


@pytest.fixture
def start_balancer(tmp_path: Path) -> Iterator[Start]:
    """Starts a balancer; PORT in its configuration is replaced, a console is added."""
    with starting(tmp_path) as start:
        yield start


def proxy(*nodes: str, settings: str = "") -> str:
    """The configuration of a reverse proxy; `settings` are lines under the service."""
    added = "".join(f"  POOL p ADD {node}\n" for node in nodes)
    return (
        f"CREATE POOL p\n{added}CREATE SERVICE web\n  SET role = reverse_proxy\n"
        f"  SET pool = p\n  SET listen = 127.0.0.1:PORT\n{settings}\nENABLE web\n"
    )
