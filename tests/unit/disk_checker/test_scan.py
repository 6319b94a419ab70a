"""Scanning many blocks: no damage passes, and what is told is so."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disk_checker.classify import judge_block
from disk_checker.scan import Scanned, Scanner
from disk_checker.stamp import Stamper

pytestmark = pytest.mark.unit

RUN = (1_800_000_000_000 << 22) | 77
NEWEST = 1_000_009


def states(*acked: int) -> array[int]:
    """Acknowledged writes of neighbouring blocks, their times 1, 2, 3 ..."""
    return array("Q", [value for index, seq in enumerate(acked, 1) for value in (seq, index)])


def test_the_latest_write_of_each_thread_is_told() -> None:
    """Block n is thread n % 3's; block 5 holds none of this run's, block 4 a damaged one."""
    stamper = Stamper(RUN, 512)
    blocks = [stamper.build(3, 9, 1), stamper.build(4, 90, 1), bytes(512), stamper.build(6, 5, 1)]
    data = bytearray().join(blocks)
    data[512 + 8] ^= 1
    told = Scanner(stamper, NEWEST, threads=3).scan(3, states(9, 2, 0, 5), data, len(data))
    assert told.survivors == {0: 9}
    assert told.left == [1]


@pytest.mark.parametrize("size", [512, 1024, 1536, 4096, 16384, 65536, 1 << 20])
def test_blocks_are_recognised_and_told(size: int) -> None:
    stamper = Stamper(RUN, size)
    seqs = [NEWEST, 7, 9]
    data = bytearray().join(stamper.build(40 + at, seq, 5 * seq) for at, seq in enumerate(seqs))
    before = bytes(data)
    scanner = Scanner(stamper, NEWEST)
    told = scanner.scan(40, states(NEWEST, 7, 8), data, len(data))
    assert told == Scanned(sound=3, newer=1, survivor_us=5 * NEWEST, survivors={0: NEWEST}, left=[])
    assert data == before
    # Not announced; acknowledged later; elsewhere.
    assert Scanner(stamper, 8).scan(40, states(0, 7, 8), data, len(data)).left == [0, 2]
    assert scanner.scan(40, states(NEWEST, 8, 10), data, len(data)).left == [1, 2]
    assert scanner.scan(41, states(0, 0, 0), data, len(data)).left == [0, 1, 2]


def test_no_flipped_bit_passes() -> None:
    stamper = Stamper(RUN, 512)
    scanner = Scanner(stamper, NEWEST)
    good = bytearray(stamper.build(3, 9, 1))
    assert scanner.scan(3, states(9), good, 512).sound == 1
    for bit in range(512 * 8):
        good[bit // 8] ^= 1 << bit % 8
        assert scanner.scan(3, states(9), good, 512) == Scanned(0, 0, 0, {}, [0]), bit
        good[bit // 8] ^= 1 << bit % 8


def test_what_was_never_touched_counts_nowhere_and_what_is_missing_is_told() -> None:
    scanner = Scanner(Stamper(RUN, 1024), NEWEST)
    data = bytearray(4096)
    # The fourth is cut short, the fifth beyond the end.
    assert scanner.scan(0, states(0, 5, 0, 5, 0, 6), data, 3500) == Scanned(0, 0, 0, {}, [1, 3, 5])
    assert scanner.scan(0, states(1, 0), data, 0) == Scanned(0, 0, 0, {}, [0])


@given(
    writes=st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), min_size=1, max_size=12),
    sectors=st.integers(1, 4),
    damage=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 255)), max_size=3),
)
@settings(max_examples=100, deadline=None)
def test_it_agrees_with_judging_sector_by_sector(
    writes: list[tuple[int, int]], sectors: int, damage: list[tuple[int, int]]
) -> None:
    size, newest = 512 * sectors, 15
    stamper = Stamper(RUN, size)
    data = bytearray().join(stamper.build(block, seq, seq) for block, (seq, _) in enumerate(writes))
    for at, change in damage:
        data[at % len(data)] ^= change
    acked = [min(acked, newest) for _, acked in writes]
    told = Scanner(stamper, newest).scan(0, states(*acked), data, len(data))
    faulty = {
        block
        for block, seq in enumerate(acked)
        if judge_block(
            stamper, block, bytes(data[block * size : (block + 1) * size]), seq, 1, newest
        )
    }
    assert faulty <= set(told.left)
    assert told.sound + len(told.left) >= sum(map(bool, acked))
    if not damage:
        wrong = {b for b, (seq, _) in enumerate(writes) if not acked[b] <= seq <= newest}
        assert set(told.left) == wrong
