"""The memcached client: what other programs import.

One `Client` serves all threads of a process.  It spreads keys over the servers by a
ring that other languages' clients share (`rings`), asks all servers concerned at the
same time (`connection`), leaves out those that fail (`health`, `dispatch`), and
writes values in a form that others can read (`serializer`).

A cache may lose anything at any time, so a fault is answered like a miss: reading
gives the default, writing gives False.  With ``raise_faults=True`` it is a `Fault`
instead.  A key or a value that can't be sent is the caller's mistake and is raised
always, before anything is sent.
"""

from __future__ import annotations

import enum
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Self

from lj_services.memcached.calls import Calls
from lj_services.memcached.client_config import ClientSettings
from lj_services.memcached.dispatch import Dispatcher
from lj_services.memcached.keys import Key, KeySpace, fits_a_line
from lj_services.memcached.protocol import commands
from lj_services.memcached.protocol.reply_parser import (
    Number,
    Reply,
    Stat,
    Status,
    Version,
)
from lj_services.memcached.rings import RingName, Server, make_ring
from lj_services.memcached.serializer import (
    Compression,
    CompressionMethod,
    JsonSerializer,
    Serializer,
)
from lj_services.memcached.trace import Trace, current_trace

_RELATIVE_MAX_S: Final = 30 * 24 * 3600
_STORED = frozenset((Status.STORED, Status.NOT_STORED))
_CAS = frozenset((Status.STORED, Status.NOT_STORED, Status.EXISTS, Status.NOT_FOUND))
_DELETED = frozenset((Status.DELETED, Status.NOT_FOUND))
_TOUCHED = frozenset((Status.TOUCHED, Status.NOT_FOUND))
_COUNTED = frozenset((Status.NOT_FOUND,))


class CasResult(enum.Enum):
    """What became of a `Client.cas`; true if the value was stored."""

    STORED = "stored"
    EXISTS = "exists"
    """Somebody changed the value since."""
    NOT_FOUND = "not found"
    """The key is gone."""
    FAULT = "fault"
    """No answer: stored or not."""

    def __bool__(self) -> bool:
        return self is CasResult.STORED


class Client:
    """A set of cache servers as one cache; safe for use by many threads at once."""

    def __init__(
        self,
        servers: Sequence[Server],
        *,
        ring: RingName = "crc32",
        serializer: Serializer | None = None,
        compress_threshold: int = 4096,
        compress_method: CompressionMethod = "zlib",
        timeout_s: float = 1.0,
        connect_timeout_s: float = 0.25,
        dead_retry_s: float = 20.0,
        rehash: bool = True,
        namespace: str = "",
        raise_faults: bool = False,
        max_idle_connections: int = 32,
    ) -> None:
        """Nothing is connected before it is used.

        Args:
            servers: in the same order in every program that shares the cache.
            ring: how keys are spread, see `rings`.
            serializer: how values are written; None: `JsonSerializer`.
            compress_threshold: values from this length on are zipped, in bytes; 0: never.
            compress_method: who can read them then, see `serializer`.
            timeout_s: longest wait for a server's whole answer, in seconds.
            connect_timeout_s: longest wait for a connection, in seconds.
            dead_retry_s: how long a server that failed is left out, in seconds, and up
                to half as much again at random.
            rehash: keys of dead servers go to living ones; False: they are misses.
            namespace: put before every key on the wire; takes no part in the placement.
            raise_faults: raise a `Fault` where the cache fails, instead of missing.
            max_idle_connections: how many connections are kept to each server.

        Raises:
            ValueError: no servers, or one is there twice.
            BadKey: the namespace can't be part of a key.
        """
        self.ring = make_ring(ring, servers)
        self._serializer: Serializer = JsonSerializer() if serializer is None else serializer
        self._compression = Compression(compress_threshold, compress_method)
        self._place = KeySpace(namespace).place
        self._dispatcher = Dispatcher(
            self.ring,
            connect_timeout_s=connect_timeout_s,
            timeout_s=timeout_s,
            dead_retry_s=dead_retry_s,
            rehash=rehash,
            max_idle_connections=max_idle_connections,
        )
        self._calls = Calls(self._dispatcher, self._serializer, self._compression, raise_faults)

    @classmethod
    def from_settings(
        cls,
        settings: ClientSettings,
        *,
        serializer: Serializer | None = None,
        raise_faults: bool = False,
    ) -> Self:
        """The client that the ``[memcached]`` table of the site file describes."""
        return cls(
            [server.server() for server in settings.servers],
            ring=settings.ring,
            serializer=serializer,
            compress_threshold=settings.compress_threshold,
            compress_method=settings.compress_method,
            timeout_s=settings.timeout_s,
            connect_timeout_s=settings.connect_timeout_s,
            dead_retry_s=settings.dead_retry_s,
            rehash=settings.rehash,
            namespace=settings.namespace,
            raise_faults=raise_faults,
            max_idle_connections=settings.max_idle_connections,
        )

    @property
    def servers(self) -> tuple[Server, ...]:
        """All servers, living or not."""
        return self.ring.servers

    # -- reading -------------------------------------------------------------------

    def get(self, key: Key, default: Any = None) -> Any:
        """The value under `key`, or `default`."""
        found = self._read("get", [key], lambda wires: commands.encode(commands.Get(wires)))
        return found[key][0] if found else default

    def get_many(self, keys: Iterable[Key]) -> dict[Any, Any]:
        """The values of those `keys` that are there, by key: one round trip for each server."""
        found = self._read(
            "get", list(dict.fromkeys(keys)), lambda wires: commands.encode(commands.Get(wires))
        )
        return {key: value for key, (value, _) in found.items()}

    def gets(self, key: Key) -> tuple[Any, int] | None:
        """The value and its cas number (for `cas`), or None."""
        found = self._read(
            "gets", [key], lambda wires: commands.encode(commands.Get(wires, with_cas=True))
        )
        if not found:
            return None
        value, cas = found[key]
        return value, cas or 0

    def get_and_touch(self, key: Key, expire_s: float, default: Any = None) -> Any:
        """The value under `key`, which then lives on for `expire_s` seconds; or `default`."""
        exptime = _exptime(expire_s)
        found = self._read(
            "gat",
            [key],
            lambda wires: commands.encode(commands.GetAndTouch(exptime, wires)),
        )
        return found[key][0] if found else default

    # -- writing -------------------------------------------------------------------

    def set(self, key: Key, value: Any, expire_s: float = 0) -> bool:
        """Store `value`; whether it is stored.

        Args:
            key: where.
            value: what; see the serializer for what can be stored.
            expire_s: seconds until it is forgotten; 0: never; less: at once.
        """
        return self._store("set", key, value, expire_s) is Status.STORED

    def set_many(self, values: Mapping[Any, Any], expire_s: float = 0) -> list[Any]:
        """Store all `values` (key -> value), one round trip for each server.

        Returns:
            The keys that could not be stored; empty when all went well.
        """
        keys = list(values)
        exptime = _exptime(expire_s)
        placed = [self._place(key) for key in keys]
        requests = [
            self._store_request("set", key.wire, value, exptime)
            for key, value in zip(placed, values.values(), strict=True)
        ]
        replies = self._calls.write("set", placed, requests, _STORED, repeatable=True)
        return [key for key, reply in zip(keys, replies, strict=True) if reply is not Status.STORED]

    def add(self, key: Key, value: Any, expire_s: float = 0) -> bool:
        """Store `value` if there is none yet; whether it is stored."""
        return self._store("add", key, value, expire_s) is Status.STORED

    def replace(self, key: Key, value: Any, expire_s: float = 0) -> bool:
        """Store `value` if there is one already; whether it is stored."""
        return self._store("replace", key, value, expire_s) is Status.STORED

    def append(self, key: Key, value: str | bytes) -> bool:
        """Put `value` behind the one that is there; whether there was one.

        For str and bytes that are short enough never to be zipped.
        """
        return self._extend("append", key, value)

    def prepend(self, key: Key, value: str | bytes) -> bool:
        """Put `value` before the one that is there; as `append`."""
        return self._extend("prepend", key, value)

    def cas(self, key: Key, value: Any, cas: int, expire_s: float = 0) -> CasResult:
        """Store `value` unless somebody changed it since `gets` gave the number `cas`."""
        match self._store("cas", key, value, expire_s, cas):
            case Status.STORED:
                return CasResult.STORED
            case Status.EXISTS:
                return CasResult.EXISTS
            case Status.NOT_FOUND | Status.NOT_STORED:
                return CasResult.NOT_FOUND
            case _:
                return CasResult.FAULT

    def incr(self, key: Key, delta: int = 1) -> int | None:
        """Add `delta` (0..2**64-1) to a number; the sum modulo 2**64, or None if it isn't there."""
        return self._count("incr", key, delta)

    def decr(self, key: Key, delta: int = 1) -> int | None:
        """Take `delta` (0..2**64-1) from a number, not below 0; the rest, or None without one."""
        return self._count("decr", key, delta)

    def touch(self, key: Key, expire_s: float = 0) -> bool:
        """Let a value live on for `expire_s` seconds; whether it was there."""
        placed = self._place(key)
        request = commands.encode(commands.Touch(placed.wire, _exptime(expire_s)))
        reply = self._calls.write("touch", [placed], [request], _TOUCHED, repeatable=True)[0]
        return reply is Status.TOUCHED

    def delete(self, key: Key) -> bool:
        """Forget a value; whether it was there."""
        return bool(self._delete([key]))

    def delete_many(self, keys: Iterable[Key]) -> int:
        """Forget values, one round trip for each server; how many were there."""
        return self._delete(list(dict.fromkeys(keys)))

    # -- servers -------------------------------------------------------------------

    def stats(self, *args: str) -> dict[str, dict[str, str]]:
        """The statistics of all servers that answer: address -> name -> value.

        Args:
            args: what kind, as ``"items"``; none: the general ones.
        """
        request = commands.encode(commands.Stats([_word(arg) for arg in args]))
        return {
            str(server): {
                reply.name.decode(errors="replace"): reply.value.decode(errors="replace")
                for reply in replies
                if isinstance(reply, Stat)
            }
            for server, replies in self._calls.ask_all(request).items()
        }

    def versions(self) -> dict[str, str]:
        """The versions of all servers that answer: address -> version."""
        return {
            str(server): replies[0].text.decode(errors="replace")
            for server, replies in self._calls.ask_all(commands.encode(commands.Version())).items()
            if isinstance(replies[0], Version)
        }

    def flush_all(self, delay_s: int = 0) -> bool:
        """Forget everything, `delay_s` seconds from now; whether all servers will."""
        answers = self._calls.ask_all(commands.encode(commands.FlushAll(delay_s)))
        return sum(replies == [Status.OK] for replies in answers.values()) == len(self.servers)

    def server_for(self, key: Key) -> Server | None:
        """The server that has `key` now, as far as is known which ones are dead."""
        index = self._dispatcher.locate(self._place(key), self._dispatcher.health.dead())
        return None if index is None else self.servers[index]

    @contextmanager
    def trace(self) -> Iterator[Trace]:
        """Note which server answered for each key used in the block.

        Also in threads that the block starts with a copy of its context, as
        `asyncio.to_thread` does.
        """
        trace = Trace(self._calls)
        token = current_trace.set(trace)
        try:
            yield trace
        finally:
            current_trace.reset(token)

    def close(self) -> None:
        """Close all connections.  A closed client can still be used; it keeps no connections."""
        self._dispatcher.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- how -----------------------------------------------------------------------

    def _read(
        self,
        operation: str,
        keys: list[Any],
        encode: Callable[[list[bytes]], bytes],
    ) -> dict[Any, tuple[Any, int | None]]:
        placed = [self._place(key) for key in keys]
        return self._calls.read(operation, keys, placed, encode)

    def _store(
        self, mode: commands.StoreMode, key: Key, value: Any, expire_s: float, cas: int = 0
    ) -> Reply | None:
        placed = self._place(key)
        request = self._store_request(mode, placed.wire, value, _exptime(expire_s), cas)
        allowed = _CAS if mode == "cas" else _STORED
        return self._calls.write(mode, [placed], [request], allowed, repeatable=mode == "set")[0]

    def _store_request(
        self, mode: commands.StoreMode, wire: bytes, value: Any, exptime: int, cas: int = 0
    ) -> bytes:
        data, flags = self._compression.pack(*self._serializer.dumps(value))
        return commands.encode(commands.Store(mode, wire, flags, exptime, data, cas))

    def _extend(self, mode: commands.StoreMode, key: Key, value: str | bytes) -> bool:
        placed = self._place(key)
        data = value.encode() if isinstance(value, str) else value
        request = commands.encode(commands.Store(mode, placed.wire, 0, 0, data))
        reply = self._calls.write(mode, [placed], [request], _STORED, repeatable=False)[0]
        return reply is Status.STORED

    def _count(self, operation: str, key: Key, delta: int) -> int | None:
        if not 0 <= delta <= commands.UINT64_MAX:
            raise ValueError(f"delta is {delta}; it must be in 0..2**64-1")
        placed = self._place(key)
        request = commands.encode(
            commands.Arithmetic(placed.wire, delta, decrement=operation == "decr")
        )
        reply = self._calls.write(
            operation, [placed], [request], _COUNTED, repeatable=False, numbers=True
        )[0]
        return reply.value if isinstance(reply, Number) else None

    def _delete(self, keys: list[Any]) -> int:
        placed = [self._place(key) for key in keys]
        requests = [commands.encode(commands.Delete(key.wire)) for key in placed]
        replies = self._calls.write("delete", placed, requests, _DELETED, repeatable=True)
        return replies.count(Status.DELETED)


def _exptime(expire_s: float) -> int:
    """Seconds from now as the protocol wants them: from 30 days on it takes Unix time."""
    if expire_s < 0:
        return -1
    if expire_s <= _RELATIVE_MAX_S:
        return math.ceil(expire_s)
    return math.ceil(time.time() + expire_s)


def _word(text: str) -> bytes:
    if not fits_a_line(word := text.encode()):
        raise ValueError(f"{text!r} is no word of a stats command")
    return word
