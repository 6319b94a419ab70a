"""How the driver is used, without a server."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from mysql.connector.errors import InterfaceError

from lj_services.database import driver


class AskedLock:
    """A lock that tells when somebody asks for it."""

    def __init__(self) -> None:
        self.asked = threading.Semaphore(0)
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self.asked.release()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_the_first_attempt_of_a_process_is_made_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end counts, not its success; afterwards nobody waits for anybody."""
    begun: list[str] = []
    first_is_in, let_it_go = threading.Event(), threading.Event()
    both_are_in = threading.Barrier(2, timeout=10)

    class Connection:
        def __init__(self, **arguments: Any) -> None:
            name = arguments["user"]
            begun.append(name)
            if name == "first":
                first_is_in.set()
                assert let_it_go.wait(10)
                raise InterfaceError("no such server")
            if name != "second":
                both_are_in.wait()

    lock = AskedLock()
    monkeypatch.setattr(driver, "_first", lock)
    monkeypatch.setattr(driver, "_prepared", False)
    monkeypatch.setattr(driver, "_CompiledConnection", Connection)
    monkeypatch.setattr(driver, "_PurePythonConnection", Connection)

    def connect(name: str) -> threading.Thread:
        def run() -> None:
            try:
                driver.connect(user=name)
            except InterfaceError:
                begun.append(f"{name} failed")

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    first = connect("first")
    assert first_is_in.wait(10)
    assert lock.asked.acquire(timeout=10)
    second = connect("second")
    assert lock.asked.acquire(timeout=10)
    assert begun == ["first"]
    let_it_go.set()
    for thread in (first, second):
        thread.join(10)
    assert sorted(begun) == ["first", "first failed", "second"]
    for thread in [connect("third"), connect("fourth")]:
        thread.join(10)
        assert not thread.is_alive()
    assert not both_are_in.broken
