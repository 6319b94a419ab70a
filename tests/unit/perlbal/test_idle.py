"""Idle connections that are closed just when a request comes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from lj_services.daemon import ConnectionLimits
from lj_services.perlbal.balancer import Balancer
from lj_services.perlbal.tunables import TUNABLES

pytestmark = pytest.mark.unit

GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
LONG_S = TUNABLES["persist_client_idle_timeout"].default + 1.0


async def _answer(client: socket.socket) -> bytes:
    """What comes; nothing, if the connection is closed instead."""
    loop = asyncio.get_running_loop()
    data = b""
    while not data.endswith(b"hello"):
        try:
            more = await loop.sock_recv(client, 1 << 16)
        except ConnectionResetError:
            return b""
        if not more:
            return data
        data += more
    return data


async def _scenario(folder: Path, passes: Callable[[Balancer, float], None]) -> tuple[bytes, bytes]:
    """Two answers to a client that asks, and asks again just before time passes."""
    loop = asyncio.get_running_loop()
    balancer = Balancer(ConnectionLimits("perlbal", 10, 60.0))
    balancer.now = loop.time()
    balancer.load_text(
        "CREATE SERVICE files\n  SET role = web_server\n  SET listen = 127.0.0.1:0\n"
        f"  SET docroot = {folder}\n  SET persist_client = on\nENABLE files\n",
        "files",
    )
    listener = balancer.services["files"].listener
    assert listener is not None
    with socket.socket() as client:
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", listener.port))
        await loop.sock_sendall(client, GET)
        first = await _answer(client)
        # From here on the loop has no turn: what is sent is not read.
        client.send(GET)
        passes(balancer, loop.time())
        second = await _answer(client)
    balancer.close()
    return first, second


def _long_idle(balancer: Balancer, now: float) -> None:
    balancer.tick(now + LONG_S)


def _drained(balancer: Balancer, now: float) -> None:
    balancer.drain()


def _handed_over(balancer: Balancer, now: float) -> None:
    balancer.drain(1.0)
    balancer.tick(now + LONG_S)


@pytest.mark.parametrize("passes", [_long_idle, _drained, _handed_over])
def test_a_request_that_has_come_is_answered_before_its_connection_is_closed(
    tmp_path: Path, passes: Callable[[Balancer, float], None]
) -> None:
    (tmp_path / "a").write_text("hello")

    async def bounded() -> tuple[bytes, bytes]:
        async with asyncio.timeout(20):
            return await _scenario(tmp_path, passes)

    first, second = asyncio.run(bounded())
    assert first.endswith(b"hello")
    assert second.endswith(b"hello")
    closes = b"connection: close" in second.lower()
    assert closes == (passes is not _long_idle)
