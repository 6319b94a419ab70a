"""One block, every way it can be, by the rules at the top of classify.py."""

from __future__ import annotations

import pytest

from disk_checker.classify import judge_block
from disk_checker.stamp import Stamper

pytestmark = pytest.mark.unit

RUN = 1 << 40
NEW = Stamper(RUN, 4096)
OLDER = Stamper(RUN - 1, 4096).build(7, 50, 0)
LATER = Stamper(RUN + 1, 4096).build(7, 50, 0)
ACKED = NEW.build(7, 50, 500)
BEFORE = NEW.build(7, 20, 200)
AFTER = NEW.build(7, 60, 600)
FUTURE = NEW.build(7, 99, 900)
ELSEWHERE = NEW.build(8, 40, 400)
ZERO = bytes(4096)
JUNK = bytes(range(256)) * 16
half = 2048


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("data", "cls"),
    [
        (ACKED, None),
        (AFTER, None),
        (ACKED[:half] + AFTER[half:], "torn_in_flight"),
        (BEFORE, "lost"),
        (ZERO, "lost"),
        (OLDER, "lost"),
        (BEFORE[:half] + ZERO[half:], "lost"),
        (ACKED[:half] + BEFORE[half:], "torn"),
        (AFTER[:512] + BEFORE[512:], "torn"),
        (ACKED[:3584] + ZERO[3584:], "torn"),
        (ACKED[:half] + OLDER[half:], "torn"),
        (ELSEWHERE, "misdirected"),
        (ACKED[:512] + ELSEWHERE[512:1024] + ACKED[1024:], "misdirected"),
        (ACKED[512:1024] + ACKED[512:], "misdirected"),
        (flipped(ACKED, 100), "corrupted"),
        (flipped(ACKED, 480), "corrupted"),
        (flipped(BEFORE, 4000), "corrupted"),
        (JUNK, "corrupted"),
        (FUTURE, "unrecorded"),
        (FUTURE[:half] + ACKED[half:], "unrecorded"),
        (FUTURE[:half] + BEFORE[half:], "torn"),
        (flipped(FUTURE, 100), "corrupted"),
        (FUTURE[512:1024] + FUTURE[512:], "misdirected"),
        (LATER, "later_run"),
        (ACKED[:1000], "stale_metadata"),
        (b"", "stale_metadata"),
    ],
)
def test_an_acknowledged_block(data: bytes, cls: str | None) -> None:
    finding = judge_block(NEW, 7, data, 50, 500, newest=70)
    assert (finding.cls if finding else None) == cls


@pytest.mark.parametrize(
    ("data", "cls"),
    [
        (ZERO, None),
        (JUNK, None),
        (BEFORE, None),
        (OLDER, None),
        (AFTER[:half] + ZERO[half:], None),
        (FUTURE[:half] + ZERO[half:], "unrecorded"),
        (b"", None),
        (ELSEWHERE, "misdirected"),
        (flipped(AFTER, 9), "corrupted"),
    ],
)
def test_a_block_without_an_acknowledged_write(data: bytes, cls: str | None) -> None:
    finding = judge_block(NEW, 7, data, 0, 0, newest=70)
    assert (finding.cls if finding else None) == cls


def test_unknown_content_from_before_the_run_is_a_loss_not_damage() -> None:
    finding = judge_block(NEW, 7, JUNK, 50, 500, newest=70, prior_unknown=True)
    assert finding is not None
    assert finding.cls == "lost"


def test_the_case_is_told_with_offset_expected_and_found() -> None:
    finding = judge_block(NEW, 7, ACKED[:3584] + BEFORE[3584:], 50, 500, newest=70)
    assert finding is not None
    assert finding.offset == 7 * 4096 + 3584
    assert finding.expected == "write 50 of block 7"
    assert finding.found == "sectors 0-6: write 50 of block 7; sector 7: write 20 of block 7"
    assert finding.expected_hex == ACKED[3584:3600].hex(" ")
    assert finding.found_hex == BEFORE[3584:3600].hex(" ")


@pytest.mark.parametrize("sector", [0, 7])
def test_no_flipped_bit_passes(sector: int) -> None:
    for bit in range(512 * 8):
        data = bytearray(ACKED)
        data[sector * 512 + bit // 8] ^= 1 << bit % 8
        finding = judge_block(NEW, 7, bytes(data), 50, 500, newest=70)
        assert finding is not None, bit
        assert finding.cls == "corrupted", bit


def test_a_flipped_bit_is_shown_where_it_is() -> None:
    finding = judge_block(NEW, 7, flipped(ACKED, 1024 + 100), 50, 500, newest=70)
    assert finding is not None
    assert finding.offset == 7 * 4096 + 1024 + 96
    wanted, found = bytes.fromhex(finding.expected_hex), bytes.fromhex(finding.found_hex)
    assert [at for at in range(16) if wanted[at] != found[at]] == [4]
