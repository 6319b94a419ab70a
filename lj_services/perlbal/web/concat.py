"""Several small files at once: ``/js/??a.js,lib/b.js,c.css?v=123``.

The base must end in a slash; the files are those below it, in the order in which they are
named, and the answer's type is that of the first one whose type is known.  It is as new as
the newest of them.

Source: Perlbal 1.80, enable_concatenate_get.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from lj_services.perlbal.http import mime
from lj_services.perlbal.web.paths import open_below, relative_path

MOST_FILES: Final = 100
MOST_BYTES: Final = 16 << 20
"""Bytes of all files beyond which the request is refused."""


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


def read(folder: Path, paths: list[str]) -> tuple[bytes, str, int]:
    """The content, its type, and when the newest file was changed; waits for the disk.

    Raises:
        BadConcat: they are too large.
        Outside: a link leads out.
        OSError: one of them can't be read.
    """
    parts = []
    newest = size = 0
    for path in paths:
        fd = open_below(folder, path)
        with os.fdopen(fd, "rb") as file:
            status = os.fstat(fd)
            size += status.st_size
            if size > MOST_BYTES:
                raise BadConcat("The files are too large to be sent at once.")
            newest = max(newest, int(status.st_mtime))
            parts.append(file.read(status.st_size))
    known = [path for path in paths if Path(path).suffix[1:].lower() in mime.TYPES]
    kind = mime.type_of(known[0]) if known else mime.DEFAULT
    return b"".join(parts), kind, newest
