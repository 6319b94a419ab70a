"""Nodes that are asked how they are, and pages for when there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.perlbal import Balancer, Start, echoing, get, proxy
from tests.support.process import wait_for

pytestmark = pytest.mark.faults

CHECKED = (
    "  SET persist_backend = on\n  SET backend_persist_cache = 10\n"
    "  SET health_check_path = /health\n  SET health_check_interval = 1\n"
)


def unhealthy(balancer: Balancer) -> bool:
    return any(row.endswith(" unhealthy 1") for row in balancer.command("nodes"))


def test_a_node_that_says_it_is_ill_gets_no_requests_until_it_is_well(
    start_balancer: Start, tmp_path: Path
) -> None:
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "503.html").write_text("<h1>Back soon</h1>")
    with echoing("one") as one, echoing("two") as two:
        settings = f"{CHECKED}  SET error_pages = {pages}\n  SET queue_timeout = 1"
        balancer = start_balancer(proxy(one.address, two.address, settings=settings))
        ill, well = (one, two) if get(balancer.port).json["node"] == "one" else (two, one)
        # The connection is kept, so all requests go there.
        assert {get(balancer.port).json["node"] for _ in range(10)} == {ill.name}
        with ill.lock:
            ill.failing += ["/health"] * 1000
        wait_for(lambda: unhealthy(balancer), "the checks to fail")
        assert {get(balancer.port).json["node"] for _ in range(10)} == {well.name}

        with well.lock:
            well.failing += ["/health"] * 1000
        wait_for(lambda: get(balancer.port).status == 503, "both to be left out")
        answer = get(balancer.port)
        assert (answer.status, answer.body) == (503, b"<h1>Back soon</h1>")
        (pages / "503.html").unlink()
        assert b"busy or down" in get(balancer.port).body

        with ill.lock:
            ill.failing.clear()
        wait_for(lambda: get(balancer.port).status == 200, "the checks to succeed")
        assert get(balancer.port).json["node"] == ill.name

        # What was found out with another path counts no more.
        assert unhealthy(balancer)
        assert balancer.command("SET web.health_check_path = /other") == ["OK"]
        assert not unhealthy(balancer)
