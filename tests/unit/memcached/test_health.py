"""Which servers are left out: by a clock that the test turns."""

from __future__ import annotations

import logging

import pytest

from lj_services.memcached.errors import ServerUnreachable
from lj_services.memcached.health import Health
from lj_services.memcached.rings import Server

pytestmark = pytest.mark.unit

FAULT = ServerUnreachable("no connection to a:1: refused")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health([Server("a", 1), Server("b", 2)], 20.0, clock, jitter=lambda: 1.0)


def test_a_server_that_failed_is_left_out_for_its_time_and_the_jitter(
    health: Health, clock: Clock
) -> None:
    assert health.dead() == frozenset()
    health.failed(0, FAULT)
    assert health.dead() == {0}
    assert health.claim(1)
    assert not health.claim(0)
    clock.now += 29.9
    assert health.dead() == {0}
    clock.now += 0.2
    assert health.dead() == frozenset()


def test_only_one_caller_tries_a_server_that_is_due(health: Health, clock: Clock) -> None:
    health.failed(0, FAULT)
    clock.now += 31
    assert health.claim(0)
    assert not health.claim(0)
    assert health.dead() == {0}


def test_a_server_that_answers_is_taken_in_again(health: Health, clock: Clock) -> None:
    health.failed(0, FAULT)
    clock.now += 31
    assert health.claim(0)
    health.answered(0)
    assert health.dead() == frozenset()
    assert health.claim(0)
    assert health.claim(0)


def test_the_log_tells_once_that_a_server_went_and_came(
    health: Health, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for _ in range(3):
        health.failed(0, FAULT)
        clock.now += 31
        assert health.claim(0)
    health.answered(0)
    health.answered(0)
    assert [record.getMessage() for record in caplog.records] == [
        "memcached server left out for 30.0 s: no connection to a:1: refused",
        "memcached server a:1 answers again",
    ]
