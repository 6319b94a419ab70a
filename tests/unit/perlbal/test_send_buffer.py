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
    assert send_buffer._allowed(settings(tmp_path, most=most, grown=grown)) == size


def test_settings_that_are_hidden(tmp_path: Path) -> None:
    assert send_buffer._allowed(tmp_path) == 0


@pytest.mark.parametrize(
    ("size", "seconds", "fast"),
    [(MIB, 0.001, True), (2 * MIB, 0.1, False), (64 * MIB, 1.0, True), (0, 0.001, False)],
)
def test_who_is_fast(size: int, seconds: float, fast: bool) -> None:
    assert send_buffer.is_fast(size, seconds) is fast


@pytest.mark.parametrize(("most", "changed"), [("4194304", True), ("212992", False)])
def test_the_buffer_of_a_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: str, changed: bool
) -> None:
    monkeypatch.setattr(send_buffer, "_SETTINGS", settings(tmp_path, most=most, grown="4194304"))
    with socket.socket() as made:
        before = made.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        send_buffer.enlarge(made)
        after = made.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    assert (after > before) is changed
