"""Requests of the memcached protocol for tests: any of them, written and read."""

from __future__ import annotations

from hypothesis import strategies as st

from lj_services.memcached.protocol.commands import (
    MAX_KEY,
    UINT32_MAX,
    UINT64_MAX,
    Arithmetic,
    CacheMemlimit,
    Delete,
    FlushAll,
    Get,
    GetAndTouch,
    MetaArithmetic,
    MetaDebug,
    MetaDelete,
    MetaGet,
    MetaNoop,
    MetaSet,
    PlainSet,
    Quit,
    Refused,
    Request,
    Sets,
    Shutdown,
    Stats,
    Store,
    Touch,
    Verbosity,
    Version,
    encode,
    valid_key,
)
from lj_services.memcached.protocol.parser import RequestParser

MAX_ITEM = 1000


def block(key: bytes, flags: int, value: bytes) -> bytes:
    """What a get of the key answers, without END."""
    return b"VALUE %b %d %d\r\n%b\r\n" % (key, flags, len(value), value)


def store_of(plain: PlainSet) -> Store:
    """The long form of a plain set."""
    key, told, exptime = plain
    line, _, value = told.partition(b"\r\n")
    flags = int(line.split(b" ")[2])
    assert told == block(key, flags, value[:-2])
    return Store("set", key, flags, exptime, value[:-2])


def parse(*pieces: bytes) -> list[Request | Refused]:
    """What a new parser makes of the pieces; each plain set for itself."""
    parser = RequestParser(MAX_ITEM)
    found: list[Request | Refused] = []
    for piece in pieces:
        parser.feed(piece)
        while (request := parser.next_request()) is not None:
            if isinstance(request, Sets):
                found += map(store_of, request.sets)
            else:
                found.append(request)
    return found


def parse_one(parser: RequestParser) -> Request | Sets | Refused | None:
    """The next request, after which there is no other."""
    request = parser.next_request()
    assert request is None or parser.next_request() is None
    return request


def typed(requests: list[Request | Refused]) -> list[tuple[type, Request | Refused]]:
    """Requests with their types, as named tuples of different types can be equal."""
    return [(type(request), request) for request in requests]


keys = st.binary(min_size=1, max_size=MAX_KEY).filter(valid_key) | st.just(b"k" * MAX_KEY)
exptimes = st.integers(-(2**31), 2**31)
values = st.binary(max_size=300) | st.sampled_from([b"\r\n", b"END\r\n", b"a\r\nget k\r\n", b""])
uint64 = st.integers(0, UINT64_MAX)
modes = st.sampled_from(["set", "add", "replace", "append", "prepend"])
plain_flags = dict.fromkeys([b"c", b"f", b"h", b"k", b"l", b"q", b"s", b"t", b"u", b"v", b"b"])


@st.composite
def meta_flags(draw: st.DrawFn) -> dict[bytes, bytes]:
    flags = dict.fromkeys(draw(st.lists(st.sampled_from(list(plain_flags)))), b"")
    if draw(st.booleans()):
        flags[b"O"] = draw(st.sampled_from([b"", b"1", b"opaque"]))
    if draw(st.booleans()):
        flags[b"T"] = b"%d" % draw(exptimes)
    if draw(st.booleans()):
        flags[b"C"] = b"%d" % draw(uint64)
    return flags


short_keys = st.binary(min_size=1, max_size=100).filter(valid_key)  # base64 makes them longer
requests = st.one_of(
    st.builds(Get, st.lists(keys, min_size=1, max_size=5), st.booleans()),
    st.builds(GetAndTouch, exptimes, st.lists(keys, min_size=1, max_size=5), st.booleans()),
    st.builds(
        Store,
        modes,
        keys,
        st.integers(0, UINT32_MAX),
        exptimes,
        values,
        cas=st.just(0),
        noreply=st.booleans(),
    ),
    st.builds(Store, st.just("cas"), keys, st.just(0), exptimes, values, uint64, st.booleans()),
    st.builds(Delete, keys, st.booleans()),
    st.builds(Arithmetic, keys, uint64, st.booleans(), st.booleans()),
    st.builds(Touch, keys, exptimes, st.booleans()),
    st.builds(FlushAll, st.integers(0, 10**6), st.booleans()),
    st.builds(Stats, st.lists(st.sampled_from([b"items", b"slabs", b"settings"]), max_size=2)),
    st.builds(Verbosity, st.integers(0, 9), st.booleans()),
    st.builds(CacheMemlimit, st.integers(0, 10**6), st.booleans()),
    st.builds(Version),
    st.builds(Quit),
    st.builds(Shutdown, st.sampled_from([b"", b"graceful"])),
    st.builds(MetaNoop),
    st.builds(MetaGet, short_keys, meta_flags()),
    st.builds(MetaDelete, short_keys, meta_flags()),
    st.builds(MetaArithmetic, short_keys, meta_flags()),
    st.builds(MetaSet, short_keys, meta_flags(), values),
    st.builds(MetaDebug, short_keys, st.booleans()),
)

garbage_lines = st.sampled_from(
    [
        b"\r\n",
        b"\n",
        b"   \r\n",
        b"bogus\r\n",
        b"get\r\n",
        b"get " + b"k" * 251 + b"\r\n",
        b"set k 0 0 -1\r\n",
        b"set k 0 0 5\r\nabc\r\n\r\n",
        b"set k 0 0 5000\r\n" + b"x" * 5000 + b"\r\n",
        b"set k 0 0 99999999999999999999999\r\n",
        b"ms k 5000 q\r\n" + b"y" * 5000 + b"\r\n",
        b"ms k 3 Sx\r\nabc\r\n",
        b"mg k t t\r\n",
        b"incr k x\r\n",
        b"get a  b\n",
        b"delete k 5\r\n",
    ]
)
streams = st.lists(requests.map(encode) | garbage_lines, max_size=8).map(b"".join)
