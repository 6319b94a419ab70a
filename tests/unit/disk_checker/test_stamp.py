"""Sectors say which write they belong to, and no damage passes."""

from __future__ import annotations

import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disk_checker.stamp import SECTOR, Kind, Stamper, read_block, read_sector

pytestmark = pytest.mark.unit

RUN = (1_800_000_000_000 << 22) | 77
u64 = st.integers(0, (1 << 64) - 1)


@pytest.mark.parametrize("size", [512, 1024, 1536, 4096, 16384, 65536, 1 << 20])
def test_a_block_is_recognised_by_its_sectors(size: int) -> None:
    stamper = Stamper(RUN, size)
    data = stamper.build(5, 1_000_003, 987_654)
    for index, sector in enumerate(read_block(data)):
        assert sector.kind is Kind.STAMPED
        assert (sector.run, sector.block, sector.seq) == (RUN, 5, 1_000_003)
        assert (sector.time_us, sector.index) == (987_654, index)
        assert sector.sectors == size // SECTOR


@given(block=u64, seq=u64, time_us=u64)
@settings(max_examples=50, deadline=None)
def test_all_numbers_survive(block: int, seq: int, time_us: int) -> None:
    for sector in read_block(Stamper(RUN, 1024).build(block, seq, time_us)):
        assert (sector.block, sector.seq, sector.time_us) == (block, seq, time_us)


def test_no_flipped_bit_passes() -> None:
    stamper = Stamper(RUN, 512)
    good = stamper.build(3, 9, 1)
    for bit in range(512 * 8):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        # The size, the high half of the last word, is told, not protected: scans see it.
        if bit < 508 * 8:
            assert read_sector(bytes(bad)).kind is not Kind.STAMPED, bit


def test_the_stamp_is_as_documented() -> None:
    data = Stamper(RUN, 512).build(3, 9, 1)
    words = memoryview(data).cast("Q")
    assert data[456:462] == b"LJDISK"
    assert list(words[58:63]) == [RUN, words[59], 3, 9, 1]
    assert words[63] & 0xFFFFFFFF == zlib.crc32(data[:480]) ^ zlib.crc32(data[480:504])


def test_blocks_do_not_compress_and_do_not_repeat() -> None:
    stamper = Stamper(RUN, 16384)
    blocks = [stamper.build(1, seq, seq) for seq in range(1, 40)]
    assert len(set(blocks)) == len(blocks)
    assert len(zlib.compress(blocks[0])) > 0.9 * 16384


def test_foreign_bytes_and_zeros_are_told_apart() -> None:
    assert read_sector(bytes(512)).kind is Kind.ZERO
    assert read_sector(random.Random(1).randbytes(512)).kind is Kind.FOREIGN


@pytest.mark.parametrize("size", [0, 100, 513, (1 << 20) + 512])
def test_a_bad_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="multiple of 512"):
        Stamper(RUN, size)
