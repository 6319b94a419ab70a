"""Reading a target and examining its blocks, by several processes at once.

One process can't keep up with a quick disk: it reads, or it compares.  So each of some
processes reads a piece past the page cache, examines it and says what it found; while one
compares, others have their reads with the disk.  What they say is taken in the order of the
pieces.
"""

from __future__ import annotations

import ctypes
import mmap
import multiprocessing
import os
import signal
from array import array
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

# By who verifies alone: numpy takes its time, and starts threads.
from disk_checker.classify import Finding, judge_block
from disk_checker.scan import Scanned, Scanner
from disk_checker.stamp import Stamper
from disk_checker.target import open_reader, read_at

_LEAST, _MOST = 3, 8
_DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG


@dataclass(frozen=True)
class Rules:
    """What a run's blocks are judged by.

    :param newest: the highest write that was announced.
    :param threads: of the plan.
    :param prior_unknown: before the run the target held data that was not ours.
    """

    run: int
    block_size: int
    newest: int
    threads: int = 1
    prior_unknown: bool = False


@dataclass(frozen=True, slots=True)
class Examined:
    """What neighbouring blocks hold: those that are as they must be, and the others' findings."""

    got: int
    """bytes that were read"""
    scanned: Scanned
    findings: list[Finding]
    sound: int
    """blocks that only a closer look found to be as they must be"""


class Examiner:
    """Examines blocks by the rules."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self.stamper = Stamper(rules.run, rules.block_size)
        self._scanner = Scanner(self.stamper, rules.newest, rules.threads)

    def chunk(
        self, first: int, states: array[int], buffer: mmap.mmap | bytearray, got: int
    ) -> Examined:
        """All blocks of a chunk of which ``got`` bytes were there."""
        size = self._rules.block_size
        scanned = self._scanner.scan(first, states, buffer, got)
        findings: list[Finding] = []
        sound = 0
        for index in scanned.left:
            data = bytes(buffer[index * size : max(index * size, min((index + 1) * size, got))])
            finding = self.block(first + index, data, states[2 * index], states[2 * index + 1])
            if finding is not None:
                findings.append(finding)
            elif states[2 * index]:
                sound += 1
        return Examined(got, scanned, findings, sound)

    def block(self, block: int, data: bytes | OSError, acked: int, acked_us: int) -> Finding | None:
        """One block the thorough way."""
        if isinstance(data, OSError):
            return self.unreadable(block, data, acked, acked_us) if acked else None
        return judge_block(
            self.stamper,
            block,
            data,
            acked,
            acked_us,
            self._rules.newest,
            prior_unknown=self._rules.prior_unknown,
        )

    def unreadable(self, block: int, error: OSError, acked: int, acked_us: int) -> Finding:
        """A block that the disk does not give."""
        offset = block * self._rules.block_size
        return Finding.unreadable(block, acked, acked_us, f"the disk says {error.strerror}", offset)


class _Reader:
    """One of the processes: reads a piece into a buffer of its own, and examines it."""

    def __init__(self, path: Path, rules: Rules, chunk: int) -> None:
        self._examiner = Examiner(rules)
        self._size = rules.block_size
        self._descriptor, self._direct = open_reader(path)
        self._buffer = mmap.mmap(-1, chunk)

    def chunk(self, first: int, states: array[int]) -> Examined:
        """Read and examine the blocks that these are the states of."""
        try:
            got = read_at(self._descriptor, self._direct, self._buffer, first * self._size)
        except OSError:
            return self._piecewise(first, states)
        return self._examiner.chunk(first, states, self._buffer, got)

    def _piecewise(self, first: int, states: array[int]) -> Examined:
        """A chunk that could not be read as a whole."""
        size, findings, got, sound = self._size, list[Finding](), 0, 0
        for index in range(len(states) // 2):
            block, acked = first + index, states[2 * index]
            data = self._block(block * size, size)
            got += 0 if isinstance(data, OSError) else len(data)
            finding = self._examiner.block(block, data, acked, states[2 * index + 1])
            if finding is not None:
                findings.append(finding)
            elif acked:
                sound += 1
        return Examined(got, Scanned(0, 0, 0, {}, []), findings, sound)

    def _block(self, offset: int, size: int) -> bytes | OSError:
        skip = offset % mmap.PAGESIZE
        with mmap.mmap(-1, -(-(skip + size) // mmap.PAGESIZE) * mmap.PAGESIZE) as buffer:
            try:
                got = read_at(self._descriptor, self._direct, buffer, offset - skip)
            except OSError as error:
                return error
            return buffer[skip : min(skip + size, got)]


_reader: _Reader | None = None  # of this process, if it is one of those


def _begin(path: Path, rules: Rules, chunk: int) -> None:
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the verifier's affair
    _open(path, rules, chunk)


def _open(path: Path, rules: Rules, chunk: int) -> None:
    global _reader
    _reader = _Reader(path, rules, chunk)


def _examine(first: int, states: bytes) -> Examined:
    assert _reader is not None
    return _reader.chunk(first, array("Q", states))


class Readers:
    """The processes; a context manager.

    :param chunk: bytes that each reads at once: whole pages and whole blocks.
    """

    def __init__(self, path: Path, rules: Rules, chunk: int) -> None:
        count = min(_MOST, max(_LEAST, len(os.sched_getaffinity(0))))
        self._window = 2 * count
        how = (path, rules, chunk)
        self._pool: Executor
        try:
            context = multiprocessing.get_context("fork")
            self._pool = ProcessPoolExecutor(count, context, _begin, how)
        except OSError:  # no shared memory here (/dev/shm): slower, and as good
            self._pool = ThreadPoolExecutor(1, initializer=_open, initargs=how)

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def examine(self, pieces: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, Examined]]:
        """(first block, states) -> (first block, what it and those behind it hold), in order."""
        under_way: deque[tuple[int, Future[Examined]]] = deque()
        for first, states in pieces:
            under_way.append((first, self._pool.submit(_examine, first, states)))
            if len(under_way) >= self._window:
                at, done = under_way.popleft()
                yield at, done.result()
        for at, done in under_way:
            yield at, done.result()
