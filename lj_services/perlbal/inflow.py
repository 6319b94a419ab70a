"""Bodies on their way to a file: a thread writes, and while the disk is behind the client waits."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from lj_services.perlbal.frontend import ClientConnection

MOST_BEHIND: Final = 1 << 20
"""Bytes that wait for the disk beyond which the client has to wait."""

NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system says when a disk, or somebody's share of it, is full."""


class Inflow:
    """What has come of one body and is not written yet.

    Args:
        client: who sends it.
    """

    def __init__(self, client: ClientConnection) -> None:
        self._client = client
        self._waiting: list[bytes] = []
        self._behind = 0
        self._whole = False
        self._wake = asyncio.Event()
        self.stopped = False
        """Whether nobody wants it any more."""

    def put(self, data: bytes) -> None:
        """A piece has come."""
        self._waiting.append(data)
        self._behind += len(data)
        if self._behind > MOST_BEHIND:
            self._client.pause_reading()
        self._wake.set()

    def end(self) -> None:
        """All of it has come."""
        self._whole = True
        self._wake.set()

    def stop(self) -> None:
        """Write no more."""
        self.stopped = True
        self._wake.set()

    async def store(self, write: Callable[[bytes], None]) -> None:
        """Have everything written, until the end or until it is stopped.

        Args:
            write: is called in a thread.

        Raises:
            OSError: as `write` does.
        """
        while not self.stopped and (self._waiting or not self._whole):
            if not self._waiting:
                self._wake.clear()
                await self._wake.wait()
                continue
            data = b"".join(self._waiting)
            self._waiting.clear()
            await asyncio.to_thread(write, data)
            self._behind -= len(data)
            if not self.stopped:
                self._client.resume_reading()


def write_all(file: Any, data: bytes) -> None:
    """Write to a file without a buffer, which may take a part at a time."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
