"""The send buffer of clients that read fast."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lj_services.perlbal.web import send_buffer

pytestmark = pytest.mark.unit

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """What the system allows is looked up once; here it differs from test to test."""
    send_buffer._allowed.cache_clear()
    yield
    send_buffer._allowed.cache_clear()


def settings(folder: Path, *, most: str, grown: str) -> Path:
    """The kernel's settings: what a program may ask for, and what a buffer grows to."""
    (folder / "core").mkdir()
    (folder / "ipv4").mkdir()
    (folder / "core" / "wmem_max").write_text(f"{most}\n")
    (folder / "ipv4" / "tcp_wmem").write_text(f"4096\t16384\t{grown}\n")
    return folder


@pytest.mark.parametrize(
    ("most", "grown", "size"),
    [
        pytest.param("4194304", "4194304", 8 * MIB, id="twice what the system gives"),
        pytest.param("67108864", "4194304", 8 * MIB, id="never more than is of use"),
        pytest.param("3145728", "4194304", 6 * MIB, id="as much as is allowed"),
        pytest.param("212992", "4194304", 0, id="less than the system gives: Debian's default"),
        pytest.param("2097152", "4194304", 0, id="the same as the system gives"),
        pytest.param("67108864", "16777216", 0, id="the system itself gives more"),
        pytest.param("much", "4194304", 0, id="not a number"),
    ],
)
def test_what_the_system_allows(tmp_path: Path, most: str, grown: str, size: int) -> None:
    assert send_buffer._allowed(settings(tmp_path, most=most, grown=grown))[0] == size


def test_settings_that_are_hidden(tmp_path: Path) -> None:
    assert send_buffer._allowed(tmp_path) == (0, 0)


@pytest.mark.parametrize(
    ("size", "seconds", "fast"),
    [(MIB, 0.001, True), (2 * MIB, 0.1, False), (64 * MIB, 1.0, True), (0, 0.001, False)],
)
def test_who_is_fast(size: int, seconds: float, fast: bool) -> None:
    assert send_buffer.is_fast(size, seconds) is fast


class Reader:
    """A client, as far as its buffer is concerned; `other` is its end of the connection."""

    def __init__(self, listening: socket.socket) -> None:
        self.other = socket.socket()
        # Small, so that what is sent waits at the sender's.
        self.other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.other.connect(listening.getsockname())
        self._socket, _ = listening.accept()
        self._socket.setblocking(False)
        self.transport = self
        self.has_file = False
        self.gone = False
        self.usual = self.buffer

    def get_extra_info(self, name: str) -> socket.socket:
        assert name == "socket"
        return self._socket

    def is_closing(self) -> bool:
        return self._socket.fileno() < 0

    def fill(self) -> None:
        """Send more than is read."""
        self._socket.send(b"x" * (100 << 10))

    @property
    def buffer(self) -> int:
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)

    def close(self) -> None:
        self.gone = True
        self._socket.close()
        self.other.close()


@pytest.fixture
def readers() -> Iterator[list[Reader]]:
    """Three clients, of which two may have a large buffer (`_few`)."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        made = [Reader(listening) for _ in range(3)]
    yield made
    for each in made:
        each.close()


@pytest.fixture
def _few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two clients may have a buffer that is larger than the system's 64 KiB."""
    made = settings(tmp_path, most="65536", grown="65536")
    monkeypatch.setattr(send_buffer, "_SETTINGS", made)
    monkeypatch.setattr(send_buffer, "MOST", 2)


def test_where_the_system_allows_none_buffers_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, readers: list[Reader]
) -> None:
    made = settings(tmp_path, most="212992", grown="4194304")
    monkeypatch.setattr(send_buffer, "_SETTINGS", made)
    buffers = send_buffer.LargeBuffers()
    buffers.give(readers[0])
    assert len(buffers) == 0
    assert readers[0].buffer == readers[0].usual


@pytest.mark.usefixtures("_few")
def test_only_so_many_have_one_and_who_stops_to_read_keeps_it(readers: list[Reader]) -> None:
    buffers = send_buffer.LargeBuffers()
    for each in readers[:2]:
        buffers.give(each)
        buffers.give(each)  # with each file that it is sent
        assert each.buffer == 128 << 10
        each.fill()
    buffers.give(readers[2])
    assert len(buffers) == 2
    assert readers[2].buffer == readers[2].usual


@pytest.mark.usefixtures("_few")
def test_it_is_taken_back_from_who_has_read_everything(readers: list[Reader]) -> None:
    first, second, third = readers
    buffers = send_buffer.LargeBuffers()
    second.has_file = True  # between two pieces of one
    for each in readers:
        buffers.give(each)
    assert len(buffers) == 2
    assert first.buffer == 64 << 10
    assert [each.buffer for each in (second, third)] == [128 << 10] * 2


@pytest.mark.usefixtures("_few")
def test_who_has_left_has_none(readers: list[Reader]) -> None:
    buffers = send_buffer.LargeBuffers()
    for each in readers[:2]:
        buffers.give(each)
        each.fill()
    readers[0].close()
    buffers.give(readers[2])
    assert len(buffers) == 2
    assert readers[2].buffer == 128 << 10
