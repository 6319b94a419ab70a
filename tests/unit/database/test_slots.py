"""Connections go to whoever has waited longest."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from lj_services.database import Databases
from lj_services.database.slots import Slots
from tests.support.databases import settings_of
from tests.support.process import wait_for

pytestmark = pytest.mark.unit


def test_first_come_first_served() -> None:
    slots = Slots(1)
    assert slots.acquire(1)
    served: list[int] = []

    def want(number: int) -> None:
        assert slots.acquire(10)
        served.append(number)
        slots.release()

    threads = []
    for number in range(10):
        thread = threading.Thread(target=want, args=(number,))
        thread.start()
        threads.append(thread)
        wait_for(lambda: len(slots._waiting) == len(threads), "the thread to wait")
    slots.release()
    assert slots.acquire(10)  # behind all of them
    assert served == list(range(10))
    for thread in threads:
        thread.join()


def test_who_waits_in_vain_leaves_the_queue() -> None:
    slots = Slots(1)
    assert slots.acquire(0)
    assert not slots.acquire(0.01)
    slots.release()
    assert slots.acquire(0)
    assert not slots.acquire(0)
    slots.release()
    assert slots.acquire(0)


def test_connections_in_use_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "g.db"
    databases = Databases(settings_of({"global": f"sqlite:///{file}"}))

    def in_use() -> float:
        labels = {"role": "global", "server": str(file), "mode": "write"}
        return REGISTRY.get_sample_value("lj_database_pool_in_use", labels) or 0.0

    with databases.write("global"):
        assert in_use() == 1
    assert in_use() == 0
    databases.close()
