"""A lane without a worker: the C library writes and syncs, one thing after the other.

Between a sync's end and the next write no Python runs, as none does in a loop in C, so a
journal's next commit is not missed for the time that Python takes.  The writes and syncs of
some batches stand in a :mod:`disk_checker.aio` queue; it is filled up while it is worked on,
and what has ended is taken from it now and then.

What makes an acknowledgement worth something holds here too (see
:mod:`disk_checker.worker`): each sync has a result of its own, it began after the writes
before it had ended well, and a batch is acknowledged for its own results alone.  After an
error nothing of what stands behind it is acknowledged, also not what the C library had done
before the error was seen; the rest of it is cancelled.

How much stands in the queue adapts to the disk: so much that it does not run empty, and so
little that a block is not much older than the time it says.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections import deque
from collections.abc import Iterator

from disk_checker.aio import Queue
from disk_checker.answers import ACKED, FAILED, TOLD, Answer, failure
from disk_checker.plan import Plan
from disk_checker.readback import Promise, ReadBack
from disk_checker.slots import Piece, Supply
from disk_checker.stamp import Stamper
from disk_checker.target import FileHandle

_SYNCED_BY = {"fsync": 1, "fdatasync": 1, "dsync": 0, "none": 0}
"""Operations that follow a batch's last write; other ways of syncing are a worker's."""

_SHORT_US, _LONG_US = 8_000, 24_000

OPERATIONS = 256
"""Of a queue, at most: a write and a sync for each slot."""


def can_chain(plan: Plan) -> bool:
    """Whether a queue can do what is planned."""
    return plan.kind != "folder" and plan.workload != "innodb" and plan.sync in _SYNCED_BY


class Chain(Supply):
    """One thread of the plan.

    :param queue: of the handle's ``file``, with room for ``OPERATIONS``.
    :param reads: of its ``reader``.
    :param read_back: read an old block back after every so many writes; 0: never.
    :param go_on: after an I/O error, go on with the next batch.
    """

    def __init__(
        self,
        queue: Queue,
        reads: Queue,
        plan: Plan,
        stamper: Stamper,
        handle: FileHandle,
        *,
        read_back: int = 0,
        go_on: bool = False,
    ) -> None:
        super().__init__(stamper, plan.threads)
        self._queue, self._reads = queue, reads
        self._plan = plan
        self._handle = handle
        self._go_on = go_on
        self._back = ReadBack(stamper, read_back)
        self._memory = ctypes.addressof(ctypes.c_char.from_buffer(self.slots.memory))
        self._read_memory = ctypes.addressof(ctypes.c_char.from_buffer(handle.buffer))
        self._syncs = _SYNCED_BY[plan.sync]
        # The next batch stands behind the one that is worked on, however slow the disk is.
        self._ahead = self._least = min(self.slots.count, 2 * plan.depth)
        self._pushed: deque[tuple[Piece, int]] = deque()  # and when it was built
        self._hung_up = False
        # To be read back as soon as nothing is under way to its block; being read.
        self._wanted: Promise | None = None
        self._reading = False
        # Results of a piece that has not ended yet; blocks and faults of a batch that has not.
        self._results: list[int] = []
        self._blocks: list[int] = []
        self._cancelled = False
        self._error: tuple[str, OSError] | None = None
        self._broken = False  # by an error, until nothing is under way that stood behind it

    @property
    def ended(self) -> bool:
        """Nothing is under way, and nothing more will be."""
        return self._hung_up and not self._pushed and not self._reading

    def feed(self, granted: int, now_us: int) -> None:
        """Build and queue what was granted.

        :param granted: the highest write whose intent is on the listener's disk.
        """
        if self._hung_up or self._broken:
            return
        room = self.free - self.slots.count + self._ahead
        if room <= 0:
            return
        slots, queue, size = self.slots, self._queue, self._plan.block_size
        stride, count, syncs = slots.stride, slots.count, self._syncs
        data_only = self._plan.sync == "fdatasync"
        avoid = -1 if self._wanted is None else self._wanted.block
        for piece in self.build(granted, now_us, room, avoid):
            index = piece.slot
            for block in piece.blocks:
                queue.write(block * size, self._memory + index * stride, size)
                index = (index + 1) % count
            if syncs and piece.last:
                queue.sync(data_only=data_only)
            self._pushed.append((piece, now_us))

    def collect(self, now_us: int) -> Iterator[Answer]:
        """What the C library has done."""
        if self._reading and (results := self._reads.results()):
            yield from self._read(results[0])
        if fresh := self._queue.results():
            yield from self._take(fresh, now_us)
        if self._broken and not self._pushed:
            self._broken = False
        if self._wanted is None:
            self._wanted = self._back.due()
        if self._wanted is not None and not self._reading and not self._hung_up:
            yield from self._read_back(self._wanted.block)

    def _take(self, fresh: list[int], now_us: int) -> Iterator[Answer]:
        self._results += fresh
        results, pushed, at, built_us = self._results, self._pushed, 0, -1
        size, first, whole = self._plan.block_size, 0, 0
        while pushed:
            piece, since_us = pushed[0]
            count = len(piece.blocks)
            end = at + count + (self._syncs if piece.last else 0)
            if len(results) < end:
                break
            built_us = since_us
            pushed.popleft()
            own = results[at:end]
            at = end
            if own != [size] * count + [0] * (len(own) - count) or self._odd or not piece.last:
                yield from self._ended_piece(piece, own, now_us)
                continue
            # Nearly always: a whole batch that went well; neighbours are told together.
            self.free += count
            self._back.add(piece.first, piece.blocks, now_us)
            if piece.first != first + whole:
                if whole:
                    yield Answer(ACKED, whole, first, now_us)
                first, whole = piece.first, 0
            whole += count
        if whole:
            yield Answer(ACKED, whole, first, now_us)
        del results[:at]
        if built_us >= 0:
            # Empty: the disk waited, as it does if this process seldom comes to run.
            if not pushed or now_us - built_us < _SHORT_US:
                self._ahead = min(self.slots.count, self._ahead * 2)
            elif now_us - built_us > _LONG_US:
                self._ahead = max(self._least, self._ahead * 3 // 4)

    def _ended_piece(self, piece: Piece, results: list[int], now_us: int) -> Iterator[Answer]:
        blocks, size = piece.blocks, self._plan.block_size
        count = len(blocks)
        self.free += count
        if self._broken:
            self._cancelled = True
        elif results != [size] * count + [0] * (len(results) - count):
            for index, result in enumerate(results):
                self._blame(result, "write" if index < count else self._plan.sync)
        if not piece.last:
            self._blocks += blocks
            return
        if self._blocks:
            blocks, self._blocks = self._blocks + blocks, []
        first = piece.first + count - len(blocks)
        error, cancelled = self._error, self._cancelled
        self._error, self._cancelled = None, False
        if error is not None:
            note = failure(error[0], first, blocks[-1], error[1], self._handle)
            yield Answer(FAILED, len(blocks), first, now_us, note)
            if not self._go_on:
                self.hang_up()
        elif not cancelled:
            self._back.add(first, blocks, now_us)
            yield Answer(ACKED, len(blocks), first, now_us)

    @property
    def _odd(self) -> bool:
        """Of the batch some is told already, or something went wrong."""
        return bool(self._blocks or self._cancelled or self._broken or self._error)

    def _blame(self, result: int, operation: str) -> None:
        """One result of a batch that did not go well; the first that is wrong says why."""
        if result == -errno.ECANCELED:
            self._cancelled = True
            return
        if result < 0:
            error = OSError(-result, os.strerror(-result))
        elif operation == "write" and result != self._plan.block_size:
            error = self._plan.cut_short
        else:
            return
        self._error = self._error or (operation, error)
        self._broken = True
        self._queue.cancel()

    def _read_back(self, block: int) -> Iterator[Answer]:
        """Begin to read a block back if nothing is under way to it."""
        handle = self._handle
        if any(block in piece.blocks for piece, _ in self._pushed):
            return
        if handle.reads_direct:
            _, offset = handle.place(block)
            self._reads.read(offset, self._read_memory, len(handle.buffer))
            self._reading = True
            return
        try:
            data: bytes | OSError = handle.read(block)
        except OSError as error:
            data = error
        yield from self._judge(data)

    def _read(self, result: int) -> Iterator[Answer]:
        self._reading = False
        assert self._wanted is not None
        skip, _ = self._handle.place(self._wanted.block)
        if result < 0:
            yield from self._judge(OSError(-result, os.strerror(-result)))
        else:
            end = min(skip + self._plan.block_size, result)
            yield from self._judge(self._handle.buffer[skip:end])

    def _judge(self, data: bytes | OSError) -> Iterator[Answer]:
        promise, self._wanted = self._wanted, None
        assert promise is not None
        note = self._back.judge(promise, data)
        if note is not None:
            yield Answer(TOLD, 0, 0, 0, note)

    def hang_up(self) -> None:
        """No more writes: it ends with the operation that is under way."""
        if not self._hung_up:
            self._hung_up = True
            self._queue.cancel()

    def close(self) -> None:
        self._queue.close()
        self._reads.close()
        self._handle.close()
