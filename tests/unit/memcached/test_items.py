"""The store: against a model with a clock of its own, and its limit in real bytes."""

from __future__ import annotations

import sys
import tracemalloc

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lj_services.memcached.expiry import SLOTS, TimingWheel
from lj_services.memcached.items import (
    NEVER,
    OVERHEAD,
    STEP,
    Item,
    Items,
    cost,
)

pytestmark = pytest.mark.unit

KEYS = [b"a", b"b", b"c", b"d"]
keys = st.sampled_from(KEYS)
lives = st.sampled_from([NEVER, 0.0, 0.5, 1.0, 3.0, float(SLOTS + 5)])


class StoreModel(RuleBasedStateMachine):
    """`Items` does what a plain dictionary with expiry times does."""

    def __init__(self) -> None:
        super().__init__()
        self.items = Items(limit=1 << 30, now=100.0)
        self.now = 100.0
        self.model: dict[bytes, tuple[int, bytes, float]] = {}
        self.clear_at = NEVER
        self.uniques: set[int] = set()

    def alive(self, key: bytes) -> bool:
        return key in self.model and self.model[key][2] > self.now

    @rule(key=keys, flags=st.integers(0, 2**32 - 1), value=st.binary(max_size=40), life=lives)
    def put(self, key: bytes, flags: int, value: bytes, life: float) -> None:
        item = self.items.put(key, flags, value, self.now + life)
        self.model[key] = (flags, value, self.now + life)
        assert item.cas not in self.uniques
        self.uniques.add(item.cas)

    @rule(key=keys)
    def find(self, key: bytes) -> None:
        item = self.items.find(key)
        assert (item is not None) == self.alive(key)
        if item is not None:
            assert (item.flags, item.value, item.expires_at) == self.model[key]

    @rule(wanted=st.lists(keys, max_size=4))
    def collect(self, wanted: list[bytes]) -> None:
        blocks: list[bytes] = []
        found = self.items.collect(wanted, blocks)
        expected = [
            b"VALUE %b %d %d\r\n%b\r\n" % (key, self.model[key][0], len(value), value)
            for key in wanted
            if self.alive(key)
            for value in [self.model[key][1]]
        ]
        assert blocks == expected
        assert found == len(expected)

    @rule(key=keys, life=lives)
    def touch(self, key: bytes, life: float) -> None:
        item = self.items.find(key)
        if item is not None:
            self.items.bump(item)
            self.items.expire_at(item, self.now + life)
            self.model[key] = (*self.model[key][:2], self.now + life)

    @rule(key=keys)
    def remove(self, key: bytes) -> None:
        item = self.items.find(key)
        if item is not None:
            self.items.remove(item)
            del self.model[key]

    @rule()
    def clear(self) -> None:
        self.items.clear()
        self.model.clear()
        self.clear_at = NEVER

    @precondition(lambda self: self.clear_at == NEVER)
    @rule(delay=st.sampled_from([1.0, 2.5]))
    def clear_later(self, delay: float) -> None:
        self.clear_at = self.now + delay
        self.items.clear_at(self.clear_at)

    @rule(step=st.sampled_from([0.1, 1.0, 7.0, float(SLOTS), 3.0 * SLOTS]))
    def advance(self, step: float) -> None:
        self.now += step
        if self.now >= self.clear_at:
            self.clear_at = NEVER
            self.model.clear()
        while self.items.advance(self.now):
            pass
        # Whatever expired in a second that is over is gone, without being asked for.
        over = int(self.now)
        alive = sum(expires_at > self.now for _, _, expires_at in self.model.values())
        recent = sum(over <= expires_at <= self.now for _, _, expires_at in self.model.values())
        assert alive <= len(self.items) <= alive + recent

    @invariant()
    def memory_is_the_sum_of_its_parts(self) -> None:
        held = [*self.items._items.values()]
        held += [item for aside in self.items._aside for item in aside.values()]
        assert self.items.used == sum(map(cost, held)) + self.items._tables


TestStoreModel = StoreModel.TestCase
TestStoreModel.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)


def fill(items: Items, number: int, size: int = 100) -> None:
    for index in range(number):
        items.put(b"key%06d" % index, 0, b"x" * size)


def test_the_least_recently_used_goes_first() -> None:
    items = Items(limit=10 * (OVERHEAD + 300))
    fill(items, 10)
    fetched: list[bytes] = []
    while items.evictions == 0:
        items.collect([b"key000000"], fetched)
        items.put(b"more%06d" % len(fetched), 0, b"x" * 100)
    assert items.find(b"key000000") is not None
    assert items.find(b"key000001") is None


def test_the_limit_holds_under_ten_times_its_size() -> None:
    items = Items(limit=1 << 20)
    for index in range(20_000):
        items.put(b"key%06d" % index, 0, b"x" * (index % 1000), NEVER if index % 2 else 1e9)
        assert items.used <= items.limit
    assert items.used > 0.9 * items.limit
    assert items.evictions > 10_000
    assert items.find(b"key019999") is not None


def test_values_on_their_way_push_items_out() -> None:
    items = Items(limit=1 << 20)
    fill(items, 3000)
    items.reserve(400_000)
    assert items.used <= items.limit
    evicted = items.evictions
    items.reserve(-400_000)
    assert items.evictions == evicted
    assert items.used <= items.limit - 390_000


def test_a_lowered_limit_is_reached_in_steps() -> None:
    items = Items(limit=64 << 20)
    fill(items, 3 * STEP)
    items.limit = 1 << 20
    before = len(items)
    items.put(b"one", 0, b"1")
    assert before - len(items) < 10  # no operation pays for all of it
    steps = 0
    while items.advance(1.0):
        steps += 1
        assert steps < 10
    assert steps >= 2
    assert 0.5 * items.limit < items.used <= items.limit
    assert items.find(b"one") is not None


def test_clearing_takes_no_time_and_gives_the_memory_back_in_steps() -> None:
    items = Items(limit=64 << 20)
    fill(items, 2 * STEP + 10)
    items.clear()
    assert len(items) == 0
    assert items.find(b"key000001") is None
    items.put(b"new", 0, b"1")
    steps = 0
    while items.advance(1.0):
        steps += 1
    assert steps in (2, 3)
    item = items.find(b"new")
    assert item is not None
    assert cost(item) < items.used < cost(item) + 1000
    assert items.evictions == 0


def test_a_million_things_due_at_once_are_looked_at_in_steps() -> None:
    wheel: TimingWheel[Item] = TimingWheel(0.0)
    number = 1000
    for index in range(number):
        item = Item(b"%d" % index, b"", 0, 0.0)
        item.expires_at = 5.0
        wheel.add(item)
    due, more = wheel.advance(6.0, 100)
    assert 0 < len(due) < 100
    assert more
    while more:
        found, more = wheel.advance(6.0, 100)
        due += found
    assert len(due) == number


def test_what_an_item_is_said_to_cost_is_what_it_costs() -> None:
    item = Item(b"k" * 20, b"v" * 150, 2**62, 0.0)
    objects = sum(map(sys.getsizeof, (item, item.key, item.block, item.cas)))
    assert 0 <= cost(item) - objects <= 2 * 15  # what malloc rounds up
    item.expires_at = 1.5
    assert cost(item) - objects >= sys.getsizeof(1.5)


def test_the_memory_that_is_counted_is_the_memory_that_is_taken() -> None:
    items = Items(limit=4 << 20)
    tracemalloc.start()
    try:
        for index in range(30_000):
            expires_at = NEVER if index % 3 else 3600.0
            items.put(b"key%06d" % index, 0, b"x" * (index % 300), expires_at)
        items.advance(1.0)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert items.evictions > 10_000
    assert 0.9 * items.limit < taken < 1.02 * items.limit
