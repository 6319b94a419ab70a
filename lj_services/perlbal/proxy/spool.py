"""Uploads on the disk: a request's body that is put aside until all of it is there.

Theory of operation
===================

A slow client would keep a node busy for as long as its upload takes.  Its body is written to
a file instead, and a node is asked for only when the body is whole; then the node gets it as
fast as it reads.

- One thread at a time works on the file: first those that write (`_store`), then those that
  read (`_send`).  While the disk is behind, nothing is read from the client; while the node
  is, nothing is read from the file.
- The file has no name: the system removes it when it is closed, and so after a crash, too.
- What can't be stored is told to the client (507 where there is no room), and no node has
  heard of it.
- All uploads of a process together may take ``buffer_uploads_limit``: the length that was told
  counts from the beginning, what comes in chunks as it comes.  What is beyond is answered 503.

Source: Perlbal 1.80, buffered uploads (doc/config-guide.txt).
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lj_services.perlbal.inflow import NO_ROOM, Inflow, write_all

if TYPE_CHECKING:
    from lj_services.perlbal.parameters import Parameters
    from lj_services.perlbal.proxy.backend import Backend
    from lj_services.perlbal.proxy.exchange import Exchange

PIECE: Final = 256 << 10
"""Bytes that are read from the file at once."""
MEASURED_S: Final = 1.0
"""How long an upload must have gone on before its rate is known, in seconds."""
TELL_WHY: Final = os.environ.get("PERLBAL_DEBUG_BUFFERED_UPLOADS") == "1"
"""Whether nodes are told why an upload was put to the disk, X-PERLBAL-BUFFERED-UPLOAD-REASON."""

log = logging.getLogger(__name__)


def reason(parameters: Parameters, length: int, size: int, elapsed_s: float) -> str:
    """Why an upload is to be put to the disk, in the original's words; empty: it is not.

    Args:
        parameters: the service's.
        length: bytes of the whole body; negative if it comes in chunks.
        size: bytes that have come.
        elapsed_s: seconds since the request's head came.
    """
    if not parameters.buffer_uploads or parameters.buffer_uploads_path is None:
        return ""
    if length < 0:
        return "chunked"
    if 0 < parameters.buffer_upload_threshold_size <= length:
        return "size"
    if elapsed_s >= MEASURED_S:
        rate = size / elapsed_s
        if rate < parameters.buffer_upload_threshold_rate:
            return "rate"
        if 0 < parameters.buffer_upload_threshold_time * rate < length - size:
            return "time"
    return ""


class SpoolRoom:
    """How much room the uploads of a process take.

    Attributes:
        used: bytes that are on the disk or were told to come.
    """

    def __init__(self) -> None:
        self.used = 0


class Spool:
    """One body on the disk.

    Args:
        exchange: the request that it is the body of.
        folder: where the file is.
        why: what `reason` says.
    """

    def __init__(self, exchange: Exchange, folder: Path, why: str) -> None:
        self.why = why
        self._exchange = exchange
        self._folder = folder
        self._room = exchange.role.balancer.spool_room
        self._length = max(exchange.request.length, 0)
        self._reserved = 0
        self._file: Any = None
        self._inflow = Inflow(exchange.client)
        self._wake = asyncio.Event()
        self._closed = False
        self._reserve(self._length)
        self._task = asyncio.get_running_loop().create_task(self._store())
        self.sent = False
        """Whether the node has been given all of it."""

    def _reserve(self, size: int) -> None:
        self._room.used += size
        self._reserved += size

    @property
    def fits(self) -> bool:
        """Whether the process has no more on the disk, or promised, than it may."""
        limit = self._exchange.role.parameters.buffer_uploads_limit
        return not limit or self._room.used <= limit

    # -- from the client ----------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Store a piece."""
        if not self._length:
            self._reserve(len(data))
        self._inflow.put(data)

    def finish(self) -> None:
        """All of it has come: ask for a node when it is stored."""
        self._inflow.end()

    async def _store(self) -> None:
        try:
            self._file = file = await asyncio.to_thread(_create, self._folder)
            await self._inflow.store(lambda data: write_all(file, data))
        except OSError as error:
            self._failed(error)
        if self._closed:
            self._close_file()
        else:
            self._exchange.stored()

    def _failed(self, error: OSError) -> None:
        log.warning(
            "an upload can't be stored: %s; make room in buffer_uploads_path, or set another",
            error.strerror,
            extra={"folder": str(self._folder)},
        )
        if not self._closed:
            self._closed = True
            room = error.errno in NO_ROOM
            self._exchange.not_stored(507 if room else 500)

    # -- to the node --------------------------------------------------------------

    def send(self, backend: Backend) -> None:
        """Give it to a node that has been sent the request's head."""
        self._wake.set()
        self._task = asyncio.get_running_loop().create_task(self._send(backend))

    def hold(self) -> None:
        """The node does not read fast enough."""
        self._wake.clear()

    def go_on(self) -> None:
        """The node has read."""
        self._wake.set()

    async def _send(self, backend: Backend) -> None:
        try:
            number = self._file.fileno()
            taken, size = 0, self._exchange.body_size
            while taken < size and not self._closed and self._exchange.backend is backend:
                data = await asyncio.to_thread(os.pread, number, PIECE, taken)
                if not data:
                    raise OSError(0, f"it has {taken} bytes instead of {size}")
                taken += len(data)
                if self._exchange.backend is backend:
                    # Before it is written: a node may answer at once.
                    self.sent = taken == size
                    backend.write(data)
                await self._wake.wait()
        except OSError as error:
            log.warning("a stored upload can't be read: %s", error.strerror)
            backend.abort()
        self.close()
        self._close_file()

    # -- the end ------------------------------------------------------------------

    def close(self) -> None:
        """It is not wanted any more; the file goes when the thread at work on it is done."""
        self._closed = True
        self._reserve(-self._reserved)
        self._inflow.stop()
        self._wake.set()
        if self._task.done():
            self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
        self._reserve(-self._reserved)


def _create(folder: Path) -> Any:
    return tempfile.TemporaryFile(dir=folder, buffering=0)
