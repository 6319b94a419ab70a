"""What the role storage_disks makes of a member of an array; no kernel with md is needed.

Where the mark of a member and DRBD's metadata are is as mdadm 4.2 and drbdmeta 9.22 write them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.box import CHECKOUT

pytestmark = [pytest.mark.roles]

SIZE = 16 << 20
DRBD = (SIZE - 4096 + 60, bytes.fromhex("8374026b"))
DOS = (0x1B8, b"disk" + bytes(2) + bytes(64) + b"\x55\xaa")
OURS = {"type": "linux_raid_member", "array": "data"}


def mark(name: bytes) -> tuple[int, bytes]:
    """The mark of a member, 4 KiB from a disk's beginning."""
    block = bytearray(256)
    struct.pack_into("<III", block, 0, 0xA92B4EFC, 1, 0)
    struct.pack_into("<16s32s", block, 16, bytes(range(16)), name)
    struct.pack_into("<Q", block, 144, 8)
    total = sum(struct.unpack("<64I", block))
    struct.pack_into("<I", block, 216, ((total & 0xFFFFFFFF) + (total >> 32)) & 0xFFFFFFFF)
    return 4096, bytes(block)


@pytest.fixture
def is_ours(tmp_path: Path) -> Callable[..., bool]:
    """Whether a disk with these signatures is the array's."""
    names: dict[str, Any] = {"__name__": "probe"}
    source = (CHECKOUT / "roles/storage_disks/files/probe.py").read_text()
    exec(compile(source, "probe.py", "exec"), names)

    def ask(*signatures: tuple[int, bytes]) -> bool:
        disk, data = tmp_path / "disk", bytearray(SIZE)
        for offset, magic in signatures:
            data[offset : offset + len(magic)] = magic
        disk.write_bytes(data)
        found = names["signatures"](str(disk))
        assert len(found) == len(signatures)
        return bool(names["is_ours"](str(disk), OURS, found))

    return ask


def test_a_member_whose_end_is_that_of_drbd_on_the_array_is_its_member(
    is_ours: Callable[..., bool],
) -> None:
    assert is_ours(mark(b"data"))
    assert is_ours(mark(b"data"), DRBD)
    assert not is_ours(mark(b"other"), DRBD)
    assert not is_ours(DRBD)


def test_what_was_put_over_a_member_is_foreign(is_ours: Callable[..., bool]) -> None:
    assert not is_ours(mark(b"data"), DOS)
    assert not is_ours(mark(b"data"), DOS, DRBD)
