"""AtomStream: everybody gets everything, the slow are told what they missed, memory stays flat."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest

from tests.support.atom_stream import Updates, feeds, updates
from tests.support.perlbal import get, starting

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Updates]:
    with starting(tmp_path_factory.mktemp("atom")) as start:
        yield updates(start)


def test_everybody_who_listens_gets_every_feed(bus: Updates) -> None:
    with bus.listen() as first, bus.listen() as second:
        assert bus.put(b'<?xml version="1.0"?>\n<feed n="1"/>\n').status == 200
        assert bus.put(b'<feed n="2"/>').status == 200
        for talk in (first, second):
            assert feeds(talk, 2) == [b'<feed n="1"/>', b'<feed n="2"/>']
    with bus.listen(b"?since=1") as late:
        assert feeds(late, 2) == [b'<feed n="1"/>', b'<feed n="2"/>']


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"<feed>", 400),
        (b"", 400),
        (b"<feed/><feed/>", 400),
        (b"<feed/></atomStream>", 400),
        (b'<!DOCTYPE x [<!ENTITY e "e">]><feed/>', 400),
        (b"<feed>\xff</feed>", 400),
        (b"<feed>" + b"x" * (1 << 20) + b"</feed>", 413),
    ],
)
def test_what_would_break_the_stream_is_refused(bus: Updates, body: bytes, status: int) -> None:
    with bus.listen() as talk:
        assert bus.put(body).status == status
        assert bus.put(b"<good/>").status == 200
        assert feeds(talk, 1) == [b"<good/>"]


def test_other_paths_and_methods_are_not_its_business(bus: Updates) -> None:
    assert get(bus.balancer.port, "/").status == 404
    with bus.balancer.talk() as talk:
        answer = talk.ask(b"POST /atom-stream.xml HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        assert answer.status == 405


def test_a_slow_listener_is_told_what_it_missed_and_holds_up_nobody(bus: Updates) -> None:
    process = psutil.Process(bus.balancer.running.process.pid)
    with bus.listen() as slow, bus.listen() as quick:
        before = process.memory_info().rss
        large = b"<feed>" + b"x" * 500_000 + b"</feed>"
        for _ in range(60):
            assert bus.put(large).status == 200
            assert feeds(quick, 1) == [large]
        # What was kept for those who come late is all that has stayed.
        assert process.memory_info().rss - before < 60 * len(large) + (20 << 20)
        heard = missed = 0
        while heard + missed < 60:
            line = slow.line().rstrip()
            assert line, "the stream has ended"
            if line.startswith(b"<sorryTooSlow"):
                missed += int(line.split(b'"')[1])
            elif line == large:
                heard += 1
        assert missed > 0
        assert heard + missed == 60
        assert bus.put(b"<after/>").status == 200
        assert feeds(slow, 1) == [b"<after/>"]
