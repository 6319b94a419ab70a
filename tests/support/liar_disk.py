"""A disk that lies on request: a volatile cache over stable sectors, and an NBD server for it.

The disk promises what real ones promise: sectors of 512 bytes are atomic, a write is in
the volatile cache when it returns, and stable after a flush.  `faults` breaks that, while
it runs.  `cut` is the power failure: of what was not flushed a random share survives.
"""

from __future__ import annotations

import contextlib
import errno
import random
import socket
import socketserver
import struct
import threading
from dataclasses import dataclass
from pathlib import Path

SECTOR = 512


@dataclass
class Faults:
    """What the disk does wrong.  One-shot faults count down; 0 is honest."""

    drop: int = 0
    tear: int = 0
    misdirect: int = 0
    flip: int = 0
    flush_error: int = 0
    flush_lies: float = 0.0
    """probability that a flush returns success and does nothing"""
    least: int = SECTOR
    """one-shot faults wait for a write of at least so many bytes"""
    area: range = range(1 << 62)
    """... that begins in here"""
    hit: int = -1
    """where the last one-shot fault struck, bytes"""


class PowerOffError(OSError):
    """The disk has no power."""

    def __init__(self) -> None:
        super().__init__(errno.EIO, "no power")


class LiarDisk:
    """A disk in memory.

    :param seed: makes its choices repeatable.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size = size
        self.stable = bytearray(size)
        self.faults = Faults()
        self.dead = False
        self.off_after: int | None = None
        self.flushes = 0
        self._cache: dict[int, bytes] = {}
        self._rng = random.Random(seed)
        self._lock = threading.RLock()

    def read(self, offset: int, length: int) -> bytes:
        with self._lock:
            self._powered()
            data = bytearray(self.stable[offset : offset + length])
            for at in range(offset, offset + length, SECTOR):
                if (cached := self._cache.get(at)) is not None:
                    data[at - offset : at - offset + SECTOR] = cached
            return bytes(data)

    def write(self, offset: int, data: bytes) -> None:
        with self._lock:
            self._powered()
            if self.off_after is not None:
                self.off_after -= 1
                if self.off_after < 0:
                    self._store(offset, data)
                    self.cut(0.5)
                    raise PowerOffError
            faults = self.faults
            if len(data) >= faults.least and offset in faults.area:
                if faults.drop:
                    faults.drop -= 1
                    faults.hit = offset
                    return
                if faults.tear:
                    faults.tear -= 1
                    faults.hit = offset
                    data = data[: max(SECTOR, len(data) * 7 // 8 // SECTOR * SECTOR)]
                if faults.misdirect:
                    faults.misdirect -= 1
                    faults.hit = offset
                    offset = (offset + self.size // 2) % self.size // len(data) * len(data)
                if faults.flip:
                    faults.flip -= 1
                    faults.hit = offset
                    bit = self._rng.randrange(len(data) * 8)
                    data = bytearray(data)
                    data[bit // 8] ^= 1 << bit % 8
                    data = bytes(data)
            self._store(offset, data)

    def _store(self, offset: int, data: bytes) -> None:
        for at in range(0, len(data), SECTOR):
            self._cache[offset + at] = data[at : at + SECTOR]

    def flush(self) -> None:
        with self._lock:
            self._powered()
            self.flushes += 1
            if self.faults.flush_error:
                self.faults.flush_error -= 1
                self._cache.clear()  # what the error was about is gone
                raise OSError(errno.EIO, "flush failed")
            if self.faults.flush_lies and self._rng.random() < self.faults.flush_lies:
                return
            self._persist(self._cache)
            self._cache.clear()

    def _persist(self, sectors: dict[int, bytes]) -> None:
        for at, data in sectors.items():
            self.stable[at : at + SECTOR] = data

    def cut(self, keep: float = 0.0) -> None:
        """The power goes; each sector that was not flushed survives with this probability."""
        with self._lock:
            self._persist({at: d for at, d in self._cache.items() if self._rng.random() < keep})
            self._cache.clear()
            self.dead = True

    def power_on(self) -> None:
        """The power is back; the disk is honest again."""
        with self._lock:
            self.dead = False
            self.off_after = None
            self.faults = Faults()

    def _powered(self) -> None:
        if self.dead:
            raise PowerOffError


class NbdServer:
    """Serves a disk on a Unix socket: the fixed newstyle handshake and the simple replies.

    Source: the NBD protocol description, doc/proto.md of the NetworkBlockDevice project.
    """

    def __init__(self, disk: LiarDisk, path: Path) -> None:
        self.disk = disk
        self._lines: set[socket.socket] = set()
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                outer._lines.add(self.request)
                with contextlib.suppress(OSError, EOFError):
                    outer._serve(self.request)
                outer._lines.discard(self.request)

        class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
            daemon_threads = True

        path.unlink(missing_ok=True)
        self._server = Server(str(path), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        """Stop at once: connections break as if the machine was gone."""
        self._server.shutdown()
        self._thread.join()
        for line in list(self._lines):
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
        self._server.server_close()

    def _serve(self, line: socket.socket) -> None:
        line.sendall(b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3))
        self._take(line, 4)
        while True:
            _, option, length = struct.unpack(">8sII", self._take(line, 16))
            data = self._take(line, length)
            flags = 1 | 4 | 8  # has flags, flush, FUA
            if option == 1:  # EXPORT_NAME
                line.sendall(struct.pack(">QH", self.disk.size, flags) + bytes(124))
                break
            if option in (6, 7):  # INFO, GO
                info = struct.pack(">HQH", 0, self.disk.size, flags)
                self._answer(line, option, 3, info)
                self._answer(line, option, 1)
                if option == 7:
                    break
            elif option == 2:  # ABORT
                return
            else:
                self._answer(line, option, 0x80000001)
        while True:
            _, flags, kind, handle, offset, length = struct.unpack(">IHHQQI", self._take(line, 28))
            data = self._take(line, length) if kind == 1 else b""
            error, answer = 0, b""
            try:
                if kind == 0:
                    answer = self.disk.read(offset, length)
                elif kind == 1:
                    self.disk.write(offset, data)
                    if flags & 1:
                        self.disk.flush()
                elif kind == 2:
                    return
                elif kind == 3:
                    self.disk.flush()
                else:
                    error = errno.EINVAL
            except OSError as failed:
                error = failed.errno or errno.EIO
            line.sendall(struct.pack(">IIQ", 0x67446698, error, handle) + answer)

    @staticmethod
    def _answer(line: socket.socket, option: int, kind: int, data: bytes = b"") -> None:
        line.sendall(struct.pack(">QIII", 0x3E889045565A9, option, kind, len(data)) + data)

    @staticmethod
    def _take(line: socket.socket, length: int) -> bytes:
        data = b""
        while len(data) < length:
            piece = line.recv(length - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data
