"""What travels between a program and a gofer: requests, and answers in pieces.

A request is one JSON object (`Request`).  An answer is a number of frames, each a packet of
its own: WORK_DATA for all but the last, which is the job's result.  A frame has lines of
JSON: first ``{"n": 3}``, its number; then in any frame

- ``{"columns": [["name", "STRING"], ...]}`` starts the rows of a statement,
- ``[...]`` is a row,
- ``{"end": [rowcount, lastrowid]}`` ends a statement,
- ``{"error": ["IntegrityError", "why"]}`` ends everything,
- ``{"lease": {...}}`` tells where a transaction is held.

A frame with the number 0 starts from the beginning: the worker before it was lost.

What JSON has no word for is an object with one key: ``{"$b": base64}`` for bytes, ``$n``
decimal number, ``$t`` date and time, ``$d`` date, ``$h`` time of day, ``$s`` a length of
time in seconds.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any, Literal

from lj_services.gearman.gofer.errors import (
    BY_NAME,
    Error,
    InterfaceError,
    InternalError,
    OperationalError,
)

Row = tuple[Any, ...]
Do = Literal["read", "write", "lease", "step", "commit", "rollback"]


def _encode(value: Any) -> Any:
    match value:
        case bytes() | bytearray() | memoryview():
            return {"$b": base64.b64encode(value).decode()}
        case Decimal():
            return {"$n": str(value)}
        case dt.datetime():
            return {"$t": value.isoformat()}
        case dt.date():
            return {"$d": value.isoformat()}
        case dt.time():
            return {"$h": value.isoformat()}
        case dt.timedelta():
            return {"$s": value.total_seconds()}
        case set() | frozenset():  # MySQL's SET
            return ",".join(sorted(map(str, value)))
    raise InterfaceError(f"a value of type {type(value).__name__} can't be a parameter or a result")


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "$b": base64.b64decode,
    "$n": Decimal,
    "$t": dt.datetime.fromisoformat,
    "$d": dt.date.fromisoformat,
    "$h": dt.time.fromisoformat,
    "$s": lambda seconds: dt.timedelta(seconds=seconds),
}


def _decode(found: dict[str, Any]) -> Any:
    if len(found) == 1:
        ((key, value),) = found.items()
        if key in _DECODERS:
            return _DECODERS[key](value)
    return found


def dumps(value: Any) -> str:
    """A line of JSON.

    Raises:
        InterfaceError: there is a value in it that can't travel.
    """
    return json.dumps(value, default=_encode, ensure_ascii=False, separators=(",", ":"))


def loads(text: bytes | str) -> Any:
    """Read what `dumps` wrote.

    Raises:
        ValueError: it is something else.
    """
    return json.loads(text, object_hook=_decode)


@dataclass(frozen=True)
class Request:
    """What a gofer is asked to do."""

    do: Do
    """``read``: on a connection that can't write; ``write``: all statements in one
    transaction; ``lease``: the same, but keep the transaction; ``step``, ``commit``,
    ``rollback``: with the one that is kept."""
    statements: list[tuple[str, list[list[Any]]]] = field(default_factory=list)
    """Each with rows of parameters; it is run once for each row."""
    call: str = ""
    """The call's name, 32 hexadecimal digits that start with the second of its making."""
    until: float = 0.0
    """When nobody waits for the answer any more, in seconds since 1970."""
    definitive: bool = False
    """Read from the role's writer."""
    whole: bool = False
    """Answer in one piece: other programs may join in and must not miss the beginning."""
    lease: str = ""
    """Which transaction."""
    lease_s: float = 0.0
    """How long it is kept without a call, in seconds."""

    def pack(self) -> bytes:
        """As it travels.

        Raises:
            InterfaceError: a parameter can't travel.
        """
        plain = {key: value for key, value in vars(self).items() if value not in ("", 0, False, [])}
        return dumps(plain).encode()

    @classmethod
    def parse(cls, payload: bytes) -> Request:
        """Read what `pack` wrote.

        Raises:
            InterfaceError: it is something else.
        """
        try:
            asked = loads(payload)
            known = {key: asked[key] for key in asked.keys() & asdict(cls("read")).keys()}
            made = cls(**known)
            statements = [(str(sql), [list(row) for row in rows]) for sql, rows in made.statements]
            return cls(**{**known, "statements": statements})
        except (ValueError, TypeError, AttributeError) as error:
            raise InterfaceError(f"no request of a gofer: {error}") from None


@dataclass
class Result:
    """What came of one statement."""

    columns: list[tuple[str, str | None]] | None = None
    """Name and kind of each column; None: it has no rows to give."""
    rows: list[Row] = field(default_factory=list)
    rowcount: int = -1
    """Rows that were changed, or that were found."""
    lastrowid: int | None = None


class FrameWriter:
    """Packs an answer into frames.

    Args:
        send: takes a frame that is not the last; None: there shall be one only.
        frame_bytes: about how large a frame may get.
        max_bytes: largest frame where there shall be one only.
    """

    def __init__(
        self, send: Callable[[bytes], None] | None, frame_bytes: int, max_bytes: int
    ) -> None:
        self._send = send
        self._frame_bytes = frame_bytes
        self._max_bytes = max_bytes
        self._number = 0
        self._start()

    def _start(self) -> None:
        self._lines = [dumps({"n": self._number})]
        self._size = 0

    def line(self, value: Any) -> None:
        """Add a line; sends a frame when it is full.

        Raises:
            OperationalError: the only frame gets too large.
        """
        text = dumps(value)
        self._lines.append(text)
        self._size += len(text)
        if self._send is None and self._size > self._max_bytes:
            raise OperationalError(
                f"an answer in one piece of more than {self._max_bytes} bytes (max_answer); "
                "ask for less, or read without coalescing"
            )
        if self._size >= self._frame_bytes and self._send is not None:
            self._send(self._frame())
            self._number += 1
            self._start()

    def _frame(self) -> bytes:
        return "\n".join(self._lines).encode()

    def last(self) -> bytes:
        """The last frame."""
        return self._frame()


def error_frame(error: Error) -> bytes:
    """An answer that is an error and nothing else."""
    writer = FrameWriter(None, 0, 1 << 20)
    writer.line({"error": [type(error).__name__, str(error)[:10_000]]})
    return writer.last()


class FrameReader:
    """Makes results of frames."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.error: Error | None = None
        self.lease: dict[str, Any] | None = None
        self._expected = 0
        self._open: Result | None = None
        self.restarts = 0
        """How often it started from the beginning again."""

    def feed(self, frame: bytes) -> None:
        """Take in a frame.

        Raises:
            InternalError: it makes no sense.
        """
        try:
            head, *lines = frame.split(b"\n")
            number = loads(head)["n"]
            if number == 0 and self._expected:
                self.results.clear()
                self._open = None
                self._expected = 0
                self.restarts += 1
            if number != self._expected:
                raise ValueError(f"piece {self._expected} is missing")
            self._expected += 1
            for line in lines:
                self._take(loads(line))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InternalError(f"the gofer's answer makes no sense: {error}") from None

    def _take(self, value: Any) -> None:
        if isinstance(value, list):
            if self._open is None:
                raise ValueError("a row of no statement")
            self._open.rows.append(tuple(value))
            return
        match value:
            case {"columns": columns}:
                self._open = Result(columns=[(name, kind) for name, kind in columns])
                self.results.append(self._open)
            case {"end": [rowcount, lastrowid]}:
                if self._open is None:
                    self.results.append(Result())
                self.results[-1].rowcount = rowcount
                self.results[-1].lastrowid = lastrowid
                self._open = None
            case {"error": [name, text]}:
                self.error = BY_NAME.get(name, InternalError)(text)
            case {"lease": lease}:
                self.lease = lease

    def take_rows(self) -> Sequence[Row]:
        """The rows that have come since, which are then forgotten."""
        if not self.results:
            return ()
        rows, self.results[-1].rows = self.results[-1].rows, []
        return rows
