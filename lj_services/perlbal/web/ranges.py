"""Which part of a file a client wants, and whether it has it already.

One part only: a Range of several parts, or one that is malformed, is read as none, and the
whole file is sent, as RFC 9110 section 14.2 allows; so a list of a thousand overlapping
parts costs nothing.

Sources: RFC 9110 sections 13 and 14.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
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


def wanted_part(fields: Mapping[bytes, bytes], has: Mapping[bytes, bytes]) -> bytes | None:
    """The Range field that counts; None: the whole is to be sent.

    It does not count where the client has a part of something else (If-Range, RFC 9110 section
    13.1.5): behind that, a part of this would be garbage.

    Args:
        fields: of the request.
        has: the response's; its Last-Modified and ETag say which version it is of.
    """
    of = fields.get(b"if-range")
    if of is not None:
        strong = has.get(b"etag", b"")
        if of not in (has.get(b"last-modified"), b"" if strong.startswith(b"W/") else strong):
            return None
    return fields.get(b"range")


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
