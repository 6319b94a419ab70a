"""The C library's queues: order, results, cancelling."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from disk_checker.aio import Queue
from tests.support.process import wait_for

pytestmark = pytest.mark.unit


@pytest.fixture
def memory() -> mmap.mmap:
    return mmap.mmap(-1, 1 << 16)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT, 0o600)
    yield descriptor
    os.close(descriptor)


def address(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def collect(queue: Queue) -> list[int]:
    """Results of everything that is queued."""
    found: list[int] = []

    def gone() -> bool:
        found.extend(queue.results())
        return not queue.pending

    wait_for(gone, "the queue to be worked off", every_s=0.001)
    return found


def test_operations_have_results_in_the_order_of_queueing(target: int, memory: mmap.mmap) -> None:
    memory[:4] = b"text"
    queue = Queue(target, 8)
    queue.write(4096, address(memory), 4)
    queue.sync()
    queue.write(0, address(memory), 3)
    queue.sync(data_only=True)
    queue.read(4096, address(memory) + 100, 100)
    assert collect(queue) == [4, 0, 3, 0, 4]
    assert memory[100:104] == b"text"
    queue.close()


def test_the_later_of_two_writes_to_one_place_is_the_last(target: int, memory: mmap.mmap) -> None:
    queue = Queue(target, 64)
    for number in range(2000):
        while queue.pending == 64:
            queue.results()
        at = number % 64 * 8
        memory[at : at + 8] = number.to_bytes(8, "little")
        queue.write(0, address(memory) + at, 8)
    collect(queue)
    assert int.from_bytes(os.pread(target, 8, 0), "little") == 1999
    queue.close()


def test_an_error_is_a_result_and_stops_nothing(target: int, memory: mmap.mmap) -> None:
    queue = Queue(target, 8)
    queue.write(0, 8, 512)  # no memory of this process
    queue.sync()
    queue.write(0, address(memory), 512)
    assert collect(queue) == [-errno.EFAULT, 0, 512]
    queue.close()


def test_what_is_cancelled_never_begins(target: int, memory: mmap.mmap) -> None:
    """How far the C library is by then is its affair; that it is done with all is not likely."""
    size, count = len(memory), 64
    memory[:] = b"x" * size
    queue = Queue(target, 2 * count)
    cancelled = 0

    def try_it() -> bool:
        nonlocal cancelled
        os.ftruncate(target, 0)
        for number in range(count):
            queue.write(number * size, address(memory), size)
            queue.sync()
        queue.cancel()
        results = collect(queue)
        cancelled = results.count(-errno.ECANCELED)
        assert (
            results == ([size, 0] * count)[: 2 * count - cancelled] + [-errno.ECANCELED] * cancelled
        )
        written = (2 * count - cancelled + 1) // 2
        assert os.fstat(target).st_size == written * size
        return cancelled > 0

    wait_for(try_it, "an operation that was cancelled in time")
    queue.close()


def test_closing_leaves_nothing_under_way(target: int, memory: mmap.mmap) -> None:
    queue = Queue(target, 64)
    for number in range(32):
        queue.write(number << 16, address(memory), 1 << 16)
        queue.sync()
    queue.close()
    assert queue.pending == 0
    size = os.fstat(target).st_size
    assert size % (1 << 16) == 0
