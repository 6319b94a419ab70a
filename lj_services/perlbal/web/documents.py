"""What is known of files: size, dates, what kind they are; and small ones' content.

What is asked for often is kept, up to `MOST_BYTES` in all; whether it is still what is on
the disk is asked every time (one ``stat``: time of change, size, inode).
"""

from __future__ import annotations

import os
import stat
from email.utils import formatdate
from pathlib import Path
from typing import Final

from lj_services.perlbal.http.mime import type_of
from lj_services.perlbal.web.paths import open_below

SMALL: Final = 64 << 10
"""Bytes up to which a file is answered from memory in one piece."""
MOST_BYTES: Final = 32 << 20
MOST_DOCUMENTS: Final = 10_000

Stamp = tuple[int, int, int]


class Document:
    """One file (or folder) as it was when it was looked at.

    Attributes:
        path: absolute.
        size: in bytes.
        modified: when it was changed, in whole seconds since 1970.
        shown: the same as HTTP writes it.
        folder: whether it is one.
        content: of a small file; None of others.
        start: of a file without `content`: what is sent in place of its first bytes.
        fields: Content-Type, Last-Modified and Accept-Ranges, as they are sent.
    """

    __slots__ = (
        "content",
        "fields",
        "folder",
        "modified",
        "path",
        "shown",
        "size",
        "stamp",
        "start",
    )

    def __init__(self, path: str, status: os.stat_result, content: bytes | None) -> None:
        self.path = path
        self.size = status.st_size
        self.modified = int(status.st_mtime)
        self.shown = formatdate(self.modified, usegmt=True).encode()
        self.folder = stat.S_ISDIR(status.st_mode)
        self.content = content
        self.start = b""
        self.stamp: Stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        self.fields = b"Content-Type: %b\r\nLast-Modified: %b\r\nAccept-Ranges: bytes\r\n" % (
            type_of(path).encode(),
            self.shown,
        )

    def current(self) -> bool:
        """Whether the file is still this one."""
        try:
            status = os.stat(self.path)  # noqa: PTH116  # a third of the time of Path.stat
        except OSError:
            return False
        return (status.st_mtime_ns, status.st_size, status.st_ino) == self.stamp


def read(folder: Path, path: str) -> Document:
    """Look at a file; may wait for the disk.

    Args:
        folder: resolved.
        path: relative to it.

    Raises:
        Outside: it is not below `folder`.
        FileNotFoundError: it is none that can be served: not a file, not a folder.
        OSError: it can't be read.
    """
    fd = open_below(folder, path)
    try:
        status = os.fstat(fd)
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise FileNotFoundError(path)
        content = None
        if stat.S_ISREG(status.st_mode) and status.st_size <= SMALL:
            content = os.pread(fd, SMALL, 0)
            if len(content) != status.st_size:
                content = None  # it is being written
        return Document(str(folder / path), status, content)
    finally:
        os.close(fd)


class Documents:
    """What is kept of one folder's files, by the target that asks for them."""

    def __init__(self) -> None:
        self._documents: dict[bytes, Document] = {}
        self._bytes = 0

    def get(self, target: bytes) -> Document | None:
        """What a target names, if it is kept and still so."""
        document = self._documents.get(target)
        if document is not None and not document.current():
            self._drop(target)
            return None
        return document

    def keep(self, target: bytes, document: Document) -> None:
        """Keep it; what was kept first goes when there is no more room."""
        self._drop(target)
        self._documents[target] = document
        self._bytes += _weight(document)
        while self._bytes > MOST_BYTES or len(self._documents) > MOST_DOCUMENTS:
            self._drop(next(iter(self._documents)))

    def clear(self) -> None:
        """Forget everything."""
        self._documents.clear()
        self._bytes = 0

    def _drop(self, target: bytes) -> None:
        document = self._documents.pop(target, None)
        if document is not None:
            self._bytes -= _weight(document)


def _weight(document: Document) -> int:
    return 512 + len(document.content or b"")
