"""The send buffer of a client that reads fast.

The system lets a socket's buffer grow with what the client takes, to ``tcp_wmem``'s last figure
(4 MiB, as a rule).  With a client that is near, such a buffer is full and free again within a
millisecond: a large file takes a call for each piece of it, and a wait between them.  Twice as
much room takes a third less processor time for the file (seen with 10 MiB over loopback).

Only who has proved to be fast gets it.  For a slow client it would be memory that waits.  A size
that is set is also the last word: the system no longer lets the buffer grow.  So where it allows
programs no more than it would give by itself (``wmem_max`` of 208 KiB, Debian's default), the
buffer is left alone.
"""

from __future__ import annotations

import functools
import socket
from pathlib import Path
from typing import Final

FAST: Final = 64 << 20
"""Bytes a second from which on a client is fast; a network of 1 Gbit/s carries twice that."""
SIZE: Final = 8 << 20
"""The buffer of such a client, in bytes, as the system counts."""
_SETTINGS: Final = Path("/proc/sys/net")


def is_fast(size: int, seconds: float) -> bool:
    """Whether a client that has taken so many bytes in this time is fast."""
    return size >= FAST * seconds


def enlarge(connected: socket.socket) -> None:
    """Give a fast client its buffer, if the system allows one that is larger than its own."""
    size = _allowed(_SETTINGS)
    if size:
        # The system doubles what is asked for: its own records need room, too.
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size // 2)


@functools.cache
def _allowed(settings: Path) -> int:
    """The size that can be set, in bytes; 0: none that is of use.

    Args:
        settings: the folder of the kernel's settings for the network.
    """
    try:
        most = 2 * int((settings / "core" / "wmem_max").read_text())
        grown = int((settings / "ipv4" / "tcp_wmem").read_text().split()[2])
    except (OSError, ValueError, IndexError):  # another system; a container that hides them
        return 0
    size = min(most, SIZE)
    return size if size > grown else 0
