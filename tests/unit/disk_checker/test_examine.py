"""Pieces of a target, examined by processes: in order, all of them, and what can't be read."""

from __future__ import annotations

import errno
import mmap
import os
from array import array
from pathlib import Path

import pytest

from disk_checker import examine
from disk_checker.examine import Examined, Readers, Rules
from disk_checker.stamp import Stamper

pytestmark = pytest.mark.unit

RUN, SIZE, CHUNK = 77, 4096, 16 * 4096
RULES = Rules(RUN, SIZE, newest=10_000)


def make(path: Path, blocks: int, *, wrong: set[int]) -> None:
    """A target whose block n holds write n + 1; a bit of some of them is wrong."""
    stamper = Stamper(RUN, SIZE)
    data = bytearray().join(stamper.build(block, block + 1, block) for block in range(blocks))
    for block in wrong:
        data[block * SIZE + 99] ^= 4
    path.write_bytes(data)


def look(path: Path, blocks: int, *, missing: int = 0) -> list[tuple[int, Examined]]:
    """Examine all blocks, 16 of them a piece, as if each was acknowledged."""
    total = blocks + missing
    pieces = (
        (
            first,
            array(
                "Q", [v for n in range(first, min(first + 16, total)) for v in (n + 1, n)]
            ).tobytes(),
        )
        for first in range(0, total, 16)
    )
    with Readers(path, RULES, CHUNK) as readers:
        return list(readers.examine(pieces))


def test_every_piece_is_examined_and_told_in_order(tmp_path: Path) -> None:
    path = tmp_path / "target"
    make(path, 1000, wrong={3, 500, 999})
    told = look(path, 1000)
    assert [first for first, _ in told] == list(range(0, 1000, 16))
    assert sum(examined.scanned.sound for _, examined in told) == 997
    assert sum(examined.got for _, examined in told) == 1000 * SIZE
    findings = [finding for _, examined in told for finding in examined.findings]
    assert [(finding.cls, finding.block) for finding in findings] == [
        ("corrupted", 3),
        ("corrupted", 500),
        ("corrupted", 999),
    ]


def test_a_target_that_ends_too_early_is_told(tmp_path: Path) -> None:
    path = tmp_path / "target"
    make(path, 20, wrong=set())
    findings = [one for _, examined in look(path, 20, missing=30) for one in examined.findings]
    assert {finding.cls for finding in findings} == {"stale_metadata"}
    assert [finding.block for finding in findings] == list(range(20, 50))


def test_of_a_piece_with_an_unreadable_block_the_others_are_examined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "target"
    make(path, 40, wrong={19})
    real = examine.read_at

    def read_at(descriptor: int, direct: bool, buffer: mmap.mmap, offset: int) -> int:
        if offset <= 21 * SIZE < offset + len(buffer):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(descriptor, direct, buffer, offset)

    monkeypatch.setattr(examine, "read_at", read_at)  # the processes are forks of this one
    told = look(path, 40)
    findings = [finding for _, examined in told for finding in examined.findings]
    assert [(finding.cls, finding.block) for finding in findings] == [
        ("corrupted", 19),
        ("unreadable", 21),
    ]
    assert sum(one.scanned.sound + one.sound for _, one in told) == 38


def test_without_shared_memory_a_thread_examines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "no /dev/shm")

    monkeypatch.setattr(examine, "ProcessPoolExecutor", none)
    path = tmp_path / "target"
    make(path, 100, wrong={7})
    told = look(path, 100)
    assert sum(examined.scanned.sound for _, examined in told) == 99
    assert [one.block for _, examined in told for one in examined.findings] == [7]


def test_a_process_that_dies_is_an_error_and_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "target"
    make(path, 40, wrong=set())
    monkeypatch.setattr(examine, "read_at", lambda *_: os._exit(7))
    with pytest.raises(RuntimeError):
        look(path, 40)
