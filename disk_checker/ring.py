"""The kernel's io_uring, as far as the writer needs it: operations that it runs by itself.

What is pushed between two submissions and linked is a chain: the kernel begins an operation
when the one before it has ended, with no program in between, and cancels the rest when one
fails (a write that was cut short is a failure as well).  Every operation has its own result.

Straight on the two system calls and the memory shared with the kernel, as io_uring(7) tells:
there is no library on which every host that is to be tested could be asked to stand.  That
memory needs barriers on processors that reorder loads; Python has none, so this works on x86
alone, where none are needed.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import struct
from typing import Final

_SETUP, _ENTER, _REGISTER = 425, 426, 427
_REGISTER_MAX_WORKERS = 19
_OP_FSYNC, _OP_READ, _OP_WRITE = 3, 22, 23
_DATASYNC = 1
_OFFSET_SQES = 0x10000000
_FEAT_SINGLE_MMAP = 1
_U32 = 0xFFFFFFFF

LINK: Final = 1 << 2
"""The next operation begins when this one has ended well, else is cancelled."""

HARD_LINK: Final = 1 << 3
"""The next operation begins when this one has ended, however."""

_ASYNC = 1 << 4

# opcode, flags, priority, descriptor, offset, address, length, flags of the operation, user's
# word, and 24 bytes that none of these operations uses.
_SQE = struct.Struct("=BBHiQQIIQ24x")


class Ring:
    """A ring and its memory.

    :param entries: operations pushed between two submissions, at most; a power of two.
    :param workers: how many kernel threads all rings of this process may have together.
    :raises OSError: there is no io_uring: an old kernel, forbidden, another processor.
    """

    def __init__(self, entries: int, workers: int) -> None:
        if platform.machine() != "x86_64":
            raise OSError(errno.ENOSYS, "io_uring is used on x86-64 alone")
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.syscall.restype = ctypes.c_long
        params = (ctypes.c_uint32 * 30)()
        self.descriptor = self._call(_SETUP, entries, ctypes.byref(params))
        try:
            self._map(list(params))
            most = (ctypes.c_uint32 * 2)(workers, 0)
            self._call(_REGISTER, self.descriptor, _REGISTER_MAX_WORKERS, most, 2)
        except BaseException:
            os.close(self.descriptor)
            raise
        self._pushed = 0  # since the last submission
        self._tail = self._head = 0

    def _map(self, params: list[int]) -> None:
        if not params[5] & _FEAT_SINGLE_MMAP:
            raise OSError(errno.ENOSYS, "this kernel's io_uring is too old")
        entries, completions = params[:2]
        submission, completion = params[10:20], params[20:30]
        size = max(submission[6] + 4 * entries, completion[5] + 16 * completions)
        both = mmap.MAP_SHARED | mmap.MAP_POPULATE
        self._rings = mmap.mmap(self.descriptor, -(-size // 8) * 8, both)
        self._words = memoryview(self._rings).cast("I")
        with memoryview(self._rings) as whole:
            at = completion[5]
            results = whole[at : at + 16 * completions]
            # 16 bytes each: the user's word, the result, and flags that none of these has.
            self._users, self._results = results.cast("Q"), results.cast("i")
        self._entries = mmap.mmap(self.descriptor, 64 * entries, both, offset=_OFFSET_SQES)
        self._entry_mask, self._result_mask = entries - 1, completions - 1
        self._at_tail = submission[1] // 4
        self._at_head, self._at_results_tail = completion[0] // 4, completion[1] // 4
        at_array = submission[6] // 4
        for index in range(entries):
            self._words[at_array + index] = index

    def _call(self, *words: object) -> int:
        result = int(self._libc.syscall(*words))
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result

    def write(self, file: int, offset: int, address: int, size: int, user: int) -> None:
        """Push a write of memory that stays where it is; linked to what is pushed next."""
        self._push(_OP_WRITE, LINK, file, offset, address, size, 0, user)

    def read(self, file: int, offset: int, address: int, size: int, user: int) -> None:
        """Push a read; what is pushed next begins after it, also if it fails."""
        self._push(_OP_READ, HARD_LINK, file, offset, address, size, 0, user)

    def sync(self, file: int, user: int, *, data_only: bool = False) -> None:
        """Push an fsync or fdatasync; linked to what is pushed next."""
        self._push(_OP_FSYNC, LINK, file, 0, 0, 0, _DATASYNC if data_only else 0, user)

    def _push(
        self,
        operation: int,
        link: int,
        file: int,
        offset: int,
        address: int,
        size: int,
        flags: int,
        user: int,
    ) -> None:
        # In a kernel thread from the start: none of these files is written without waiting.
        how = link if self._pushed else link | _ASYNC
        at = ((self._tail + self._pushed) & self._entry_mask) * 64
        _SQE.pack_into(
            self._entries, at, operation, how, 0, file, offset, address, size, flags, user
        )
        self._pushed += 1

    @property
    def pushed(self) -> int:
        """Operations that are not submitted yet."""
        return self._pushed

    def submit(self) -> None:
        """Give the kernel all that was pushed, as one chain.

        :raises OSError: it does not take it.
        """
        self._tail += self._pushed
        last = ((self._tail - 1) & self._entry_mask) * 64 + 1
        self._entries[last] &= ~(LINK | HARD_LINK)  # a link to nothing
        self._words[self._at_tail] = self._tail & _U32
        count, self._pushed = self._pushed, 0
        while True:
            try:
                taken = self._call(_ENTER, self.descriptor, count, 0, 0, None, 0)
            except InterruptedError:
                continue
            if taken != count:
                raise OSError(errno.EAGAIN, f"the kernel took {taken} of {count} operations")
            return

    def results(self) -> tuple[list[int], list[int]]:
        """Users' words and results of what ended since the last call, in the order of ending.

        A result is a number of bytes, 0, or a negative errno.
        """
        tail, mask = self._words[self._at_results_tail], self._result_mask
        count = (tail - self._head) & _U32
        at = self._head & mask
        first = min(count, mask + 1 - at)
        rest = count - first
        users = self._users[2 * at : 2 * (at + first) : 2].tolist()
        results = self._results[4 * at + 2 : 4 * (at + first) : 4].tolist()
        if rest:  # from the beginning of the memory again
            users += self._users[: 2 * rest : 2].tolist()
            results += self._results[2 : 4 * rest : 4].tolist()
        self._head = self._words[self._at_head] = tail
        return users, results

    def close(self) -> None:
        """The kernel cancels what it has not begun."""
        for view in (self._words, self._users, self._results):
            view.release()
        self._rings.close()  # it has a descriptor of the ring of its own
        self._entries.close()
        os.close(self.descriptor)
