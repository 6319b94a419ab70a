"""Heads of HTTP/1 messages: what a request and a response say before their bodies.

Lines are kept as they came, since most of them are only passed on: `Fields.lines`, and in
`Fields.hop` the numbers of those that are not.  `Fields.fields` has the values by lower-case
name.  `parse` makes heads of bytes.

Heads whose fields are the same may share them (`Fields.share`): then they have `Fields.kept`
ready, and whoever wants to change one has it take its own first (`Fields.own`), as `Fields.set`
and `Fields.remove` do by themselves.

Sources: RFC 9112 sections 2 to 6, RFC 9110 sections 5 and 7.6.1.
"""

from __future__ import annotations

from typing import Final

MAX_HEAD: Final = 64 << 10
"""Bytes of a head beyond which it is refused."""
MAX_TARGET: Final = 8 << 10
"""Bytes of a request's target beyond which it is refused."""
MAX_FIELDS: Final = 128
"""Lines of a head beyond which it is refused."""

CHUNKED: Final = -1
"""The length of a body that is sent in chunks."""
UNTIL_CLOSE: Final = -2
"""The length of a response's body that ends with the connection."""

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"transfer-encoding",
        b"upgrade",
        b"expect",
        b"http2-settings",
    }
)
"""Fields that concern one connection, and are made anew for the next."""
FORWARDED: Final = frozenset({b"x-forwarded-for", b"x-forwarded-host", b"x-host"})
"""Fields by which a proxy tells who the client is."""


class Fields:
    """A head's fields, as lines and by name.

    Attributes:
        lines: as they came, without CRLF.
        hop: which of `lines` (by number) must not be passed on.
        fields: value by lower-case name; several lines of a name joined by commas.
        kept: the lines that may be passed on, each with its CRLF, if other heads have the same;
            None: the fields are this head's own.

    Args:
        like: whose fields it has, too (`share`); None: it has none yet.
    """

    __slots__ = ("fields", "hop", "kept", "lines")

    def __init__(self, like: Fields | None = None) -> None:
        self.lines: list[bytes] = [] if like is None else like.lines
        self.hop: list[int] = [] if like is None else like.hop
        self.fields: dict[bytes, bytes] = {} if like is None else like.fields
        self.kept: bytes | None = None if like is None else like.kept

    def share(self) -> None:
        """Let others have the same fields from now on."""
        self.kept = self.kept_block()

    def own(self) -> None:
        """Have fields that may be changed: nobody else has them."""
        if self.kept is not None:
            self.lines = self.lines.copy()
            self.hop = self.hop.copy()
            self.fields = self.fields.copy()
            self.kept = None

    def kept_lines(self) -> list[bytes]:
        """A copy of the lines that may be passed on."""
        lines = self.lines.copy()
        for number in reversed(self.hop):
            del lines[number]
        return lines

    def kept_block(self) -> bytes:
        """The lines that may be passed on, each with its CRLF."""
        if self.kept is not None:
            return self.kept
        lines = self.kept_lines() if self.hop else self.lines
        return b"%b\r\n" % b"\r\n".join(lines) if lines else b""

    def set(self, name: bytes, value: bytes) -> None:
        """Put a field in place of all that have this name."""
        self.remove(name)
        self.lines.append(b"%b: %b" % (name, value))
        self.fields[name.lower()] = value

    def remove(self, name: bytes) -> None:
        """Take away every field of this name."""
        wanted = name.lower()
        self.own()
        if self.fields.pop(wanted, None) is None:
            return
        numbers = [
            number
            for number, line in enumerate(self.lines)
            if line.partition(b":")[0].lower() == wanted
        ]
        self.hop = sorted(set(self.hop) | set(numbers))


class RequestHead(Fields):
    """A request without its body.

    Attributes:
        method: as sent; methods are case-sensitive.
        target: in origin form (``/path?query``), or ``*``.
        minor: the 1 or 0 of HTTP/1.x.
        length: of the body in bytes: 0, a number, or CHUNKED.
        keep_alive: whether the client would go on with this connection.
        upgrade: the protocol that the client would like to change to, or b"".
        expects_continue: whether the client waits for 100 Continue.

    Args:
        like: a request without a body whose fields this one shares; None: it has none yet.
    """

    __slots__ = (
        "expects_continue",
        "keep_alive",
        "length",
        "method",
        "minor",
        "target",
        "upgrade",
    )

    def __init__(
        self, method: bytes, target: bytes, minor: int, like: RequestHead | None = None
    ) -> None:
        super().__init__(like)
        self.method = method
        self.target = target
        self.minor = minor
        self.length = 0
        self.keep_alive: bool = minor == 1 if like is None else like.keep_alive
        self.upgrade = b""
        self.expects_continue = False

    @property
    def host(self) -> bytes:
        """The Host field as it was sent, or b""."""
        return self.fields.get(b"host", b"")


class ResponseHead(Fields):
    """A response without its body.

    Attributes:
        minor: the 1 or 0 of HTTP/1.x.
        status: the code, 100 to 999.
        reason: the words behind it, possibly none.
        length: of the body: a number, CHUNKED or UNTIL_CLOSE; 0 where the status or the
            request's method allow none.
        keep_alive: whether the connection can carry another exchange.

    Args:
        like: a response that this one is equal to, and shares its fields with; None: it has none.
    """

    __slots__ = ("keep_alive", "length", "minor", "reason", "status")

    def __init__(
        self, minor: int, status: int, reason: bytes, like: ResponseHead | None = None
    ) -> None:
        super().__init__(like)
        self.minor = minor
        self.status = status
        self.reason = reason
        self.length: int = UNTIL_CLOSE if like is None else like.length
        self.keep_alive: bool = minor == 1 if like is None else like.keep_alive
