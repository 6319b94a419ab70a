"""AtomStream with several processes: a feed reaches every listener, whoever it was given to."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.atom_stream import Updates, feeds, updates
from tests.support.perlbal import Talk, starting
from tests.support.process import wait_for

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Updates]:
    with starting(tmp_path_factory.mktemp("bus")) as start:
        yield updates(start, "--workers", "2")


def listeners_of_both(bus: Updates, stack: ExitStack, query: bytes = b"") -> list[Talk]:
    """Listeners, at least one with each worker."""
    talks: list[Talk] = []
    while True:
        talks.append(stack.enter_context(bus.listen(query)))
        rows = [row for row in bus.balancer.command("socks") if "atom stream" in row]
        if {row.rpartition("=")[2] for row in rows} == {"1", "2"}:
            return talks
        assert len(talks) < 200


def ready(bus: Updates) -> list[str]:
    """Ids of the workers that are ready, if nobody else is there."""
    lines = [line.split() for line in bus.balancer.command("workers")]
    workers = [line for line in lines if line[0] == "worker"]
    return [line[2] for line in workers] if all(line[3] == "ready" for line in workers) else []


def test_all_listeners_get_all_feeds_in_the_order_in_which_they_were_given(bus: Updates) -> None:
    sent = [b'<feed n="%d">%b</feed>' % (n, "да".encode()) for n in range(40)]
    with ExitStack() as stack:
        talks = listeners_of_both(bus, stack)
        for feed in sent:  # each over a connection of its own: to either worker
            assert bus.put(feed).status == 200
        for talk in talks:
            assert feeds(talk, len(sent)) == sent


def test_workers_that_come_later_know_the_feeds_that_are_kept(bus: Updates) -> None:
    assert bus.put(b"<kept/>").status == 200
    before = ready(bus)
    os.kill(int(before[0]), signal.SIGKILL)
    wait_for(lambda: len(ready(bus)) == 2 and before[0] not in ready(bus), "another worker")
    assert bus.put(b"<later/>").status == 200
    with ExitStack() as stack:
        for talk in listeners_of_both(bus, stack, b"?since=1"):
            last = b""
            while last != b"<kept/>":
                (last,) = feeds(talk, 1)
            assert feeds(talk, 1) == [b"<later/>"]
    again = ready(bus)
    assert bus.balancer.command("restart") == ["OK"]
    wait_for(lambda: len(ready(bus)) == 2 and not set(again) & set(ready(bus)), "a restart")
    with ExitStack() as stack:
        for talk in listeners_of_both(bus, stack, b"?since=1"):
            while feeds(talk, 1) != [b"<later/>"]:
                pass
