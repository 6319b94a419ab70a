"""Many blocks at once: which of them are exactly what their newest write must have left.

The work of a verification is nearly all here, so it must keep up with a disk.  What differs
between the writes of a run is the last half cache line of each sector, four words; these are
judged for all sectors together.  All the rest is the run's pool (see :mod:`disk_checker.stamp`),
so a block is recognised by comparing it with the place of the pool that its write took it
from: one `memcmp`, with nothing built for it.

Imported only by who verifies: numpy starts threads, which a writer that forks must not have.
"""

from __future__ import annotations

import ctypes
import mmap
import zlib
from array import array
from dataclasses import dataclass
from functools import cache
from itertools import repeat

import numpy as np
import numpy.typing as npt

from disk_checker.stamp import SECTOR, STARTS, STEP, Stamper

_RUN, _VARYING = 58, 60
_PLACE_SIZE = 3 * 8
_FEW_SECTORS = 4
"""Blocks so small are compared all at once: a call for each costs more than its bytes."""

# With the interpreter's lock kept: it takes less than giving that back and getting it again.
_memcmp = ctypes.PyDLL(None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_memcmp.restype = ctypes.c_int


_ZEROS = zlib.crc32(bytes(_PLACE_SIZE))


@cache
def _crc_tables() -> npt.NDArray[np.uint64]:
    """What a byte at a place adds to the CRC-32 of `_PLACE_SIZE` bytes: CRCs are linear."""
    rows = [
        [
            zlib.crc32(bytes(place) + bytes([byte]) + bytes(_PLACE_SIZE - 1 - place)) ^ _ZEROS
            for byte in range(256)
        ]
        for place in range(_PLACE_SIZE)
    ]
    return np.array(rows, np.uint64)


def _crcs(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The CRC-32 of each row of three words."""
    tables = _crc_tables()
    found = np.full(len(words), _ZEROS, np.uint64)
    columns = words.view(np.uint8)
    for word in range(3):
        most = int(words[:, word].max(initial=0))
        # Bytes that are 0 in all rows add nothing.
        for place in range(8 * word, 8 * word + (most.bit_length() + 7) // 8):
            found ^= tables[place][columns[:, place]]
    return found


@dataclass(frozen=True, slots=True)
class Scanned:
    """What came of some blocks.

    ``sound`` are as they must be, ``newer`` of them hold a write later than the acknowledged
    one, ``survivor_us`` is the time of the latest write among them, ``survivors`` the latest
    seq of each thread of the plan; ``left`` have to be taken apart, by their index.  Blocks that
    were neither acknowledged nor ever touched count nowhere.
    """

    sound: int
    newer: int
    survivor_us: int
    survivors: dict[int, int]
    left: list[int]


class Scanner:
    """Scans the blocks of one run.

    :param newest: the highest write that was announced; a later one is none of this run's.
    :param threads: of the plan; block n is the thread's n % threads.
    """

    def __init__(self, stamper: Stamper, newest: int, threads: int = 1) -> None:
        self._threads = threads
        self._run, self._newest = stamper.run, newest
        self._size = stamper.block_size
        self._sectors = self._size // SECTOR
        self._pool = np.frombuffer(stamper.pool, np.uint64)
        checks = np.frombuffer(stamper.checks, np.uint64)
        self._rows = self._pool.reshape(-1, SECTOR // 8)
        self._wanted = np.empty((0, SECTOR // 8), np.uint64)
        self._checks = np.lib.stride_tricks.sliding_window_view(checks, self._sectors)

    def scan(
        self, first: int, states: array[int], buffer: mmap.mmap | bytearray, got: int
    ) -> Scanned:
        """Scan neighbouring blocks.

        :param first: the number of the block that ``buffer`` begins with.
        :param states: acknowledged seq, time in µs, seq, time ...
        :param buffer: writable; its content is the same afterwards.
        :param got: how many bytes of it were read.
        """
        size, count = self._size, self._sectors
        every = np.frombuffer(states, np.uint64)[::2]
        full = min(len(every), got // size)
        acked, beyond = every[:full], every[full:]
        left = (np.flatnonzero(beyond) + full).tolist()
        if not full:
            return Scanned(0, 0, 0, {}, left)
        words = np.frombuffer(buffer, np.uint64, full * size // 8).reshape(full, count, 64)
        tails = words[:, :, _VARYING:].copy()
        blocks, seqs, times = (tails[:, 0, word] for word in range(3))
        starts = (seqs * np.uint64(STEP) >> np.uint64(32)) % np.uint64(STARTS)
        expected = np.empty_like(tails)
        expected[:, :, :3] = tails[:, :1, :3]
        expected[:, :, 3] = self._checks[starts] ^ self._places(tails)[:, None]
        good = (expected == tails).reshape(full, -1).all(axis=1)
        good &= blocks == np.arange(first, first + full, dtype=np.uint64)
        good &= (seqs <= self._newest) & (seqs >= acked)
        words[:, :, _VARYING:] = 0  # as the pool has them
        self._compare(words, starts, good)
        words[:, :, _VARYING:] = tails
        bad = ~good
        if bad.any():
            # Nothing was promised of a block, and nothing of this run is in it.
            bad &= (acked != 0) | (words[:, :, _RUN] == self._run).any(axis=1)
            left = np.flatnonzero(bad).tolist() + left
        return Scanned(
            int(good.sum()),
            int((seqs[good] > acked[good]).sum()),
            int(times[good].max(initial=0)),
            self._survivors(first, seqs, good),
            left,
        )

    def _survivors(
        self, first: int, seqs: npt.NDArray[np.uint64], good: npt.NDArray[np.bool_]
    ) -> dict[int, int]:
        threads = self._threads
        found = {
            (first + at) % threads: int(seqs[at::threads].max(initial=0, where=good[at::threads]))
            for at in range(min(threads, len(seqs)))
        }
        return {thread: seq for thread, seq in found.items() if seq}

    def _places(self, tails: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        """What each block's first sector adds to its pool's half of the checksum."""
        return _crcs(np.ascontiguousarray(tails[:, 0, :3])) | np.uint64(self._sectors << 32)

    def _compare(
        self,
        words: npt.NDArray[np.uint64],
        starts: npt.NDArray[np.uint64],
        good: npt.NDArray[np.bool_],
    ) -> None:
        """Strike those out of ``good`` whose bytes are not the pool's."""
        size, full = self._size, len(words)
        if self._sectors <= _FEW_SECTORS:
            rows = (starts[:, None] + np.arange(self._sectors, dtype=np.uint64)).ravel()
            if len(self._wanted) < len(rows):
                self._wanted = np.empty((len(rows), SECTOR // 8), np.uint64)
            wanted = self._wanted[: len(rows)]
            np.take(self._rows, rows.astype(np.intp), axis=0, out=wanted, mode="clip")
            good &= (wanted.reshape(full, -1) == words.reshape(full, -1)).all(axis=1)
            return
        chosen = np.flatnonzero(good)
        pool = starts[chosen] * np.uint64(SECTOR) + np.uint64(self._pool.ctypes.data)
        data = chosen.astype(np.uint64) * np.uint64(size) + np.uint64(words.ctypes.data)
        differs = list(map(_memcmp, pool.tolist(), data.tolist(), repeat(size)))
        if any(differs):
            good[chosen[np.flatnonzero(differs)]] = False
