"""A lane without a worker: the kernel itself writes and syncs, one thing after the other.

Between a sync's end and the next write no program runs, as none does in a loop in C, so a
journal's next commit is not missed for the time that Python takes.  The writes and syncs of
some batches are one chain of a :mod:`disk_checker.ring`, given to the kernel together; the
next chain is built meanwhile, and submitted when this one has ended.

What makes an acknowledgement worth something holds here too (see
:mod:`disk_checker.worker`): each sync has a result of its own, it began after the writes
before it had ended well, and a batch is acknowledged for its own sync's result alone.  After
an error the kernel cancels the rest of the chain; those writes were announced, never begun,
and are never acknowledged.

How long a chain is adapts to the disk: long enough that the moment between two of them costs
little, and short enough that a block is not much older than the time it says.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from disk_checker.answers import ACKED, FAILED, TOLD, Answer, failure
from disk_checker.plan import Plan
from disk_checker.readback import Promise, ReadBack
from disk_checker.ring import Ring
from disk_checker.slots import Piece, Supply
from disk_checker.stamp import Stamper
from disk_checker.target import FileHandle

_SYNCED_BY = {"fsync": 1, "fdatasync": 1, "dsync": 0, "none": 0}
"""Operations that follow a batch's last write; other ways of syncing are a worker's."""

_SHORT_US, _LONG_US = 8_000, 24_000
_OPERATIONS = 256  # of a chain: twice as many as it ever has


class _Pushed(NamedTuple):
    """Neighbours in a chain: a piece's writes and their sync, or one read."""

    operations: int
    piece: Piece | None
    promise: Promise | None


def make_rings(plan: Plan) -> list[Ring]:
    """One ring for each thread of a plan; none where the kernel can't do what is planned."""
    if plan.kind == "folder" or plan.workload == "innodb" or plan.sync not in _SYNCED_BY:
        return []
    rings: list[Ring] = []
    try:
        for _ in range(plan.threads):
            rings.append(Ring(_OPERATIONS, plan.threads))
    except OSError:
        for ring in rings:
            ring.close()
        return []
    return rings


class Chain(Supply):
    """One thread of the plan.

    ``answers`` is the descriptor to wait on.

    :param read_back: read an old block back after every so many writes; 0: never.
    :param go_on: after an I/O error, go on with the next batch.
    """

    def __init__(
        self,
        ring: Ring,
        plan: Plan,
        stamper: Stamper,
        handle: FileHandle,
        *,
        read_back: int = 0,
        go_on: bool = False,
    ) -> None:
        super().__init__(stamper, plan.threads)
        self.answers = ring.descriptor
        self._ring = ring
        self._plan = plan
        self._handle = handle
        self._go_on = go_on
        self._back = ReadBack(stamper, read_back)
        self._memory = ctypes.addressof(ctypes.c_char.from_buffer(self.slots.memory))
        self._read_memory = ctypes.addressof(ctypes.c_char.from_buffer(handle.buffer))
        most = self.slots.count // 2
        # A chain has one read at most.
        self._most = max(1, min(most, read_back) if read_back else most)
        self._ahead = self._least = min(self._most, plan.depth)
        self._pushed: deque[_Pushed] = deque()
        self._building = 0  # blocks in the chain that is not submitted yet
        self._users = self._awaited = 0  # words of the next operation, and of the next result
        self._under_way = 0
        self._began_us = 0
        self._hung_up = False
        # Results of a piece that has not ended yet; blocks and faults of a batch that has not.
        self._results: list[int] = []
        self._blocks: list[int] = []
        self._cancelled = False
        self._error: tuple[str, OSError] | None = None

    @property
    def ended(self) -> bool:
        """Nothing is under way, and nothing more will be."""
        return self._hung_up and not self._under_way

    def feed(self, granted: int, now_us: int) -> None:
        """Build what was granted into the next chain; submit it if none is under way.

        :param granted: the highest write whose intent is on the listener's disk.
        """
        room = min(self.free, self._ahead - self._building)
        if self._hung_up or (room <= 0 and self._under_way):
            return
        if room > 0:
            for piece in self.build(granted, now_us, room):
                if not self._building:
                    self._push_read()
                self._push(piece)
        if not self._under_way:
            self._submit(now_us)

    def _user(self) -> int:
        self._users += 1
        return self._users - 1

    def _push(self, piece: Piece) -> None:
        slots, file, size = self.slots, self._handle.file, self._plan.block_size
        index = piece.slot
        for block in piece.blocks:
            address = self._memory + index * slots.stride
            self._ring.write(file, block * size, address, size, self._user())
            index = (index + 1) % slots.count
        syncs = _SYNCED_BY[self._plan.sync] if piece.last else 0
        if syncs:
            self._ring.sync(file, self._user(), data_only=self._plan.sync == "fdatasync")
        self._pushed.append(_Pushed(len(piece.blocks) + syncs, piece, None))
        self._building += len(piece.blocks)

    def _push_read(self) -> None:
        """In its place in the chain: no write to the same block is under way then."""
        handle = self._handle
        promise = self._back.due() if handle.reads_direct else None
        if promise is not None:
            _, offset = handle.place(promise.block)
            size = len(handle.buffer)
            self._ring.read(handle.reader, offset, self._read_memory, size, self._user())
            self._pushed.append(_Pushed(1, None, promise))

    def _submit(self, now_us: int) -> None:
        self._under_way = self._ring.pushed
        if self._under_way:
            self._began_us = now_us
            self._building = 0
            self._ring.submit()

    def collect(self, now_us: int) -> Iterator[Answer]:
        """What the kernel has done."""
        users, results = self._ring.results()
        count = len(users)
        if users != list(range(self._awaited, self._awaited + count)):
            raise RuntimeError(f"io_uring: {users[:9]} ended before {self._awaited}")
        if not count:
            return
        self._awaited += count
        self._under_way -= count
        self._results += results
        at = 0
        while self._pushed and len(self._results) - at >= self._pushed[0].operations:
            front = self._pushed.popleft()
            own = self._results[at : at + front.operations]
            at += front.operations
            if front.promise is not None:
                yield from self._read(front.promise, own[0])
            elif front.piece is not None:
                yield from self._ended_piece(front.piece, own, now_us)
        del self._results[:at]
        if not self._under_way:
            yield from self._chain_ended(now_us)

    def _ended_piece(self, piece: Piece, results: list[int], now_us: int) -> Iterator[Answer]:
        blocks, size = piece.blocks, self._plan.block_size
        count = len(blocks)
        self.free += count
        if results != [size] * count + [0] * (len(results) - count):
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

    def _blame(self, result: int, operation: str) -> None:
        """One result of a batch that did not go well."""
        if result == -errno.ECANCELED:
            self._cancelled = True
        elif result < 0:
            self._error = operation, OSError(-result, os.strerror(-result))
        elif operation == "write" and result != self._plan.block_size:
            self._error = "write", OSError(errno.ENOSPC, "the write was cut short")

    def _read(self, promise: Promise, result: int) -> Iterator[Answer]:
        skip, _ = self._handle.place(promise.block)
        if result < 0:
            yield from self._judge(promise, OSError(-result, os.strerror(-result)))
        else:
            end = min(skip + self._plan.block_size, result)
            yield from self._judge(promise, self._handle.buffer[skip:end])

    def _judge(self, promise: Promise, data: bytes | OSError) -> Iterator[Answer]:
        note = self._back.judge(promise, data)
        if note is not None:
            yield Answer(TOLD, 0, 0, 0, note)

    def _chain_ended(self, now_us: int) -> Iterator[Answer]:
        took = now_us - self._began_us
        if took < _SHORT_US:
            self._ahead = min(self._most, self._ahead * 2)
        elif took > _LONG_US:
            self._ahead = max(self._least, self._ahead * 3 // 4)
        if self._hung_up:
            return
        promise = None if self._handle.reads_direct else self._back.due()
        if promise is not None:
            try:
                data: bytes | OSError = self._handle.read(promise.block)
            except OSError as error:
                data = error
            yield from self._judge(promise, data)
        self._submit(now_us)

    def hang_up(self) -> None:
        """No more writes: it ends with the chain that is under way."""
        self._hung_up = True

    def close(self) -> None:
        self._ring.close()
        self._handle.close()
