"""What is written: 512-byte sectors that each say which write they belong to.

A disk may lose, tear, misplace or damage a write at the granularity of a sector, so
every sector speaks for itself.  As 64-bit little-endian words:

    0..56   body     456 random bytes: incompressible, so no controller squeezes them
    57      magic    "LJDISK" and the format's version
    58      run      the run's id; ids grow with the time the run was opened
    59      ordinal  the sector's number in the run's pool (below)
    60      block    the place: the block's number in the target
    61      seq      the write's number in the run, from 1
    62      time     microseconds from the run's start to this write
    63      check    low half: CRC-32 of words 0..59, xor CRC-32 of words 60..62;
                     high half: sectors in the block

Words 0 to 59 are the same for every write of a run: they come from a *pool* of
sectors made once from the run's id.  A block of n sectors is n neighbours of the pool,
from a place that depends on seq; so the ordinal tells the sector's index in its block.
Splitting the checksum in two lets the pool's half be computed once: stamping a block
costs one copy and four strided assignments, whatever its size.

Reading a block back, the fast way: take block, seq and time from the first sector, and
compare the whole with what that write must have left (:mod:`disk_checker.scan`, for many
blocks at once).  Only a block that differs is taken apart sector by sector
(:func:`read_sector`), which needs no pool: any run's sectors can be recognised.

A flipped bit changes exactly one of the two CRCs, so no single fault passes; random
damage passes for a valid sector with probability 2**-32 (and must then also name this
run).
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from array import array
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

SECTOR = 512
MAX_BLOCK = 1 << 20
MAGIC = int.from_bytes(b"LJDISK\x00\x01", "little")

_WORDS = SECTOR // 8
_FIXED = 60 * 8
_MAGIC, _RUN, _ORDINAL, _BLOCK, _SEQ, _TIME, _CHECK = range(57, 64)
STARTS = 2048
"""Places of the pool that a block may begin at."""

STEP = 0x9E3779B97F4A7C15
"""What seq is multiplied with to choose one of them, by the product's bits from 32 on."""

_PLACE = struct.Struct("<QQQ")
_TAIL = struct.Struct("<QQQQQQQ")
_ZEROS = bytes(SECTOR)


class Kind(Enum):
    """What one sector turned out to hold."""

    STAMPED = "stamped"  # valid: the fields tell which write
    ZERO = "zero"
    DAMAGED = "damaged"  # ours by its magic, but the checksum is wrong
    FOREIGN = "foreign"  # nothing that this program ever wrote


@dataclass(frozen=True, slots=True)
class Sector:
    """One sector as read: ``index`` is its place inside its block."""

    kind: Kind
    run: int = 0
    block: int = 0
    seq: int = 0
    time_us: int = 0
    index: int = 0
    sectors: int = 0


ZERO_SECTOR = Sector(Kind.ZERO)


def _start(seq: int) -> int:
    """Where in the pool the block of write ``seq`` begins."""
    return (seq * STEP >> 32) % STARTS


def read_sector(data: bytes) -> Sector:
    """Take one sector of 512 bytes apart."""
    magic, run, ordinal, block, seq, time_us, check = _TAIL.unpack_from(data, 57 * 8)
    if magic != MAGIC:
        return ZERO_SECTOR if data == _ZEROS else Sector(Kind.FOREIGN)
    crc = zlib.crc32(data[:_FIXED]) ^ zlib.crc32(data[_FIXED : _FIXED + 24])
    kind = Kind.STAMPED if crc == check & 0xFFFFFFFF else Kind.DAMAGED
    return Sector(kind, run, block, seq, time_us, ordinal - _start(seq), check >> 32)


def read_block(data: bytes) -> list[Sector]:
    """Take a block apart, sector by sector."""
    return [read_sector(data[at : at + SECTOR]) for at in range(0, len(data), SECTOR)]


@lru_cache(maxsize=2)
def _make_pool(run: int, count: int) -> tuple[memoryview, bytes]:
    """A run's pool of sectors, and 8 bytes for each with its half of the checksum."""
    pool = bytearray(hashlib.shake_128(run.to_bytes(8, "little")).digest(count * SECTOR))
    checks = array("Q")
    view = memoryview(pool)
    for ordinal in range(count):
        at = ordinal * SECTOR
        _TAIL.pack_into(pool, at + 57 * 8, MAGIC, run, ordinal, 0, 0, 0, 0)
        checks.append(zlib.crc32(view[at : at + _FIXED]))
    return memoryview(bytes(pool)), checks.tobytes()


class Stamper:
    """Builds the blocks of one run.

    ``pool`` and ``checks``: its sectors, and 8 bytes for each with its half of the checksum.

    :param run: the run's id, below 2**64.
    :param block_size: bytes; a multiple of 512, at most 1 MiB.
    """

    def __init__(self, run: int, block_size: int) -> None:
        if block_size % SECTOR or not SECTOR <= block_size <= MAX_BLOCK:
            raise ValueError(
                f"block size {block_size}: must be a multiple of 512, at most {MAX_BLOCK}"
            )
        self.run = run
        self.block_size = block_size
        self._sectors = sectors = block_size // SECTOR
        self.pool, self.checks = _make_pool(run, STARTS + sectors)
        self._ones = int.from_bytes(array("Q", [1]) * sectors, "little")
        self._scratch = bytearray(block_size)
        self._scratch_words = memoryview(self._scratch).cast("Q")

    def write_into(
        self, buffer: memoryview, words: memoryview, block: int, seq: int, time_us: int
    ) -> None:
        """Build the block of one write.

        :param buffer: ``block_size`` writable bytes.
        :param words: the same memory, cast to "Q" (made once by the caller).
        """
        n = self._sectors
        start = _start(seq)
        at = start * SECTOR
        buffer[:] = self.pool[at : at + self.block_size]
        crc = zlib.crc32(_PLACE.pack(block, seq, time_us)) | n << 32
        if n == 1:
            words[_BLOCK] = block
            words[_SEQ] = seq
            words[_TIME] = time_us
            words[_CHECK] = crc ^ int.from_bytes(self.checks[start * 8 : start * 8 + 8], "little")
            return
        words[_BLOCK::_WORDS] = memoryview(array("Q", [block]) * n)
        words[_SEQ::_WORDS] = memoryview(array("Q", [seq]) * n)
        words[_TIME::_WORDS] = memoryview(array("Q", [time_us]) * n)
        pool_half = int.from_bytes(self.checks[start * 8 : (start + n) * 8], "little")
        checks = (pool_half ^ crc * self._ones).to_bytes(n * 8, "little")
        words[_CHECK::_WORDS] = memoryview(checks).cast("Q")

    def build(self, block: int, seq: int, time_us: int) -> bytes:
        """The block of one write, as bytes."""
        self.write_into(memoryview(self._scratch), self._scratch_words, block, seq, time_us)
        return bytes(self._scratch)
