"""Several files at once: ``/js/??a.js,lib/b.js,c.css?v=123``.

The base must end in a slash; the files are those below it, in the order in which they are
named, and the answer's type is that of the first one whose type is known.  It is as new as
the newest of them.

A few kilobytes are answered from memory in one piece.  More is sent file by file, at the client's
pace, by sendfile: however much somebody asks for and does not read, nothing of it is kept.

Source: Perlbal 1.80, enable_concatenate_get.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lj_services.perlbal.http import mime
from lj_services.perlbal.web.paths import Outside, open_below, relative_path
from lj_services.perlbal.web.sending import FileSender

if TYPE_CHECKING:
    from lj_services.perlbal.frontend import ClientConnection

MOST_FILES: Final = 100
SMALL: Final = 64 << 10
"""Bytes of all files up to which they are answered from memory."""


class BadConcat(Exception):
    """A list of files that can't be answered; the text says why."""


def names(target: bytes) -> list[str]:
    """The files that a target names, relative to the folder.

    Raises:
        BadConcat: the base does not end in a slash, or there are no files or too many.
        Outside: a name leads out.
    """
    base, _, rest = target.partition(b"??")
    if not base.endswith(b"/"):
        raise BadConcat("The base must end in a slash.")
    listed = [name for name in rest.partition(b"?")[0].split(b",") if name]
    if not listed or len(listed) > MOST_FILES:
        raise BadConcat(f"Name 1 to {MOST_FILES} files.")
    return [relative_path(base + name) for name in listed]


@dataclass(frozen=True)
class Several:
    """Some files that are answered as one.

    Attributes:
        files: the path of each, relative to the folder, and its size in bytes.
        kind: the type.
        newest: when the newest was changed, in seconds since 1970.
        content: of all of them, if it is little.
    """

    files: tuple[tuple[str, int], ...]
    kind: str
    newest: int
    content: bytes | None

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        return sum(size for _, size in self.files)


def look(folder: Path, paths: list[str]) -> Several:
    """Look at files; waits for the disk.

    Raises:
        Outside: a link leads out.
        OSError: one of them can't be read.
    """
    files = []
    content: list[bytes] | None = []
    newest, left = 0, SMALL
    for path in paths:
        with os.fdopen(open_below(folder, path), "rb", 0) as file:
            status = os.fstat(file.fileno())
            left -= status.st_size
            if left < 0:
                content = None
            elif content is not None:
                content.append(os.pread(file.fileno(), status.st_size, 0))
        newest = max(newest, int(status.st_mtime))
        files.append((path, status.st_size))
    known = [path for path in paths if Path(path).suffix[1:].lower() in mime.TYPES]
    kind = mime.type_of(known[0]) if known else mime.DEFAULT
    return Several(tuple(files), kind, newest, None if content is None else b"".join(content))


class Sender:
    """Sends several files as one response, each when its turn comes.

    Args:
        client: who gets them.
        folder: resolved.
        several: which.
    """

    def __init__(self, client: ClientConnection, folder: Path, several: Several) -> None:
        self._client = client
        self._folder = folder
        self._files = [file for file in reversed(several.files) if file[1]]
        self._sending: FileSender | None = None

    def start(self, head: bytes) -> None:
        """Send the head and the first file, or 503 if that is being written."""
        if not self._send(head):
            self._client.error(503, "A file is being written.")

    def _send(self, head: bytes) -> bool:
        """Send the next file; False if it is not what it was."""
        path, size = self._files.pop()
        try:
            # What has just been looked at is in the system's memory: this does not wait.
            fd = open_below(self._folder, path)
        except (OSError, Outside):
            return False
        if os.fstat(fd).st_size != size:
            os.close(fd)
            return False
        follow = self._next if self._files else None
        self._sending = FileSender(self._client, fd, 0, size, follow=follow)
        self._sending.start(head)
        return True

    def _next(self) -> None:
        asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        # Unless the client has left, or was cut off.
        if self._client.exchange is self._sending and not self._send(b""):
            self._client.cut_off()
