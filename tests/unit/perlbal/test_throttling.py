"""How often is too often."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest

from lj_services.perlbal.plugins import _throttling
from lj_services.perlbal.plugins._throttling import Throttler, read_networks
from lj_services.perlbal.plugins.throttle import TUNABLES

pytestmark = pytest.mark.unit

HERE = "192.0.2.1"


def throttler(**settings: Any) -> Throttler:
    return Throttler({tunable.name: tunable.default for tunable in TUNABLES} | settings)


def delays(judge: Throttler, *times: float) -> list[float | None]:
    return [judge.judge(HERE, b"/", b"GET", at).delay for at in times]


def test_each_request_while_one_waits_costs_twice_as_much() -> None:
    judge = throttler(initial_delay=3, max_delay=10)
    assert delays(judge, 0, 1, 2, 3, 4, 5) == [None, 3, 6, 10, 10, 10]


def test_who_waits_for_its_answer_is_forgiven() -> None:
    judge = throttler(initial_delay=3)
    assert delays(judge, 0, 1, 4, 5) == [None, 3, None, 3]


def test_who_was_quiet_for_long_enough_asks_at_once() -> None:
    judge = throttler(throttle_threshold_seconds=60)
    assert delays(judge, 0, 60, 119) == [None, None, 3]


def test_addresses_are_judged_apart() -> None:
    judge = throttler()
    assert delays(judge, 0, 1) == [None, 3]
    assert judge.judge("192.0.2.2", b"/", b"GET", 1).allowed


def test_a_ban_ends() -> None:
    judge = throttler(ban_threshold=2, ban_expiration=60)
    assert delays(judge, 0, 1) == [None, 3]
    events = [judge.judge(HERE, b"/", b"GET", at).event for at in (2, 3, 61.9, 62)]
    assert events == ["ban", "banned", "banned", "unban"]


def test_lists_decide_before_anything_else() -> None:
    judge = throttler()
    judge.lists["blacklist"] = (ipaddress.ip_network("192.0.2.0/24"),)
    verdict = judge.judge(HERE, b"/", b"GET", 0)
    assert (verdict.allowed, verdict.event, verdict.delay) == (False, "blacklisted", None)
    judge.lists["whitelist"] = (ipaddress.ip_network("192.0.2.1/32"),)
    assert all(judge.judge(HERE, b"/", b"GET", 0).allowed for _ in range(5))


def test_only_the_blacklist_is_throttled_if_that_is_wanted() -> None:
    judge = throttler(default_action="allow", blacklist_action="throttle")
    assert all(judge.judge("198.51.100.1", b"/", b"GET", 0).allowed for _ in range(5))
    judge.lists["blacklist"] = (ipaddress.ip_network("192.0.2.0/24"),)
    assert delays(judge, 0, 1) == [None, 3]


def test_requests_that_wait_are_counted() -> None:
    judge = throttler(max_concurrent=1)
    delays(judge, 0, 1)
    judge.held[HERE] += 1
    assert judge.judge(HERE, b"/", b"GET", 2).event == "concurrent"
    judge.no_longer_held(HERE)
    assert not judge.held
    assert judge.judge(HERE, b"/", b"GET", 2).event == "throttled"


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_throttling, "MOST_ADDRESSES", 100)
    judge = throttler(ban_threshold=1, ban_expiration=0)
    for number in range(1000):
        judge.judge(f"address {number}", b"/", b"GET", number)
        judge.judge(f"address {number}", b"/", b"GET", number)
    assert len(judge._seen) <= 100
    assert len(judge._banned) <= 101


def test_networks_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "list"
    file.write_text("# mine\n192.0.2.1\n\n2001:db8::/32 # theirs\n")
    assert [str(network) for network in read_networks(file)] == ["192.0.2.1/32", "2001:db8::/32"]
    file.write_text("192.0.2.1\nnonsense\n")
    with pytest.raises(ValueError, match="line 2: 'nonsense'"):
        read_networks(file)
    file.write_text("# nothing\n")
    with pytest.raises(ValueError, match="no network"):
        read_networks(file)
