"""Reads plain sets that stand one behind the other, as clients send that fill a cache.

A set is plain if it wants its reply and if nothing about it is unusual or wrong.  Such sets
are most of what is stored, and come by the hundred.  They are read in a loop of their own,
without the objects that other requests are made into, and handed on in the form in which
the engine keeps them.

Often many have flags, exptime and size in common and differ in key and value alone: numbers,
counters, records of one kind.  After a few of these, a regular expression made for them reads
on, as far as they go, at several times the speed of the loop.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from lj_services.memcached.protocol.commands import MAX_KEY, PlainSet

ALIKE: Final = 3
"""So many plain sets one after the other with the same numbers are the start of a longer row."""

SHORT: Final = 1024
"""Longest value that is looked for in such rows, in bytes; with longer ones copying is the cost."""

_VERB: Final = b"set "
_LINE_END: Final = b"\r\n"
# Flags, exptime and size, without leading zeros, so that they can be sent as they came.
_plain_numbers: Final = re.compile(rb" (0|[1-9]\d{0,8}) (0|[1-9]\d{0,8}) (0|[1-9]\d{0,8})\r\n")


def read_plain_sets(buffer: bytes, start: int, max_item: int) -> tuple[list[PlainSet], int]:
    """The plain sets that are complete, from a place in the stream on.

    Args:
        buffer: what arrived.
        start: where the first one begins, if there is one.
        max_item: key and value together are at most this long, in bytes.

    Returns:
        The sets, and where the first request begins that is none.
    """
    sets: list[PlainSet] = []
    append = sets.append
    find = buffer.find
    before = None
    alike = 1
    while buffer.startswith(_VERB, start):
        begin = find(b"\n", start, start + MAX_KEY) + 1  # so the key is not longer
        space = find(b" ", start + 4, begin)
        announced = _announced(buffer[space:begin])
        if announced is None:
            break
        numbers, exptime, size = announced
        alike = alike + 1 if announced is before else 1
        before = announced
        if alike == ALIKE and size <= SHORT and size < max_item:
            found = _row(buffer[space:begin], size, max_item).findall(buffer, start)
            if not found[-1][0]:
                del found[-1]  # what follows the row
            if found:
                sets += [
                    (key, b"VALUE %b%b%b" % (key, numbers, value), exptime) for key, value in found
                ]
                around = len(_VERB) + begin - space + size + len(_LINE_END)
                start += around * len(found) + sum([len(key) for key, _ in found])
                continue
        key = buffer[start + 4 : space]
        end = begin + size
        if not (key and buffer.startswith(_LINE_END, end) and len(key) + size <= max_item):
            break
        end += 2
        append((key, b"VALUE %b%b%b" % (key, numbers, buffer[begin:end]), exptime))
        start = end
    return sets, start


@lru_cache(maxsize=1024)
def _announced(numbers: bytes) -> tuple[bytes, int, int] | None:
    """What stands behind the key of a plain set, which is the same for many keys.

    Returns:
        The end of the ``VALUE`` line, the exptime and the value's size in bytes; None if
        something is unusual.
    """
    line = _plain_numbers.fullmatch(numbers)
    if line is None:
        return None
    flags, exptime, size = line.groups()
    return b" %b %b\r\n" % (flags, size), int(exptime), int(size)


@lru_cache(maxsize=1024)
def _row(numbers: bytes, size: int, max_item: int) -> re.Pattern[bytes]:
    """What finds plain sets that differ in nothing but their keys and values.

    It finds the key, and the value with its line end, of each set up to the first that is
    unlike them; all that follows it finds as one piece without a key.

    Args:
        numbers: what stands behind the keys, to the end of the line.
        size: of the values, in bytes.
        max_item: key and value together are at most this long.
    """
    longest = min(MAX_KEY - len(_VERB) - len(numbers), max_item - size)
    row = rb"set ([^ \n]{1,%d})%b(.{%d}\r\n)|.+" % (longest, re.escape(numbers), size)
    return re.compile(row, re.DOTALL)
