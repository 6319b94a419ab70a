"""A request's target -> a file below the service's folder, and never one outside it.

The path is decoded once; what then has ``..``, an empty name of a folder's parent or a NUL in
it is refused before the file system is asked.  A symbolic link may point anywhere, so what
was opened is looked at again: the kernel's own name for the open file must be below the
folder.  No check of names could be relied on, as they may change between check and use.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote_to_bytes


class Outside(Exception):
    """What was asked for is not below the folder."""


def relative_path(target: bytes) -> str:
    """The decoded path of a target, without the query and without the leading slash.

    Raises:
        Outside: it names a parent, or has a NUL.
    """
    path = os.fsdecode(unquote_to_bytes(target.partition(b"?")[0]))
    if "\0" in path or ".." in path.split("/"):
        raise Outside
    return path.lstrip("/")


def open_below(folder: Path, path: str) -> int:
    """Open a file or folder for reading; returns the descriptor.

    Args:
        folder: resolved.
        path: relative to it, from `relative_path`; or absolute.

    Raises:
        Outside: it is, by way of a link.
        OSError: it can't be opened.
    """
    # Strings and no paths, as every large file that is sent comes by here.
    root = os.fspath(folder)
    file = os.path.join(root, path)  # noqa: PTH118
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        real = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115
        if real != root and not real.startswith(root if root == "/" else root + "/"):
            raise Outside
    except BaseException:
        os.close(fd)
        raise
    return fd
