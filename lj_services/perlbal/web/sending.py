"""Large files, from the disk to the client's socket, by sendfile(2).

Theory of operation
===================

The head goes through the client's transport like everything else.  When it has left the
transport (which is told to call back as soon as nothing waits), the file's bytes are sent
by the kernel, past the transport, in portions, so that others have their turn in between;
when the socket is full, the event loop says when it is not.  The event loop lets nobody
watch a descriptor that a transport has, so it is given a duplicate.

What is not in the system's cache is read in a thread first: sendfile would wait for the disk,
and everybody with it.  Whether it is, ``preadv2`` with ``RWF_NOWAIT`` tells.

TLS encrypts in this process; so there, portions are read in a thread and written to the
transport, as fast as the client reads.

A portion is what a socket takes at most, as a rule: being called for each piece has its price,
so what fits is sent in one go.  A client that reads fast gets a larger buffer (`send_buffer`).
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from lj_services.perlbal.web import send_buffer

if TYPE_CHECKING:
    from lj_services.perlbal.frontend import ClientConnection

PORTION: Final = 4 << 20
"""Bytes that are sent before others have their turn."""
READ_PORTION: Final = 1 << 20
"""Bytes that are read in a thread at a time, if they must be."""
TLS_PORTION: Final = 256 << 10
_BYTE: Final = [bytearray(1)]


class FileSender:
    """Sends a part of a file as the rest of a response; an exchange of the client's.

    Args:
        client: who gets it.
        fd: the open file; closed when it is done.
        first: where to begin, in bytes.
        size: how much to send.
        ended: called at the end, with whether all of it was sent.
        follow: called when all of it was sent, if it is not the end of the response.
    """

    has_file = True
    responded = True

    def __init__(
        self,
        client: ClientConnection,
        fd: int,
        first: int,
        size: int,
        ended: Callable[[bool], None] | None = None,
        follow: Callable[[], None] | None = None,
    ) -> None:
        self._client = client
        self._fd = fd
        self._offset = self._cached_to = first
        self._left = size
        self._ended = ended
        self._follow = client.done if follow is None else follow
        self._loop = asyncio.get_running_loop()
        self._socket = -1
        self._watching = False
        self._full_at = 0.0
        """When the socket took no more, by the monotonic clock; 0: it did not happen yet."""
        self._may_enlarge = not client.home.parameters.client_sndbuf_size
        self._reading: asyncio.Future[Any] | None = None
        self._done = False
        self._tls = client.transport.get_extra_info("sslcontext") is not None
        self._before = client.high_water

    def start(self, head: bytes) -> None:
        """Send the head, then the part."""
        client = self._client
        client.exchange = self
        client.buffer_up_to(TLS_PORTION if self._tls else 0)
        if head:
            client.transport.write(head)
        if self._tls or not client.transport.get_write_buffer_size():
            self._next()

    # -- what the client's connection tells ---------------------------------------

    def body(self, data: bytes) -> None:
        """Whoever asks for a file has nothing to say."""

    def body_done(self) -> None:
        """The same."""

    def client_full(self) -> None:
        """The transport tells when it is not."""

    def client_ready(self) -> None:
        """What was written has left."""
        if self._reading is None and not self._watching:
            self._next()

    def client_gone(self) -> None:
        """Nobody wants it any more."""
        self._end(False)

    def describe(self) -> str:
        """A few words for the console."""
        return f"; file, {self._left} bytes to go"

    # -- sending ------------------------------------------------------------------

    def _next(self) -> None:
        """Send a portion, or see to it that it can be sent."""
        if self._done:
            return
        if not self._left:
            self._end(True)
        elif self._tls:
            if not self._client.full:
                self._read(TLS_PORTION)
        else:
            self._send_cached()

    def _send_cached(self) -> None:
        """Send what is in the system's cache, or have it read; ask each half portion about it."""
        ahead = self._cached_to - self._offset
        if ahead < min(self._left, PORTION // 2):
            ahead = min(self._left, PORTION)
            if not _cached(self._fd, self._offset + ahead - 1):
                self._read(READ_PORTION)
                return
            self._cached_to = self._offset + ahead
        self._send(ahead)

    def _send(self, size: int) -> None:
        if self._socket < 0:
            connected = self._client.transport.get_extra_info("socket")
            self._socket = os.dup(connected.fileno())
        size = min(self._left, size)
        try:
            sent = os.sendfile(self._socket, self._fd, self._offset, size)
        except BlockingIOError:
            self._watch()
            return
        except OSError:
            self._fail()
            return
        if not sent:  # the file has become shorter
            self._fail()
            return
        self._offset += sent
        self._left -= sent
        self._client.file_sent(sent)
        self._client.last_input = self._client.balancer.now
        if not self._left:
            self._end(True)
        else:
            if sent < size and self._may_enlarge:
                self._was_filled(sent)
            # Either the socket is full, or others shall have their turn: both are told so.
            self._watch()

    def _was_filled(self, sent: int) -> None:
        """The socket took only so many bytes: as many as the client has read since it was full."""
        now = time.monotonic()
        if self._full_at and send_buffer.is_fast(sent, now - self._full_at):
            self._may_enlarge = False
            self._client.balancer.large_buffers.give(self._client)
        self._full_at = now

    def _watch(self) -> None:
        if not self._watching:
            self._watching = True
            self._loop.add_writer(self._socket, self._next)

    def _unwatch(self) -> None:
        if self._watching:
            self._watching = False
            self._loop.remove_writer(self._socket)

    def _read(self, size: int) -> None:
        """Have a thread read what comes next."""
        self._unwatch()
        size = min(size, self._left)
        # The file may be closed meanwhile: the thread has a descriptor of its own.
        fd = os.dup(self._fd)
        self._reading = self._loop.run_in_executor(None, _pread, fd, size, self._offset)
        self._reading.add_done_callback(self._was_read)

    def _was_read(self, reading: asyncio.Future[bytes]) -> None:
        self._reading = None
        if self._done:
            reading.exception()
            return
        if reading.exception() is not None or not reading.result():
            self._fail()
        elif self._tls:
            data = reading.result()
            self._offset += len(data)
            self._left -= len(data)
            self._client.transport.write(data)
            self._next()
        else:
            self._send(READ_PORTION)

    def _fail(self) -> None:
        """A part must not be taken for the whole: end the connection."""
        client = self._client
        self._end(False)
        client.cut_off()

    def _end(self, whole: bool) -> None:
        if self._done:
            return
        self._done = True
        self._unwatch()
        if self._socket >= 0:
            os.close(self._socket)
        os.close(self._fd)
        if self._ended is not None:
            self._ended(whole)
        if whole:
            self._client.buffer_up_to(self._before)
            self._follow()


def _pread(fd: int, size: int, offset: int) -> bytes:
    try:
        return os.pread(fd, size, offset)
    finally:
        os.close(fd)


def _cached(fd: int, offset: int) -> bool:
    """Whether a byte of a file can be had without waiting for the disk."""
    try:
        os.preadv(fd, _BYTE, offset, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except OSError as error:
        # Not every file system can tell; those that can't are in memory, mostly.
        return error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
    return True
