"""Large data takes turns with everything else: the server's connections on transports of a test."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lj_services.gearman.jobs import Peer
from lj_services.gearman.protocol import LARGE, request, response
from lj_services.gearman.protocol import PacketType as T
from lj_services.gearman.server_connection import PORTION_BYTES
from tests.support.gearman_house import House, in_a_house

pytestmark = pytest.mark.unit

READ = 1 << 18


async def turns(number: int = 1) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


@given(st.lists(st.binary(min_size=1, max_size=40)), st.integers(1, 50))
def test_portions_are_the_whole_in_its_order(outbox: list[bytes], most: int) -> None:
    peer = Peer()
    for data in outbox:
        peer.write(data)
    portions = []
    while peer.outbox:
        portions.append(bytes(peer.take_portion(most)))
        assert 0 < len(portions[-1]) <= most
        assert peer.unsent_bytes == sum(map(len, peer.outbox))
    assert b"".join(portions) == b"".join(outbox)


@in_a_house
async def test_others_are_answered_between_two_portions(house: House) -> None:
    large, _ = house.connect("large")
    small, _ = house.connect("small")
    data = bytes(3 * LARGE)
    large.data_received(request(T.ECHO_REQ, data))
    for _ in range(3):
        small.data_received(request(T.ECHO_REQ, b"x"))
        await turns()
    names = [name for name, _ in house.log]
    assert names[:6] == ["large", "small"] * 3
    await turns(2 * len(data) // PORTION_BYTES)
    assert house.written("large") == response(T.ECHO_RES, data)
    assert max(len(data) for _, data in house.log) <= PORTION_BYTES


@in_a_house
async def test_what_comes_later_leaves_later(house: House) -> None:
    large, _ = house.connect("large")
    data = bytes(2 * LARGE)
    large.data_received(request(T.ECHO_REQ, data))
    await turns()
    large.data_received(request(T.ECHO_REQ, b"x"))
    await turns(2 * len(data) // PORTION_BYTES)
    assert house.written("large") == response(T.ECHO_RES, data) + response(T.ECHO_RES, b"x")


@in_a_house
async def test_large_data_is_read_once_a_turn(house: House) -> None:
    connection, transport = house.connect("large")
    packet = request(T.ECHO_REQ, bytes(2 * LARGE))
    paused = 0
    for start in range(0, len(packet), READ):
        assert transport.reading
        connection.data_received(packet[start : start + READ])
        paused += not transport.reading
        await turns()
    assert paused == 5  # while 1 MiB and more had arrived, and something was still to come
    await turns(2 * len(packet) // PORTION_BYTES)
    assert house.written("large") == response(T.ECHO_RES, bytes(2 * LARGE))


@in_a_house
async def test_a_slow_reader_gets_the_rest_when_it_reads(house: House) -> None:
    connection, transport = house.connect("large")
    data = bytes(2 * LARGE)
    connection.data_received(request(T.ECHO_REQ, data))
    connection.pause_writing()
    await turns(3)
    assert len(house.log) == 1
    assert not transport.reading
    connection.resume_writing()
    await turns(2 * len(data) // PORTION_BYTES)
    assert house.written("large") == response(T.ECHO_RES, data)
    assert transport.reading


@in_a_house
async def test_who_has_sent_its_last_byte_gets_everything(house: House) -> None:
    connection, transport = house.connect("large")
    data = bytes(2 * LARGE)
    connection.data_received(request(T.ECHO_REQ, data))
    assert len(house.log) == 1
    connection.eof_received()
    assert transport.closing
    assert house.written("large") == response(T.ECHO_RES, data)
    await turns(3)
