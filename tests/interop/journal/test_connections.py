"""Clients that behave badly, on the connections of a running site."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.support.journal import PASSWORD
from tests.support.journal_site import RunningSite, running_site, sqlite_urls
from tests.support.process import wait_for

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSite]:
    folder = tmp_path_factory.mktemp("site")
    settings = ["idle_timeout_s=1", "max_connections=300"]
    with running_site(folder, sqlite_urls(folder), settings=settings) as running:
        yield running


@pytest.fixture(scope="module")
def hasty_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSite]:
    """A site that waits long for a silent client, and not for a slow one."""
    folder = tmp_path_factory.mktemp("hasty")
    settings = ["idle_timeout_s=600", "request_timeout_s=1"]
    with running_site(folder, sqlite_urls(folder), settings=settings) as running:
        yield running


def connect(site: RunningSite) -> socket.socket:
    return socket.create_connection(("127.0.0.1", site.port), 20)


def rest(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    pieces = []
    try:
        while piece := connection.recv(65536):
            pieces.append(piece)
    except ConnectionResetError:
        pass
    return b"".join(pieces)


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"POST /login HTTP/1.1\r\nContent-Length: 5"])
def test_silence_is_cut_off(site: RunningSite, sent: bytes) -> None:
    with connect(site) as connection:
        connection.sendall(sent)
        started = time.monotonic()
        assert rest(connection) == b""
        assert 0.5 < time.monotonic() - started < 10


FORM = (
    b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n"
    b"Content-Type: application/x-www-form-urlencoded\r\n\r\n"
)
ANSWERED = b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"\r\n", b"HTTP/1.1 408 "),
        (b"GET /", b"HTTP/1.1 408 "),
        (FORM, b"HTTP/1.1 408 "),
        (ANSWERED, b"HTTP/1.1 200 "),
    ],
    ids=["no head", "head", "form", "after the answer"],
)
def test_a_request_that_trickles_in_is_cut_off(
    hasty_site: RunningSite, sent: bytes, answer: bytes
) -> None:
    received = bytearray()
    started = time.monotonic()
    with connect(hasty_site) as connection:
        connection.sendall(sent)
        connection.settimeout(0.1)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() - started < 60:
                connection.sendall(b"\r\n" if sent == b"\r\n" else b"x")
                with contextlib.suppress(TimeoutError):
                    if not (piece := connection.recv(65536)):
                        break
                    received += piece
    assert 1 < time.monotonic() - started < 30
    assert received.startswith(answer)
    assert received.count(b"HTTP/1.1 ") == 1


def test_requests_that_come_one_by_one_are_not_slow(hasty_site: RunningSite) -> None:
    with connect(hasty_site) as connection:
        started = time.monotonic()
        while time.monotonic() - started < 2.5:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while not answer.endswith(b"\r\n\r\nok\n"):
                piece = connection.recv(65536)
                assert piece, answer
                answer += piece
            connection.settimeout(0.4)
            with pytest.raises(TimeoutError):  # a pause, as a reader makes
                connection.recv(65536)
            connection.settimeout(20)


def test_a_head_without_end(site: RunningSite) -> None:
    with connect(site) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012
            for _ in range(50_000):  # 50 MB, far more than what waits in buffers
                connection.sendall(b"X: " + b"y" * 1000 + b"\r\n")


@pytest.mark.parametrize(
    "sent", [b"rubbish\r\n\r\n", b"\x16\x03\x01\x02\x00", b"GET http://[ HTTP/1.1\r\n\r\n"]
)
def test_what_is_no_http(site: RunningSite, sent: bytes) -> None:
    with connect(site) as connection:
        connection.sendall(sent)
        assert rest(connection).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("size", [400_000, 1_000_000, 3_000_000])
def test_large_forms_in_large_pieces(site: RunningSite, size: int) -> None:
    """The end of a body is not taken for the head of a next request."""
    head = (
        b"POST /login HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n" % size
    )
    with connect(site) as connection:
        connection.sendall(head + b"x" * size)
        status = rest(connection).split(b" ", 2)[1]
    assert status == (b"403" if size < 768 << 10 else b"413")


def test_memory_stays_flat_under_large_forms(site: RunningSite) -> None:
    process = psutil.Process(site.running.pid)
    head = (
        b"POST /post HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\n\r\n"
    )
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    peaks = []
    for _ in range(3):
        with connect(site) as connection:
            connection.sendall(head)
            try:
                for _ in range(1600):  # 100 MB
                    connection.sendall(chunk)
            except (BrokenPipeError, ConnectionResetError):
                pass
            else:
                pytest.fail("100 MB were taken")
        peaks.append(process.memory_info().rss)
    assert peaks[-1] - peaks[0] < 16 << 20


def test_many_idle_clients_disturb_nobody(site: RunningSite) -> None:
    person = site.person("calm").sign_up(PASSWORD)
    idle = [connect(site) for _ in range(400)]
    try:
        wait_for(lambda: person.get("/health").status_code == 200, "the idle ones to be cut off")
    finally:
        for connection in idle:
            connection.close()
    assert person.post("Still here") == 1
