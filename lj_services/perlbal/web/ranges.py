"""Which part of a file a client wants, and whether it has it already.

One part only: a Range of several parts, or one that is malformed, is read as none, and the
whole file is sent, as RFC 9110 section 14.2 allows; so a list of a thousand overlapping
parts costs nothing.

Sources: RFC 9110 sections 13 and 14.
"""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime

_RANGE = re.compile(rb"bytes=(\d{0,18})-(\d{0,18})")


class Unsatisfiable(Exception):
    """No byte of the file is in the part that is asked for."""


def part_of(value: bytes, size: int) -> tuple[int, int] | None:
    """The first byte and the number of bytes that a Range field asks for; None: all.

    Args:
        value: of the field.
        size: of the file, in bytes.

    Raises:
        Unsatisfiable: the part begins behind the end, or has no byte.
    """
    match = _RANGE.fullmatch(value.strip())
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        length = min(int(match[2]), size)
        if not length:
            raise Unsatisfiable
        return size - length, length
    first = int(match[1])
    last = int(match[2]) if match[2] else size - 1
    if match[2] and last < first:
        return None
    if first >= size:
        raise Unsatisfiable
    return first, min(last, size - 1) - first + 1


def unchanged(value: bytes, modified: int, shown: bytes) -> bool:
    """Whether a file has not changed since the date in an If-Modified-Since field.

    Args:
        value: of the field; old browsers put ``; length=N`` behind the date.
        modified: when the file was changed, in seconds since 1970.
        shown: the same as its Last-Modified field says it.
    """
    date = value.partition(b";")[0].strip()
    if date == shown:
        return True
    try:
        return modified <= parsedate_to_datetime(date.decode("latin-1")).timestamp()
    except (ValueError, TypeError, OverflowError):
        return False
