"""Keys: what callers may use as one, and the forms it takes on its way."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple, TypeAlias

from lj_services.memcached.errors import BadKey
from lj_services.memcached.protocol.commands import MAX_KEY

Key: TypeAlias = str | bytes | tuple[int, str]
"""A key; ``(42, "log2:42")`` is the key ``log2:42`` on the server that 42 stands for."""

fits_a_line: Final = re.compile(rb"[^\x00-\x20\x7f]{1,%d}" % MAX_KEY).fullmatch
"""As `commands.valid_key`, and several times as fast: it is asked for every key."""


class Placed(NamedTuple):
    """A key that can be sent."""

    wire: bytes
    """With the namespace: what the server sees."""
    bare: bytes
    """Without it: what the ring sees."""
    pin: int | None
    """What the ring sees instead, if the key is pinned."""

    @property
    def shown(self) -> str:
        """The key for people."""
        return self.bare.decode(errors="replace")


class KeySpace:
    """The keys of one namespace."""

    def __init__(self, namespace: str) -> None:
        """
        Args:
            namespace: put before every key.

        Raises:
            BadKey: it can't be part of a key.
        """
        self._namespace = namespace.encode()
        if namespace and not fits_a_line(self._namespace):
            raise BadKey(
                f"{namespace!r:.300} is no namespace: it must be shorter than {MAX_KEY} bytes, "
                "without spaces and control characters"
            )

    def place(self, key: Key) -> Placed:
        """The forms of `key`.

        Raises:
            BadKey: it has the wrong type, is empty or too long, or has spaces or
                control characters in it.
        """
        pin: int | None = None
        name: Any = key
        if isinstance(key, tuple):
            if len(key) != 2 or not isinstance(key[0], int):
                raise BadKey(f"{key!r:.300} is no key: a pinned key is a pair (number, key)")
            pin, name = key
        if isinstance(name, str):
            try:
                bare = name.encode()
            except UnicodeEncodeError as error:
                raise BadKey(f"{key!r:.300} is no key: {error}") from None
        elif isinstance(name, bytes):
            bare = name
        else:
            raise BadKey(f"{key!r:.300} is no key: it must be str, bytes or a pair (number, str)")
        wire = self._namespace + bare
        if not fits_a_line(wire) or not bare:
            raise BadKey(
                f"{key!r:.300} is no key: with its namespace it must be 1 to {MAX_KEY} bytes "
                f"(this is {len(wire)}), without spaces and control characters"
            )
        return Placed(wire, bare, pin)
