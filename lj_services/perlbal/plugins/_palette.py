"""Palettes: what a specification makes of colours, and where images keep theirs.

A specification is one of::

    3ff00007f00ff00        up to six colours: index (one hex digit) and rrggbb
    g00111111ffeeeeee      a gradient: from index and colour, to index and colour
    tff8800                all colours towards one; white becomes it, black stays black
    tff8800331100          the same, and black becomes the second

GIF images have a global colour table behind their 13-byte header.  Paletted PNG images have a
chunk ``PLTE``, whose checksum is made anew.  Anything else can't be changed.

Sources: GIF89a section 19; PNG (second edition) sections 5.3, 11.2.3; the specifications are
Perlbal::Plugin::Palimg's.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from typing import Final

Colour = tuple[int, int, int]
Change = Callable[[bytes], bytes]
"""Palette (three bytes a colour) -> palette of the same length."""

LONGEST_START: Final = 4096
"""In these bytes a palette must lie."""
_COLOURS = re.compile(r"(?:[0-9a-f]{7}){1,6}")
_GRADIENT = re.compile(r"g([0-9a-f]{2})([0-9a-f]{6})([0-9a-f]{2})([0-9a-f]{6})")
_TINT = re.compile(r"t([0-9a-f]{6})([0-9a-f]{6})?")
_PNG: Final = b"\x89PNG\r\n\x1a\n"


class CantChange(Exception):
    """It is no specification, or no image with a palette."""


def change(specification: str) -> Change:
    """What a specification does.

    Raises:
        CantChange: it is none.
    """
    if (match := _TINT.fullmatch(specification)) is not None:
        return _tint(_colour(match[1]), _colour(match[2] or "000000"))
    if (match := _GRADIENT.fullmatch(specification)) is not None:
        ends = [
            (int(match[1], 16), _colour(match[2])),
            (int(match[3], 16), _colour(match[4])),
        ]
        return _put(_gradient(*sorted(ends)))
    if _COLOURS.fullmatch(specification):
        words = [specification[at : at + 7] for at in range(0, len(specification), 7)]
        return _put({int(word[0], 16): _colour(word[1:]) for word in words})
    raise CantChange("no specification of colours")


def changed_start(start: bytes, kind: str, how: Change) -> bytes:
    """The beginning of an image, up to the end of its palette, with another palette.

    Args:
        start: the first bytes of the file.
        kind: ``gif`` or ``png``.
        how: what is done to the palette.

    Raises:
        CantChange: it is no such image, or has no palette in these bytes.
    """
    return _gif(start, how) if kind == "gif" else _png(start, how)


def _colour(text: str) -> Colour:
    return int(text[0:2], 16), int(text[2:4], 16), int(text[4:6], 16)


def _put(colours: dict[int, Colour]) -> Change:
    def change(palette: bytes) -> bytes:
        new = bytearray(palette)
        for index, colour in colours.items():
            if index * 3 < len(new):
                new[index * 3 : index * 3 + 3] = bytes(colour)
        return bytes(new)

    return change


def _gradient(first: tuple[int, Colour], last: tuple[int, Colour]) -> dict[int, Colour]:
    (start, dark), (end, light) = first, last
    if start == end:
        raise CantChange("a gradient needs two indexes")

    def at(index: int) -> Colour:
        red, green, blue = (
            int(a + (b - a) * (index - start) / (end - start))
            for a, b in zip(dark, light, strict=True)
        )
        return red, green, blue

    return {index: at(index) for index in range(start, end + 1)}


def _tint(light: Colour, dark: Colour) -> Change:
    def change(palette: bytes) -> bytes:
        return bytes(
            int(dark[at % 3] + (light[at % 3] - dark[at % 3]) * value / 255)
            for at, value in enumerate(palette)
        )

    return change


def _gif(start: bytes, how: Change) -> bytes:
    if len(start) < 13 or start[:6] not in (b"GIF87a", b"GIF89a") or not start[10] & 0x80:
        raise CantChange("no GIF image with a global colour table")
    end = 13 + 3 * 2 ** ((start[10] & 7) + 1)
    if len(start) < end:
        raise CantChange("its colour table is cut off")
    return start[:13] + how(start[13:end])


def _png(start: bytes, how: Change) -> bytes:
    if start[:8] != _PNG or start[12:16] != b"IHDR" or start[25:26] != b"\x03":
        raise CantChange("no PNG image with a palette")
    at = 8
    while at + 8 <= len(start):
        length, kind = struct.unpack_from(">I4s", start, at)
        end = at + 8 + length
        if end + 4 > len(start):
            break
        if kind == b"PLTE":
            new = how(start[at + 8 : end])
            checksum = struct.pack(">I", zlib.crc32(new, zlib.crc32(kind)))
            return start[: at + 8] + new + checksum
        at = end + 4
    raise CantChange("its palette is not where it is looked for")
