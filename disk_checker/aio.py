"""Writes and syncs that the C library does by itself, one after the other: glibc's aio(7).

What is queued for one descriptor is done by one thread of the C library, each operation when
the one before it has ended.  That thread is a loop of pwrite and fsync in C: it knows nothing
of the interpreter and its lock, and ends with the process.

POSIX promises less than glibc does: that aio_fsync covers what was queued before it, on which
an acknowledgement rests.  That of two writes to one block the later one is done later rests on
glibc, so it is used where the C library is that one.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Callable
from typing import Final

_MOST_THREADS = 600
"""Of the C library: two for each thread of a plan, and some."""

_SIGEV_NONE = 1


class _Control(ctypes.Structure):
    """struct aiocb of glibc on machines of 64 bits."""

    _fields_ = (
        ("fildes", ctypes.c_int),
        ("lio_opcode", ctypes.c_int),
        ("reqprio", ctypes.c_int),
        ("buf", ctypes.c_void_p),
        ("nbytes", ctypes.c_size_t),
        ("sigev_value", ctypes.c_void_p),
        ("sigev_signo", ctypes.c_int),
        ("sigev_notify", ctypes.c_int),
        ("sigev_rest", ctypes.c_char * 48),
        ("own", ctypes.c_char * 32),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_char * 32),
    )


_SIZE = ctypes.sizeof(_Control)
_WORDS = _SIZE // 8
_BUF, _NBYTES, _OFFSET = (
    field.offset // 8 for field in (_Control.buf, _Control.nbytes, _Control.offset)
)


class _Library:
    """The functions, with the interpreter's lock kept: none of them waits, but ``suspend``."""

    def __init__(self) -> None:
        library = ctypes.PyDLL(None, use_errno=True)
        address = ctypes.c_void_p
        self.write: Callable[[int], int] = library.aio_write
        self.read: Callable[[int], int] = library.aio_read
        self.sync: Callable[[int, int], int] = library.aio_fsync
        self.error: Callable[[int], int] = library.aio_error
        self.result: Callable[[int], int] = library.aio_return
        self.cancel: Callable[[int, None], int] = library.aio_cancel
        for function in (library.aio_write, library.aio_read, library.aio_error):
            function.argtypes = (address,)
        library.aio_return.argtypes = (address,)
        library.aio_return.restype = ctypes.c_ssize_t
        library.aio_fsync.argtypes = (ctypes.c_int, address)
        library.aio_cancel.argtypes = (ctypes.c_int, address)
        self.suspend = ctypes.CDLL(None).aio_suspend
        self.suspend.argtypes = (address, ctypes.c_int, address)
        # As many threads as are asked for; the rest as it is by itself.
        library.aio_init(ctypes.byref((ctypes.c_int * 8)(_MOST_THREADS, 1024, 0, 0, 0, 0, 1, 0)))


_library: _Library | None = None


def _load() -> _Library:
    global _library
    if _library is None:
        try:
            glibc = (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
        except (ValueError, OSError):
            glibc = False
        if not glibc or ctypes.sizeof(ctypes.c_void_p) != 8:
            raise OSError(errno.ENOSYS, "asynchronous I/O is used with glibc on 64 bits alone")
        _library = _Library()
    return _library


def works() -> bool:
    """Whether this host's C library is one that queues can be made of."""
    try:
        _load()
    except OSError:
        return False
    return True


class Queue:
    """Operations on one descriptor, done in the order in which they were queued.

    :param file: the descriptor; nobody else queues on it.
    :param entries: so many operations are under way or not collected, at most.
    :raises OSError: this C library can't do it.
    """

    def __init__(self, file: int, entries: int) -> None:
        self._library = _load()
        self._file = file
        self._entries: Final = entries
        self._memory = mmap.mmap(-1, entries * _SIZE)
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        for index in range(entries):
            control = _Control.from_buffer(self._memory, index * _SIZE)
            control.fildes, control.sigev_notify = file, _SIGEV_NONE
        self._words = memoryview(self._memory).cast("Q")
        self._head = self._tail = 0

    @property
    def pending(self) -> int:
        """Operations that were queued, and whose results were not collected yet."""
        return self._tail - self._head

    def _next(self, offset: int, address: int, size: int) -> int:
        at = self._tail % self._entries
        self._tail += 1
        words, first = self._words, at * _WORDS
        words[first + _BUF] = address
        words[first + _NBYTES] = size
        words[first + _OFFSET] = offset
        return self._base + at * _SIZE

    def write(self, offset: int, address: int, size: int) -> None:
        """Queue a write of memory that stays where it is.

        :raises OSError: the C library has no memory for it.
        """
        if self._library.write(self._next(offset, address, size)):
            self._refused()

    def read(self, offset: int, address: int, size: int) -> None:
        """Queue a read into memory that stays where it is; OSError likewise."""
        if self._library.read(self._next(offset, address, size)):
            self._refused()

    def sync(self, *, data_only: bool = False) -> None:
        """Queue an fsync or fdatasync; OSError likewise."""
        how = os.O_DSYNC if data_only else os.O_SYNC
        at = self._tail % self._entries
        self._tail += 1
        if self._library.sync(how, self._base + at * _SIZE):
            self._refused()

    def _refused(self) -> None:
        self._tail -= 1
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

    def results(self) -> list[int]:
        """What ended since the last call, in the order of queueing.

        A result is a number of bytes, 0, or a negative errno.
        """
        found: list[int] = []
        error_of, result_of = self._library.error, self._library.result
        head, tail, entries, base = self._head, self._tail, self._entries, self._base
        while head != tail:
            at = base + head % entries * _SIZE
            error = error_of(at)
            if error == errno.EINPROGRESS:
                break
            result = result_of(at)
            found.append(-error if error else result)
            head += 1
        self._head = head
        return found

    def cancel(self) -> None:
        """Let nothing begin that has not begun; its result is ECANCELED."""
        if self.pending:
            self._library.cancel(self._file, None)

    def close(self) -> None:
        """Cancel, and wait for what is under way: its memory is needed until then."""
        self.cancel()
        while self.pending:
            if not self.results():
                at = self._base + self._head % self._entries * _SIZE
                self._library.suspend(ctypes.byref(ctypes.c_void_p(at)), 1, None)
