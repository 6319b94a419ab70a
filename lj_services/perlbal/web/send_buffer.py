"""The send buffer of a client that reads fast.

The system lets a socket's buffer grow with what the client takes, to ``tcp_wmem``'s last figure
(4 MiB, as a rule).  With a client that is near, such a buffer is full and free again within a
millisecond: a large file takes a call for each piece of it, and a wait between them.  Twice as
much room takes a third less processor time for the file (seen with 10 MiB over loopback).

Only who has proved to be fast gets it.  For a slow client it would be memory that waits.  A size
that is set is also the last word: the system no longer lets the buffer grow.  So where it allows
programs no more than it would give by itself (``wmem_max`` of 208 KiB, Debian's default), the
buffer is left alone.

Who was fast may stop to read, and what is in its buffer is memory of the system's until it goes
on or is cut off.  So only so many clients of a process have such a buffer at a time (`MOST`);
all others have what the system gives.  It is taken back from who has read everything and is
being sent no file, when somebody else could use it.
"""

from __future__ import annotations

import fcntl
import functools
import socket
import struct
import termios
from pathlib import Path
from typing import Any, Final, Protocol

FAST: Final = 64 << 20
"""Bytes a second from which on a client is fast; a network of 1 Gbit/s carries twice that."""
SIZE: Final = 8 << 20
"""The buffer of such a client, in bytes, as the system counts."""
MOST: Final = 16
"""Clients of a process that have one at a time: 128 MiB, if all of them stop to read."""
_SETTINGS: Final = Path("/proc/sys/net")
_COUNT: Final = struct.Struct("i")


class Client(Protocol):
    """What is to be known of a client."""

    transport: Any

    @property
    def has_file(self) -> bool:
        """Whether it is being sent a file."""

    @property
    def gone(self) -> bool:
        """Whether it has no connection any more."""


def is_fast(size: int, seconds: float) -> bool:
    """Whether a client that has taken so many bytes in this time is fast."""
    return size >= FAST * seconds


class LargeBuffers:
    """Who of a process's clients has a large send buffer."""

    def __init__(self) -> None:
        self._clients: list[Client] = []

    def __len__(self) -> int:
        return len(self._clients)

    def give(self, client: Client) -> None:
        """Give a fast client its buffer, if there is one left and the system allows it."""
        size, _ = _allowed(_SETTINGS)
        if not size or client in self._clients:
            return
        if len(self._clients) >= MOST:
            self._clients = [each for each in self._clients if not self._back(each)]
        if len(self._clients) < MOST:
            self._clients.append(client)
            _set(client, size)

    def _back(self, client: Client) -> bool:
        """Take a buffer back from who does not need it; whether it was."""
        if client.gone:
            return True
        if client.has_file or client.transport.is_closing() or _unsent(client):
            return False
        _set(client, _allowed(_SETTINGS)[1])
        return True


def _set(client: Client, size: int) -> None:
    # The system doubles what is asked for: its own records need room, too.
    connected = client.transport.get_extra_info("socket")
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size // 2)


def _unsent(client: Client) -> int:
    """Bytes that the other side has not confirmed yet."""
    number = client.transport.get_extra_info("socket").fileno()
    told = fcntl.ioctl(number, termios.TIOCOUTQ, bytes(_COUNT.size))
    return int(_COUNT.unpack(told)[0])


@functools.cache
def _allowed(settings: Path) -> tuple[int, int]:
    """The size that can be set, and the one that the system lets a buffer grow to, in bytes.

    The first is 0 where none can be set that is of use.

    Args:
        settings: the folder of the kernel's settings for the network.
    """
    try:
        most = 2 * int((settings / "core" / "wmem_max").read_text())
        grown = int((settings / "ipv4" / "tcp_wmem").read_text().split()[2])
    except (OSError, ValueError, IndexError):  # another system; a container that hides them
        return 0, 0
    size = min(most, SIZE)
    return (size if size > grown else 0), grown
