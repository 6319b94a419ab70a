"""How far uploads are: told by ours, to trackers of ours and of Debian's Perlbal.

Perlbal 1.80 itself was not seen to tell anybody.
"""

from __future__ import annotations

import re
import socket

import pytest

from tests.support.perlbal import Balancer, Node, Start, Which, get, proxy
from tests.support.process import free_port, wait_for
from tests.support.proxies import BOTH

pytestmark = pytest.mark.interop

POST = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"
STATUS = re.compile(rb"\{done:(\d+),total:(\d+),starttime:(\d+),nowtime:(\d+)\}")


def config(node: Node, port: int) -> str:
    """A reverse proxy that tells a tracker, and that tracker."""
    tracker = (
        f"CREATE SERVICE tracker\n  SET role = upload_tracker\n  SET listen = 127.0.0.1:{port}\n"
        "ENABLE tracker\n"
    )
    settings = f"  SET upload_status_listeners = 127.0.0.1:{port}\n"
    return tracker + proxy(node.address, settings=settings)


def status(balancer: Balancer, session: str) -> bytes:
    return get(balancer.port, f"/__upload_status?client_up_sess={session}").body


@BOTH
def test_a_browser_learns_how_far_its_upload_is(
    which: Which, start_balancer: Start, node: Node
) -> None:
    """Ours tells, either one hears and answers."""
    port = free_port()
    tracking = start_balancer(config(node, port), which)
    listeners = f"  SET upload_status_listeners = 127.0.0.1:{port}\n"
    balancer = start_balancer(proxy(node.address, settings=listeners))
    assert status(tracking, "abcde_1") == b"{}"
    with balancer.talk() as talk:
        talk.send(POST % b"/up?a=b&client_up_sess=abcde_1" + b"x" * 300)
        wait_for(lambda: status(tracking, "abcde_1") != b"{}", "the tracker to hear of it")
        found = STATUS.fullmatch(status(tracking, "abcde_1"))
        assert found is not None
        done, total, began, now = map(int, found.groups())
        assert (done, total, began <= now) == (300, 1000, True)
        talk.send(b"x" * 700)
        assert talk.read().json["body"] == "x" * 1000
    wait_for(lambda: b"{done:1000,total:1000," in status(tracking, "abcde_1"), "the end")


@pytest.mark.parametrize("target", [b"/up", b"/up?client_up_sess=abc", b"/up?client_up_sess=a-b-c"])
def test_nobody_is_told_of_uploads_that_have_no_name(
    start_balancer: Start, node: Node, target: bytes
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tracker:
        tracker.bind(("127.0.0.1", 0))
        tracker.settimeout(10)
        settings = f"  SET upload_status_listeners = 127.0.0.1:{tracker.getsockname()[1]}\n"
        balancer = start_balancer(proxy(node.address, settings=settings))
        for asked in (target, b"/up?client_up_sess=named"):
            with balancer.talk() as talk:
                talk.send(POST % asked + b"x" * 1000)
                assert talk.read().status == 200
        assert tracker.recv(500).startswith(b"UPLOAD:named:1000:1000:")


def test_the_end_is_told_and_a_tracker_that_is_gone_is_missed_by_nobody(
    start_balancer: Start, node: Node
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tracker:
        tracker.bind(("127.0.0.1", 0))
        tracker.settimeout(10)
        listeners = f"127.0.0.1:{free_port()}, 127.0.0.1:{tracker.getsockname()[1]}"
        settings = f"  SET upload_status_listeners = {listeners}\n"
        balancer = start_balancer(proxy(node.address, settings=settings))
        for _ in range(2):
            with balancer.talk() as talk:
                talk.send(POST % b"/up?client_up_sess=whole" + b"x" * 1000)
                assert talk.read().status == 200
            assert tracker.recv(500).startswith(b"UPLOAD:whole:1000:1000:")


def test_every_worker_answers_what_any_of_them_has_heard(start_balancer: Start, node: Node) -> None:
    port = free_port()
    balancer = start_balancer(config(node, port), "ours", "--workers", "2")
    with balancer.talk() as talk:
        talk.send(POST % b"/up?client_up_sess=shared" + b"x" * 300)
        wait_for(lambda: status(balancer, "shared") != b"{}", "the tracker to hear of it")

        def alike() -> bool:
            return all(status(balancer, "shared").startswith(b"{done:300,") for _ in range(20))

        wait_for(alike, "all workers to hear of it")
        talk.send(b"x" * 700)
        assert talk.read().status == 200
