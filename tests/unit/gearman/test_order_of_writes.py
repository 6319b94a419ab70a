"""Who is told first when one packet has several answers."""

from __future__ import annotations

import pytest

from lj_services.gearman.protocol import PacketType as T
from lj_services.gearman.protocol import request, response
from tests.support.gearman_house import House, in_a_house

pytestmark = pytest.mark.unit


@in_a_house
async def test_a_worker_is_woken_before_its_client_is_answered(house: House) -> None:
    worker, _ = house.connect("worker")
    client, _ = house.connect("client")
    worker.data_received(request(T.CAN_DO, b"up") + request(T.PRE_SLEEP))
    client.data_received(request(T.SUBMIT_JOB, b"up", b"", b"x"))
    assert house.log[0] == ("worker", response(T.NOOP))
    assert [name for name, _ in house.log] == ["worker", "client"]


@in_a_house
async def test_many_submissions_wake_a_worker_once_and_are_answered_together(house: House) -> None:
    worker, _ = house.connect("worker")
    client, _ = house.connect("client")
    worker.data_received(request(T.CAN_DO, b"up") + request(T.PRE_SLEEP))
    client.data_received(10 * request(T.SUBMIT_JOB_BG, b"up", b"", b"x"))
    assert [name for name, _ in house.log] == ["worker", "client"]
