"""Values <-> bytes and flags, so that programs in other languages can read them.

memcached keeps 32 bits of flags beside each value, and each client library has its
own idea of them.  These are the ones used here:

=====  ==================================================  =======================
 flag  meaning                                             also understood by
=====  ==================================================  =======================
   0   bytes                                               everybody
   2   zipped, when the value starts as gzip does          Cache::Memcached
   2   an integer in decimal, otherwise (read only)        pylibmc, pymemcache
   4   an integer in decimal (read only)                   pylibmc, pymemcache
   8   zipped by zlib                                      pylibmc, pymemcache
  16   text in UTF-8                                       pylibmc, pymemcache
  64   JSON                                                everybody, as bytes
=====  ==================================================  =======================

Perl ignores 8, 16 and 64, so text and JSON arrive there as their bytes, and numbers
(JSON: their digits) as numbers.  The one value that no flag shows to everybody is
the zipped one: `Compression.method` says who shall be able to read it.  1 is pickle
in Python and Storable in Perl; both can run code of whoever wrote the value, so
such a value is not read: it counts as a fault, which is a miss.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from lj_services.memcached.errors import BadValue, UnreadableValue

FLAG_PICKLE: Final = 1
FLAG_INTEGER: Final = 2
FLAG_GZIP: Final = 2
FLAG_LONG: Final = 4
FLAG_ZLIB: Final = 8
FLAG_TEXT: Final = 16
FLAG_JSON: Final = 64

CompressionMethod = Literal["zlib", "gzip"]

MAX_UNZIPPED: Final = 64 << 20
"""A zipped value that would be longer than this, in bytes, is not read."""

_GZIP_MAGIC: Final = b"\x1f\x8b"
_ZLIB_WINDOW: Final = zlib.MAX_WBITS
_GZIP_WINDOW: Final = zlib.MAX_WBITS | 16


class Serializer(Protocol):
    """Writes and reads values; zipping is none of its business (`Compression`)."""

    def dumps(self, value: Any) -> tuple[bytes, int]:
        """The bytes and flags of `value`; raises `BadValue` for what it can't write."""
        ...

    def loads(self, data: bytes, flags: int) -> Any:
        """The value of bytes and flags; raises `UnreadableValue`."""
        ...


_write_json = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), check_circular=True, allow_nan=False
).encode


class JsonSerializer:
    """bytes and str as they are; everything else, as far as JSON goes, as JSON.

    Tuples come back as lists and the keys of dicts as strings, as JSON has it.
    """

    def dumps(self, value: Any) -> tuple[bytes, int]:
        if isinstance(value, bytes):
            return value, 0
        try:
            if isinstance(value, str):
                return value.encode(), FLAG_TEXT
            return _write_json(value).encode(), FLAG_JSON
        except (TypeError, ValueError, RecursionError) as error:
            raise BadValue(
                f"a {type(value).__name__} can't be cached as JSON ({error}); "
                "cache plain data, or give the client a serializer that can"
            ) from None

    def loads(self, data: bytes, flags: int) -> Any:
        try:
            if flags == FLAG_JSON:
                return json.loads(data)
            if flags == FLAG_TEXT:
                return data.decode()
            if flags == 0:
                return data
            if flags in (FLAG_INTEGER, FLAG_LONG):
                return int(data)
        except (ValueError, RecursionError) as error:
            raise UnreadableValue(f"a damaged value (flags {flags}): {error}") from None
        if flags == FLAG_PICKLE:
            raise UnreadableValue("a value that Python pickled or Perl's Storable froze")
        raise UnreadableValue(f"a value of another program's format (flags {flags})")


@dataclass(frozen=True, slots=True)
class Compression:
    """Zips what is long and becomes shorter; reads what either method wrote.

    Args:
        threshold: values from this length on are zipped, in bytes; 0: never.
        method: ``zlib`` for pylibmc and pymemcache, ``gzip`` for Cache::Memcached.
        savings: share of its length that a value must lose to be kept zipped, 0..1.
    """

    threshold: int
    method: CompressionMethod = "zlib"
    savings: float = 0.2

    def pack(self, data: bytes, flags: int) -> tuple[bytes, int]:
        """The bytes and flags to send."""
        if not self.threshold or len(data) < self.threshold:
            return data, flags
        window = _ZLIB_WINDOW if self.method == "zlib" else _GZIP_WINDOW
        zipped = zlib.compress(data, 6, window)
        if len(zipped) >= len(data) * (1 - self.savings):
            return data, flags
        return zipped, flags | (FLAG_ZLIB if self.method == "zlib" else FLAG_GZIP)

    def unpack(self, data: bytes, flags: int) -> tuple[bytes, int]:
        """Undo `pack`, whatever the own threshold and method are.

        Raises:
            UnreadableValue: it is damaged, or longer than `MAX_UNZIPPED`.
        """
        if flags & FLAG_ZLIB:
            return _unzip(data, _ZLIB_WINDOW), flags & ~FLAG_ZLIB
        if flags & FLAG_GZIP and data.startswith(_GZIP_MAGIC):
            return _unzip(data, _GZIP_WINDOW), flags & ~FLAG_GZIP
        return data, flags


def _unzip(data: bytes, window: int) -> bytes:
    unzip = zlib.decompressobj(window)
    try:
        plain = unzip.decompress(data, MAX_UNZIPPED)
    except zlib.error as error:
        raise UnreadableValue(f"a damaged zipped value: {error}") from None
    if not unzip.eof:
        raise UnreadableValue(
            f"a zipped value that is cut short, or longer than {MAX_UNZIPPED} bytes"
        )
    return plain
