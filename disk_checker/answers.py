"""What becomes of writes, in the words in which the writer hears of it."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Any

from disk_checker.target import Handle

ACKED, TAKEN, FAILED, TOLD = range(4)
"""Kinds of answers: a batch is synced; a piece is written; a batch failed; something to note."""

HOST_ERRORS = frozenset(
    ("ENOSPC", "EDQUOT", "EFBIG", "EMFILE", "ENFILE", "ENOMEM", "EACCES", "EPERM", "EINVAL")
)
"""Errors of the host or of the set-up: they say nothing about the disk."""


@dataclass(slots=True)
class Answer:
    """What came of writes: ``count`` from ``seq`` on, at ``time_us``; or a note."""

    kind: int
    count: int
    seq: int
    time_us: int
    note: dict[str, Any] | None = None


def failure(
    operation: str, first: int, block: int, error: OSError, handle: Handle | None
) -> dict[str, Any]:
    """The note of a batch whose write or sync failed.

    A sync is tried a second time, only to show its answer: the kernel told of the failure once,
    with the pages marked clean, so that "ok" means nothing for what was lost.

    :param operation: "open", "write", or the name of the sync.
    :param first: seq of the batch's first write.
    :param handle: where to sync once more; None: nowhere.
    """
    name = errno.errorcode.get(error.errno or 0, "?")
    note: dict[str, Any] = {
        "note": "failed",
        "operation": operation,
        "first": first,
        "block": block,
        "error": name,
        "text": f"{operation} of write {first}, block {block}: {name} ({error.strerror})",
    }
    if handle is not None and operation not in ("write", "open", "none"):
        try:
            handle.sync()
            note["second_sync"] = "ok"
        except OSError as second:
            note["second_sync"] = errno.errorcode.get(second.errno or 0, "?")
    return note
