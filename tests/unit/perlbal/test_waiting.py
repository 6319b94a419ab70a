"""Requests that wait, nodes that fail, pools that change: without sockets."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lj_services.perlbal.errors import CommandError
from lj_services.perlbal.nodes import LONGEST_PAUSE_S, Address, Node, parse_address
from lj_services.perlbal.pools import Pool
from lj_services.perlbal.proxy.queues import Priority, Queues

pytestmark = pytest.mark.unit


def waiting(priority: Priority, asked_at: float = 0.0, node: Node | None = None) -> Any:
    """As much of an exchange as queues look at."""
    return SimpleNamespace(priority=priority, queued=False, asked_at=asked_at, node=node)


def test_high_goes_before_normal_before_low_and_first_come_first() -> None:
    queues = Queues()
    low, normal = waiting(Priority.LOW), waiting(Priority.NORMAL)
    high, later = waiting(Priority.HIGH), waiting(Priority.HIGH)
    for each in (low, normal, high, later):
        queues.push(each)
    assert [queues.pop() for _ in range(5)] == [high, later, normal, low, None]


def test_relief_lets_those_behind_have_their_turn() -> None:
    queues = Queues()
    queues.relief_size, queues.relief_chance = 2, 100
    high, normal = waiting(Priority.HIGH), waiting(Priority.NORMAL)
    low, low2 = waiting(Priority.LOW), waiting(Priority.LOW)
    for each in (high, normal, low):
        queues.push(each)
    assert queues.pop() is high
    queues.push(high)
    queues.push(low2)
    assert queues.pop() is low
    assert queues.pop() is high


def test_relief_has_its_share() -> None:
    queues = Queues()
    queues.relief_size, queues.relief_chance = 1, 30
    turns = 0
    for _ in range(1000):
        high, low = waiting(Priority.HIGH), waiting(Priority.LOW)
        queues.push(high)
        queues.push(low)
        turns += queues.pop() is low
        queues.remove(high)
        queues.remove(low)
    assert 200 < turns < 400
    assert len(queues) == 0


def test_who_has_waited_for_long_is_relieved_and_no_longer_starved() -> None:
    queues = Queues()
    queues.relief_age, queues.relief_chance = 10, 50
    queues.push(waiting(Priority.LOW, 100.0))
    turns = 0
    for second in range(101, 160):
        queues.push(waiting(Priority.HIGH, second))
        if queues.pop(float(second)).priority == Priority.LOW:  # type: ignore[union-attr]
            assert second >= 110
            turns += 1
    assert turns == 1


def test_the_last_of_the_lowest_queue_matters_least() -> None:
    queues = Queues()
    low, low2, normal = (waiting(p) for p in (Priority.LOW, Priority.LOW, Priority.NORMAL))
    for each in (normal, low, low2):
        queues.push(each)
    assert queues.last_behind(Priority.HIGH) is low2
    assert queues.last_behind(Priority.NORMAL) is low2
    assert queues.last_behind(Priority.LOW) is None
    queues.remove(low)
    queues.remove(low2)
    assert queues.last_behind(Priority.HIGH) is normal
    assert queues.last_behind(Priority.NORMAL) is None


def test_who_leaves_is_forgotten_and_figures_are_told() -> None:
    queues = Queues()
    first, second = waiting(Priority.NORMAL, 5.0), waiting(Priority.NORMAL, 7.0)
    queues.push(first)
    queues.push(second)
    assert queues.figures(10.0)[0] == ("normal", 2, 5.0)
    assert queues.waited_since(6.0) == [first]
    queues.remove(first)
    queues.remove(first)
    assert queues.figures(10.0)[0] == ("normal", 1, 3.0)


def test_a_node_that_fails_is_left_out_longer_each_time_up_to_a_limit() -> None:
    node = Node(Address("10.0.0.1", 80))
    now = 100.0
    pauses = []
    for _ in range(7):
        pauses.append(node.failed(now))
        assert not node.usable(now)
        now = node.retry_at
        assert node.usable(now)
    assert pauses == [1, 2, 4, 8, 16, LONGEST_PAUSE_S, LONGEST_PAUSE_S]
    node.succeeded()
    assert node.failed(now) == 1


def test_failures_of_the_same_moment_count_once() -> None:
    node = Node(Address("10.0.0.1", 80))
    assert [node.failed(5.0) for _ in range(5)] == [1.0] * 5


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("10.0.0.1", "10.0.0.1:80"),
        ("10.0.0.1:8080", "10.0.0.1:8080"),
        ("[::1]:81", "[::1]:81"),
        ("[FD00::0:1]", "[fd00::1]:80"),
    ],
)
def test_addresses_are_read(text: str, shown: str) -> None:
    assert str(parse_address(text)) == shown


@pytest.mark.parametrize("text", ["host:80", "10.0.0:80", "10.0.0.1:99999", "::1:80", "10.0.0.1:"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"write ip\[:port\]"):
        parse_address(text)


def test_pools_change_by_hand() -> None:
    pool = Pool("p")
    one, two = Address("10.0.0.1", 80), Address("10.0.0.2", 80)
    pool.add(one)
    pool.add(two)
    pool.add(one)
    assert pool.nodes == [two, one]
    generation = pool.generation
    pool.remove(two)
    assert pool.nodes == [one]
    assert pool.generation > generation
    assert pool.dump(0.0) == ["POOL ADD p 10.0.0.1:80"]


def test_a_line_twice_in_a_node_file_is_twice_the_share(tmp_path: Path) -> None:
    file = tmp_path / "nodes"
    file.write_text("10.0.0.1\n# comment\n10.0.0.2:81 # another\n\n10.0.0.1\n")
    pool = Pool("p")
    pool.set("nodefile", str(file))
    assert list(map(str, pool.nodes)) == ["10.0.0.1:80", "10.0.0.2:81", "10.0.0.1:80"]
    assert sorted(map(str, pool.shuffled())) == sorted(map(str, pool.nodes))


@pytest.mark.parametrize("text", ["", "10.0.0.1\nnonsense\n"])
def test_a_node_file_that_is_being_written_empties_no_pool(tmp_path: Path, text: str) -> None:
    file = tmp_path / "nodes"
    file.write_text("10.0.0.1\n")
    pool = Pool("p")
    pool.set("nodefile", str(file))
    assert not pool.check_nodefile()
    file.write_text(text)
    os.utime(file, (1, 1))
    assert not pool.check_nodefile()
    assert list(map(str, pool.nodes)) == ["10.0.0.1:80"]
    file.write_text("10.0.0.2\n")
    assert pool.check_nodefile()
    assert list(map(str, pool.nodes)) == ["10.0.0.2:80"]
    file.unlink()
    assert not pool.check_nodefile()
    pool.set("nodefile", "none")
    assert pool.nodefile is None


def test_nodes_have_weights(tmp_path: Path) -> None:
    file = tmp_path / "nodes"
    file.write_text("10.0.0.1 weight=3\n10.0.0.2 rack-7\n")
    pool = Pool("p")
    pool.set("nodefile", str(file))
    assert pool.weights() == {Address("10.0.0.1", 80): 3, Address("10.0.0.2", 80): 1}
    file.write_text("10.0.0.1 weight=101\n")
    with pytest.raises(CommandError, match="line 1: 'weight=101' is no weight"):
        pool.set("nodefile", str(file))
    pool.set("nodefile", "none")
    pool.add(Address("10.0.0.1", 80), 2)
    before = pool.generation
    pool.set("balance_method", "weighted")
    assert pool.generation == before + 1
    assert pool.dump(0.0) == [
        "SET balance_method = weighted",
        "POOL ADD p 10.0.0.2:80",
        "POOL ADD p 10.0.0.1:80 weight=2",
    ]


def test_requests_for_one_node_wait_for_it_and_others_do_not() -> None:
    queues = Queues()
    here, there = Node(Address("10.0.0.1", 80)), Node(Address("10.0.0.2", 80))
    bound, bound_high = waiting(Priority.NORMAL, 3.0, here), waiting(Priority.HIGH, 5.0, here)
    free, free_high = waiting(Priority.NORMAL, 2.0), waiting(Priority.HIGH, 4.0)
    for each in (bound, bound_high, free, free_high):
        queues.push(each)
    assert (len(queues), queues.free) == (4, 2)
    assert queues.bound() == [(here, 2)]
    assert queues.figures(10.0)[:2] == [("normal", 2, 8.0), ("highpri", 2, 6.0)]
    assert queues.last_behind(Priority.HIGH) is bound
    assert queues.pop(10.0, there) is free_high
    assert queues.pop(10.0, here) is bound_high
    assert queues.pop(10.0, here) is free
    assert queues.pop(10.0, there) is None
    assert queues.waited_since(3.0) == [bound]
    queues.release(here)
    assert queues.pop(10.0, there) is bound
    assert (len(queues), queues.bound()) == (0, [])


def test_pools_refuse_what_they_do_not_know(tmp_path: Path) -> None:
    pool = Pool("p")
    with pytest.raises(CommandError, match="Unknown pool parameter 'nodefiel'; nearest: nodefile"):
        pool.set("nodefiel", "x")
    with pytest.raises(CommandError, match="there are random, weighted"):
        pool.set("balance_method", "sendstats")
    with pytest.raises(CommandError, match="can't be used"):
        pool.set("nodefile", str(tmp_path / "missing"))
