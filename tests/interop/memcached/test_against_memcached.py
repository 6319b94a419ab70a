"""The same bytes to memcached and to ours: the same replies."""

from __future__ import annotations

import random
import re

import pytest

from tests.support.memcached import Start

pytestmark = pytest.mark.interop

# memcached's threads that tend its LRU lists hold an item now and then while they look
# at it.  An incr that finds its item held makes a new one, which has lost its stale mark.
# Without them the same requests have the same replies, always.
NO_CHANCE = "-o no_lru_maintainer,no_lru_crawler"

SCRIPTS = {
    "storage": (
        b"set k 5 0 3\r\nabc\r\nget k\r\nadd k 0 0 1\r\nx\r\nreplace k 1 0 1\r\ny\r\n"
        b"get k\r\nappend k 9 0 2\r\nzz\r\nprepend k 9 0 1\r\n-\r\nget k nothing k\r\n"
        b"replace none 0 0 1\r\nx\r\nappend none 0 0 1\r\nx\r\nadd new 4294967295 0 0\r\n"
        b"\r\nget new\r\n"
    ),
    "cas": (
        b"cas k 0 0 1 5\r\nx\r\nset k 0 0 1\r\nx\r\ncas k 0 0 1 99999\r\ny\r\nget k\r\n"
        b"cas k 0 0 1 x\r\ncas k 0 0 1\r\n"
    ),
    "delete": (
        b"set k 0 0 1\r\nx\r\ndelete k\r\ndelete k\r\nset k 0 0 1\r\nx\r\ndelete k 0\r\n"
        b"delete k 5\r\ndelete k 0 noreply\r\ndelete\r\ndelete k noreply\r\nget k\r\n"
    ),
    "arithmetic": (
        b"set n 3 0 2\r\n10\r\nincr n 5\r\ndecr n 6\r\ndecr n 100\r\nget n\r\n"
        b"incr n 18446744073709551615\r\nincr n 2\r\nincr none 1\r\nset t 0 0 3\r\n"
        b"abc\r\nincr t 1\r\nincr n x\r\nincr n\r\nincr n 1 noreply\r\nget n\r\nset e 0 0 0\r\n"
        b"\r\nincr e 1\r\nset big 0 0 20\r\n18446744073709551615\r\nincr big 1\r\n"
        b"get big\r\n"
    ),
    "expiry": (
        b"set k 0 -1 1\r\nx\r\nget k\r\nset k 0 100 1\r\nx\r\ntouch k 200\r\ntouch none 1\r\n"
        b"gat 100 k none\r\ngat x k\r\ntouch k x\r\nset old 0 1000000000 1\r\nx\r\n"
        b"get old\r\ngat -1 k\r\nget k\r\ngat 0\r\n"
    ),
    "flush": (
        b"set k 0 0 1\r\nx\r\nflush_all 100\r\nget k\r\nflush_all\r\nget k\r\nflush_all noreply\r\n"
        b"flush_all x\r\nflush_all 0 noreply\r\nflush_all 1 2 3\r\nset k 0 0 1\r\n"
        b"y\r\n"
    ),
    "noreply": (
        b"set k 0 0 1 noreply\r\nx\r\nget k\r\nadd k 0 0 1 noreply\r\ny\r\nget k\r\n"
        b"delete k noreply\r\nget k\r\nincr k 1 noreply\r\ntouch k 1 noreply\r\n"
        b"verbosity 0 noreply\r\n"
    ),
    "bad lines": (
        b"\r\n   \r\nbogus\r\nGET k\r\nget\r\nset\r\nset k\r\nset k 0 0\r\nset k x 0 1\r\n"
        b"set k 0 x 1\r\nset k 0 0 -1\r\nincr\r\nverbosity\r\nverbosity x\r\nmx\r\n"
        b"x\r\nget  a   b\r\n"
        b"get " + b"k" * 251 + b"\r\n"
        b"delete " + b"k" * 251 + b"\r\n"
        b"touch " + b"k" * 251 + b" 1\r\n"
        b"get " + b"k" * 250 + b"\r\n"
        b"gets\r\ngat\r\n"
        b"incr " + b"k" * 251 + b" 1\r\n"
    ),
    "wrong byte counts": (b"set k 0 0 3\r\nabcd\r\nversionx\r\nset k 0 0 2\r\nx\r\n\r\nget k\r\n"),
    "too large": (b"set k 0 0 1\r\nx\r\nset k 0 0 1048577\r\n%b\r\nget k\r\n" % (b"v" * 1048577)),
    "meta get": (
        b"mg none\r\nmg none q\r\nmg none k O1\r\nset k 7 0 3\r\nabc\r\nmg k\r\nmg k v\r\n"
        b"mg k s v f t k q O42\r\nmg k t T60 h\r\nmg k t\r\nmn\r\nmg\r\nmg k k k\r\n"
        b"mg k !\r\nmg Zm9v b k v\r\nms Zm9v 3 b\r\nbar\r\nmg Zm9v b k v\r\nget foo\r\n"
        b"mg " + b"k" * 251 + b" v\r\n"
    ),
    "meta stampede": (
        b"mg k N30 v t\r\nmg k N30 v t\r\nms k 1 T90\r\nx\r\nmg k R100 v t\r\nmg k R100 v\r\n"
        b"md k I T30\r\nmg k v t\r\nmg k v\r\nms k 1 T90\r\ny\r\nmg k v\r\n"
    ),
    "meta set": (
        b"ms k 2\r\nab\r\nms k 2 T0 F5 k O9\r\ncd\r\nget k\r\nms k 1 ME\r\nx\r\nms k 1 MA\r\n"
        b"e\r\nms k 1 MP\r\n-\r\nget k\r\nms n 1 MR\r\nx\r\nms n 1 MA\r\nx\r\nms k 1 C1\r\n"
        b"x\r\nms n 1 C1\r\nx\r\nms k 1 q\r\nz\r\nmn\r\nms k\r\nms k x\r\nms k 2 Mx\r\n"
        b"ab\r\nms k 3\r\nabcd\r\n"
    ),
    "meta delete": (
        b"md none\r\nset k 0 0 1\r\nx\r\nmd k C1\r\nmd k q\r\nmd k k O3\r\nmn\r\nmd k !\r\n"
    ),
    "meta arithmetic": (
        b"ma n\r\nma n N0 J13 v\r\nma n v\r\nma n D5 v\r\nma n MD D100 v t\r\nma n M+ k O1\r\n"
        b"ma n q\r\nmn\r\nma n Dx\r\nma n Mx\r\nset t 0 0 1\r\nx\r\nma t\r\nma n v\r\n"
    ),
    "no items": (
        b"me none\r\nme\r\nshutdown\r\ncache_memlimit\r\ncache_memlimit 1\r\nstats bogus\r\n"
        b"stats reset\r\n"
    ),
    "web page": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\nversion\r\n"),
    "quit": (b"set k 0 0 1\r\nx\r\nquit\r\nget k\r\n"),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_same_replies(script: str, real_memcached: Start, our_memcached: Start) -> None:
    expected = real_memcached(NO_CHANCE).exchange(SCRIPTS[script])
    assert our_memcached().exchange(SCRIPTS[script]) == expected


def random_request(dice: random.Random) -> bytes:
    key = dice.choice([b"a", b"b", b"n"])
    # What memcached does by chance is left out: it looks for a number past the end of a
    # value that begins with a space, and a number that gets shorter keeps its length only
    # if no reply still refers to the item.
    value = dice.choice([b"", b"1", b"12", b"99", b"text", b"x\r\nEND\r\n"])
    number = dice.randrange(4)
    verb = dice.choice([b"set", b"add", b"replace", b"append", b"prepend"])
    noreply = dice.choice([b"", b" noreply"])
    return dice.choice(
        [
            b"%b %b %d 0 %d%b\r\n%b\r\n" % (verb, key, number, len(value), noreply, value),
            b"get %b b\r\n" % key,
            b"gat 1000 a %b\r\n" % key,
            b"delete %b%b\r\n" % (key, noreply),
            b"incr %b %d%b\r\n" % (key, number, noreply),
            b"touch %b 1000\r\n" % key,
            b"mg %b v f t s k O%d\r\n" % (key, number),
            b"mg %b q v N100\r\n" % key,
            b"ms %b %d F%d T100 k\r\n%b\r\n" % (key, len(value), number, value),
            b"ms %b %d M%b\r\n%b\r\n" % (key, len(value), dice.choice(b"E A P R S".split()), value),
            b"md %b I T50\r\n" % key,
            b"md %b k\r\n" % key,
            b"ma %b N100 J5 D%d v t\r\n" % (key, number),
        ]
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_same_replies_to_random_requests(
    seed: int, real_memcached: Start, our_memcached: Start
) -> None:
    dice = random.Random(seed)
    requests = [b"flush_all\r\n", *(random_request(dice) for _ in range(400))]
    real, ours = real_memcached(NO_CHANCE), our_memcached()
    with real.connect() as one, ours.connect() as other:
        for request in requests:
            expected, lives = without_ttl(one.ask(request + b"mn\r\n", until=b"MN\r\n"))
            reply, ours_lives = without_ttl(other.ask(request + b"mn\r\n", until=b"MN\r\n"))
            assert reply == expected, request
            assert all(abs(a - b) <= 1 for a, b in zip(lives, ours_lives, strict=True)), (
                f"{request!r}: {lives} and {ours_lives} seconds to live"
            )


def without_ttl(reply: bytes) -> tuple[bytes, list[int]]:
    """A reply without its times to live, and those: the servers' seconds begin at other moments."""
    return re.sub(rb" t\d+", b" t", reply), [int(n) for n in re.findall(rb" t(\d+)", reply)]


def test_cas_uniques_are_good_for_one_store(our_memcached: Start) -> None:
    with our_memcached().connect() as client:
        client.ask(b"set k 0 0 1\r\nx\r\n")
        unique = client.ask(b"gets k\r\n", until=b"END\r\n").split()[4]
        assert client.ask(b"cas k 0 0 1 %b\r\ny\r\n" % unique) == b"STORED\r\n"
        assert client.ask(b"cas k 0 0 1 %b\r\nz\r\n" % unique) == b"EXISTS\r\n"
        assert b"y\r\nEND" in client.ask(b"get k\r\n", until=b"END\r\n")
