"""Requests that are a single line: words to request, each a pure function.

The number and form of the words, and the texts of the errors, are those of
memcached 1.6.18.  A request that says ``noreply`` gets no error either, as the
client isn't there to read it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from lj_services.memcached.protocol import replies
from lj_services.memcached.protocol.commands import (
    MAX_KEY,
    UINT32_MAX,
    Arithmetic,
    CacheMemlimit,
    Delete,
    FlushAll,
    Get,
    GetAndTouch,
    MetaNoop,
    Quit,
    Refused,
    Request,
    Shutdown,
    Stats,
    Touch,
    Verbosity,
    Version,
)
from lj_services.memcached.protocol.meta import read_meta, read_meta_debug
from lj_services.memcached.protocol.numbers import signed, unsigned

Words: TypeAlias = list[bytes]

ERROR: Final = Refused(replies.ERROR)
BAD_LINE: Final = Refused(replies.BAD_LINE)
_SILENCE: Final = Refused(b"")
_BAD_EXPTIME: Final = Refused(replies.BAD_EXPTIME)
_BAD_DELTA: Final = Refused(replies.BAD_DELTA)
_BAD_DELETE: Final = Refused(
    replies.client_error("bad command line format.  Usage: delete <key> [noreply]")
)


def refuse(refusal: Refused, noreply: bool) -> Refused:
    """`refusal`, or the same without a word."""
    return refusal._replace(reply=b"") if noreply else refusal


def read_get(words: Words) -> Request | Refused:
    """``get key ...`` and ``gets key ...``."""
    if len(words) < 2:
        return ERROR
    keys = words[1:]
    if max(map(len, keys)) > MAX_KEY:
        return BAD_LINE
    return Get(keys, words[0] == b"gets")


def _read_get_and_touch(words: Words) -> Request | Refused:
    if len(words) < 2:
        return ERROR
    exptime = signed(words[1])
    if exptime is None:
        return _BAD_EXPTIME
    keys = words[2:]
    if max(map(len, keys), default=0) > MAX_KEY:
        return BAD_LINE
    return GetAndTouch(exptime, keys, words[0] == b"gats")


def _read_delete(words: Words) -> Request | Refused:
    if not 2 <= len(words) <= 4:
        return ERROR
    # The "0" is the time for which the key was once locked; old clients still send it.
    match words[2:]:
        case [] | [b"0"]:
            noreply = False
        case [b"noreply"] | [b"0", b"noreply"]:
            noreply = True
        case _:
            return refuse(_BAD_DELETE, words[-1] == b"noreply")
    if len(words[1]) > MAX_KEY:
        return refuse(BAD_LINE, noreply)
    return Delete(words[1], noreply)


def _read_arithmetic(words: Words) -> Request | Refused:
    if not 3 <= len(words) <= 4:
        return ERROR
    noreply = words[-1] == b"noreply"
    if len(words[1]) > MAX_KEY:
        return refuse(BAD_LINE, noreply)
    delta = unsigned(words[2])
    if delta is None:
        return refuse(_BAD_DELTA, noreply)
    return Arithmetic(words[1], delta, words[0] == b"decr", noreply)


def _read_touch(words: Words) -> Request | Refused:
    if not 3 <= len(words) <= 4:
        return ERROR
    noreply = words[-1] == b"noreply"
    if len(words[1]) > MAX_KEY:
        return refuse(BAD_LINE, noreply)
    exptime = signed(words[2])
    if exptime is None:
        return refuse(_BAD_EXPTIME, noreply)
    return Touch(words[1], exptime, noreply)


def _read_flush_all(words: Words) -> Request | Refused:
    if len(words) > 3:
        return ERROR
    noreply = words[-1] == b"noreply"
    arguments = words[1:-1] if noreply else words[1:]
    if len(arguments) > 1:
        return ERROR
    delay = signed(arguments[0]) if arguments else 0
    if delay is None:
        return refuse(_BAD_EXPTIME, noreply)
    return FlushAll(max(delay, 0), noreply)


def _read_verbosity(words: Words) -> Request | Refused:
    if not 2 <= len(words) <= 3:
        return ERROR
    noreply = words[-1] == b"noreply"
    level = unsigned(words[1], UINT32_MAX)
    if level is None:
        return refuse(BAD_LINE, noreply)
    return Verbosity(level, noreply)


def _read_cache_memlimit(words: Words) -> Request | Refused:
    if not 2 <= len(words) <= 3:
        return ERROR
    noreply = words[-1] == b"noreply"
    megabytes = unsigned(words[1], UINT32_MAX)
    if megabytes is None:
        return refuse(ERROR, noreply)
    return CacheMemlimit(megabytes, noreply)


LINE_READERS: Final[dict[bytes, Callable[[Words], Request | Refused]]] = {
    b"get": read_get,
    b"gets": read_get,
    b"gat": _read_get_and_touch,
    b"gats": _read_get_and_touch,
    b"delete": _read_delete,
    b"incr": _read_arithmetic,
    b"decr": _read_arithmetic,
    b"touch": _read_touch,
    b"flush_all": _read_flush_all,
    b"verbosity": _read_verbosity,
    b"cache_memlimit": _read_cache_memlimit,
    b"version": lambda _words: Version(),
    b"quit": lambda _words: Quit(),
    b"shutdown": lambda words: Shutdown(b" ".join(words[1:])),
    b"stats": lambda words: Stats(words[1:]),
    b"mn": lambda _words: MetaNoop(),
    b"mg": read_meta,
    b"md": read_meta,
    b"ma": read_meta,
    b"me": read_meta_debug,
}
"""The first word of a line -> what reads the words."""
