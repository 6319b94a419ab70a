"""The requests of memcached's text protocol, and how a client writes them.

Each kind of request is a small immutable type; `encode` gives its bytes, and
`lj_services.memcached.protocol.parser` reads those bytes back into an equal
value.  Nothing here knows sockets, clocks or the cache.

Source: memcached's doc/protocol.txt as of 1.6.18: "Commands", "Meta Commands".
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, TypeAlias

MAX_KEY = 250
"""Longest key, in bytes; a key holds no spaces and no line ends."""

UINT32_MAX = 2**32 - 1
UINT64_MAX = 2**64 - 1

StoreMode = Literal["set", "add", "replace", "append", "prepend", "cas"]


class Get(NamedTuple):
    """``get`` and ``gets``: the values under some keys."""

    keys: list[bytes]
    with_cas: bool = False


class GetAndTouch(NamedTuple):
    """``gat`` and ``gats``: the values under some keys, which then live on for `exptime`."""

    exptime: int
    keys: list[bytes]
    with_cas: bool = False


class Store(NamedTuple):
    """``set``, ``add``, ``replace``, ``append``, ``prepend`` and ``cas``.

    `exptime` as the protocol has it: 0 never, up to 30 days relative in seconds,
    above that Unix time, negative: at once.
    """

    mode: StoreMode
    key: bytes
    flags: int
    exptime: int
    value: bytes
    cas: int = 0
    noreply: bool = False


class Delete(NamedTuple):
    """``delete``."""

    key: bytes
    noreply: bool = False


class Arithmetic(NamedTuple):
    """``incr`` and ``decr``: `delta` is 0..2**64-1, `decrement` says which way."""

    key: bytes
    delta: int
    decrement: bool = False
    noreply: bool = False


class Touch(NamedTuple):
    """``touch``: a new `exptime` for a key."""

    key: bytes
    exptime: int
    noreply: bool = False


class FlushAll(NamedTuple):
    """``flush_all``: forget everything, now or `delay` seconds from now."""

    delay: int = 0
    noreply: bool = False


class Stats(NamedTuple):
    """``stats`` with its words, as ``[b"items"]``."""

    words: list[bytes]


class Verbosity(NamedTuple):
    """``verbosity``: how much the server logs."""

    level: int
    noreply: bool = False


class CacheMemlimit(NamedTuple):
    """``cache_memlimit``: a new memory limit, in megabytes."""

    megabytes: int
    noreply: bool = False


class Version(NamedTuple):
    """``version``."""


class Quit(NamedTuple):
    """``quit``: close the connection."""


class Shutdown(NamedTuple):
    """``shutdown`` (mode empty) and ``shutdown graceful``."""

    mode: bytes = b""


MetaFlags: TypeAlias = Mapping[bytes, bytes]
"""Flags of a meta command in the order they were given: letter -> argument
(``O123`` is ``b"O": b"123"``, ``t`` is ``b"t": b""``)."""


class MetaNoop(NamedTuple):
    """``mn``: answered by ``MN``; marks the end of a pipeline."""


class MetaGet(NamedTuple):
    """``mg``.  `key` is the plain key, also where the flag b says it travels as base64."""

    key: bytes
    flags: MetaFlags


class MetaSet(NamedTuple):
    """``ms``."""

    key: bytes
    flags: MetaFlags
    value: bytes


class MetaDelete(NamedTuple):
    """``md``."""

    key: bytes
    flags: MetaFlags


class MetaArithmetic(NamedTuple):
    """``ma``."""

    key: bytes
    flags: MetaFlags


class MetaDebug(NamedTuple):
    """``me``: what the server knows of one item."""

    key: bytes
    base64_key: bool = False


class Refused(NamedTuple):
    """A request that the parser itself turns down.

    `reply` is what to answer (nothing, where the client wants no reply),
    `close` says that the stream can't be followed any further, `forget` names a
    key whose old value must go, because the client meant to replace it.
    """

    reply: bytes
    close: bool = False
    forget: bytes | None = None


PlainSet: TypeAlias = tuple[bytes, bytes, int]
"""Key, block and exptime of a ``set`` that wants its reply.

The block is what a get of the key answers: its ``VALUE`` line, the value, a line end.
"""


class Sets(NamedTuple):
    """Plain sets, one right behind the other in a pipeline: the parser's short form of `Store`.

    A named tuple for each of them would take a third of the time that such a set takes.
    """

    sets: list[PlainSet]


Request: TypeAlias = (
    Get
    | GetAndTouch
    | Store
    | Delete
    | Arithmetic
    | Touch
    | FlushAll
    | Stats
    | Verbosity
    | CacheMemlimit
    | Version
    | Quit
    | Shutdown
    | MetaNoop
    | MetaGet
    | MetaSet
    | MetaDelete
    | MetaArithmetic
    | MetaDebug
)
"""What a client can ask."""

_NOREPLY = {False: b"", True: b" noreply"}


def encode(request: Request) -> bytes:
    """The bytes that send `request`.

    Keys are taken as they are: whoever makes the request sees to it that they
    are 1 to `MAX_KEY` bytes without spaces and line ends (`valid_key`).
    """
    match request:
        case Get(keys, with_cas):
            return b"%b %b\r\n" % (b"gets" if with_cas else b"get", b" ".join(keys))
        case Store(mode, key, flags, exptime, value, cas, noreply):
            unique = b" %d" % cas if mode == "cas" else b""
            head = b"%b %b %d %d %d%b" % (mode.encode(), key, flags, exptime, len(value), unique)
            return b"%b%b\r\n%b\r\n" % (head, _NOREPLY[noreply], value)
        case GetAndTouch(exptime, keys, with_cas):
            verb = b"gats" if with_cas else b"gat"
            return b"%b %d %b\r\n" % (verb, exptime, b" ".join(keys))
        case Delete(key, noreply):
            return b"delete %b%b\r\n" % (key, _NOREPLY[noreply])
        case Arithmetic(key, delta, decrement, noreply):
            verb = b"decr" if decrement else b"incr"
            return b"%b %b %d%b\r\n" % (verb, key, delta, _NOREPLY[noreply])
        case Touch(key, exptime, noreply):
            return b"touch %b %d%b\r\n" % (key, exptime, _NOREPLY[noreply])
        case FlushAll(delay, noreply):
            return b"flush_all %d%b\r\n" % (delay, _NOREPLY[noreply])
        case Stats(words):
            return b" ".join([b"stats", *words]) + b"\r\n"
        case Verbosity(level, noreply):
            return b"verbosity %d%b\r\n" % (level, _NOREPLY[noreply])
        case CacheMemlimit(megabytes, noreply):
            return b"cache_memlimit %d%b\r\n" % (megabytes, _NOREPLY[noreply])
        case Version():
            return b"version\r\n"
        case Quit():
            return b"quit\r\n"
        case Shutdown(mode):
            return b" ".join([b"shutdown", *([mode] if mode else [])]) + b"\r\n"
        case MetaNoop():
            return b"mn\r\n"
        case MetaSet(key, meta, value):
            words = [b"ms", _meta_key(key, meta), b"%d" % len(value), *_meta_words(meta)]
            return b"%b\r\n%b\r\n" % (b" ".join(words), value)
        case MetaGet(key, meta):
            return _meta_line(b"mg", key, meta)
        case MetaDelete(key, meta):
            return _meta_line(b"md", key, meta)
        case MetaArithmetic(key, meta):
            return _meta_line(b"ma", key, meta)
        case MetaDebug(key, base64_key):
            return _meta_line(b"me", key, {b"b": b""} if base64_key else {})


def valid_key(key: bytes) -> bool:
    """Whether `key` may travel in the text protocol: 1 to 250 bytes, all above the space."""
    return 0 < len(key) <= MAX_KEY and min(key) > 32 and 127 not in key


def _meta_key(key: bytes, flags: MetaFlags) -> bytes:
    return base64.b64encode(key) if b"b" in flags else key


def _meta_words(flags: MetaFlags) -> Iterable[bytes]:
    return (letter + argument for letter, argument in flags.items())


def _meta_line(verb: bytes, key: bytes, flags: MetaFlags) -> bytes:
    return b" ".join([verb, _meta_key(key, flags), *_meta_words(flags)]) + b"\r\n"
