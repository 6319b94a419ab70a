"""The coordinator's protocol: bytes <-> requests, replies and events.  No sockets, no clock.

Lines end with LF (CR before it is ignored) and are UTF-8.  The server greets with a line that
contains ``Ready``.  A request is one line: a command, then words and ``name=value`` fields; a
value with blanks, quotes or ``=`` is written as a JSON string: ``why="disk is full"``.

A reply is any number of lines that begin with a blank, then one that begins with ``OK``, ``ERR``
or ``END`` (``END`` closes a reply that had lines).  ``ERR`` is followed by a word for programs and
a sentence for people.  Replies come in the order of the requests.  Lines that begin with ``EVENT``
are no replies: they may come between two replies, to whoever asked for them by ``subscribe``.

::

    > get_job
    < OK JOB 4711:3:7 move=17 claim=2 state=copying rate=800
    > list_jobs
    <  17 user=4711 from=3 to=7 state=copying worker=web1:712:001 rows=200 total=900 why=runs
    < END
    > pause src:3 why="new disk"
    < OK src:3 is paused

The commands, and their names, are those of LiveJournal's ``moveuclusterd`` where it had them; what
each does is in `console` and `desk`, for operators and for workers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

GREETING: Final = "Ready: lj mover coordinator"
LONGEST_LINE: Final = 1 << 16
"""Bytes that a line of a request may have, and one of a reply."""

_NAME = re.compile(r"[a-z_]{1,32}")
_TOKEN = re.compile(
    r"\s*(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)=)?"
    r'(?P<value>"(?:[^"\\]|\\.)*"|[^\s"]+)(?=\s|$)'
)
_BARE = re.compile(r"[^\s\"=]+")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class ProtocolError(Exception):
    """The other side does not speak this protocol; the connection is of no more use."""


class BadRequest(Exception):
    """A line that is no request, or lacks something; the connection goes on.

    Args:
        message: what is wrong and what would be right.
        code: the word for programs.
    """

    def __init__(self, message: str, code: str = "usage") -> None:
        super().__init__(message)
        self.code = code


class Lines:
    """Bytes as they come become lines.

    Args:
        longest: bytes that a line may have.
    """

    def __init__(self, longest: int = LONGEST_LINE) -> None:
        self._longest = longest
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[str]:
        """The lines that are complete with `data`, without their ends.

        Raises:
            ProtocolError: a line is too long, no UTF-8, or holds control characters; what
                came before it in the same piece is lost with the connection.
        """
        self._rest += data
        if b"\n" not in data:
            if len(self._rest) > self._longest:
                raise ProtocolError(f"a line has {self._longest} bytes at most")
            return []
        *whole, rest = bytes(self._rest).split(b"\n")
        if max(map(len, (*whole, rest))) > self._longest:
            raise ProtocolError(f"a line has {self._longest} bytes at most")
        self._rest = bytearray(rest)
        return [self._line(raw) for raw in whole]

    def _line(self, raw: bytes) -> str:
        try:
            line = raw.removesuffix(b"\r").decode()
        except UnicodeDecodeError:
            raise ProtocolError("lines are UTF-8") from None
        if _CONTROLS.search(line):
            raise ProtocolError("a line holds no control characters")
        return line


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Attributes:
        command: its name.
        words: what stands there without a name.
        fields: what has one.
        rest: all after the command, as it was written.
    """

    command: str
    words: tuple[str, ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict)
    rest: str = ""

    def word(self, number: int, what: str) -> str:
        """A word that must be there.

        Raises:
            BadRequest: it is not; `what` names it.
        """
        try:
            return self.words[number]
        except IndexError:
            raise BadRequest(f"{self.command}: {what} is missing; try help") from None

    def number(self, name: str, *, at_least: int = 0) -> int:
        """A field that must be there, as a whole number.

        Raises:
            BadRequest: it is missing or no such number.
        """
        return whole(self.fields.get(name, ""), f"{self.command}: {name}", at_least)


def whole(text: str, what: str, at_least: int = 0) -> int:
    """A whole number below 2**63.

    Raises:
        BadRequest: it is none; `what` names it.
    """
    if re.fullmatch(r"-?[0-9]{1,18}", text) and (number := int(text)) >= at_least:
        return number
    raise BadRequest(f"{what} must be a whole number from {at_least} on, not {text[:40]!r}")


def tokens(text: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """Split what follows a command into words and fields.

    Raises:
        BadRequest: a quoted value is not closed or no JSON string; a field is there twice.
    """
    words: list[str] = []
    fields: dict[str, str] = {}
    place = 0
    text = text.rstrip()
    while place < len(text):
        found = _TOKEN.match(text, place)
        if found is None:
            where = text[place : place + 40].strip()
            raise BadRequest(f"can't read {where!r}: quote values as JSON strings")
        value = found["value"]
        if value.startswith('"'):
            try:
                value = json.loads(value)
            except ValueError:
                raise BadRequest(f"can't read {value[:40]}: it is no JSON string") from None
        if found["name"] is None:
            words.append(value)
        elif found["name"] in fields:
            raise BadRequest(f"{found['name']} is there twice")
        else:
            fields[found["name"]] = value
        place = found.end()
    return tuple(words), fields


def parse_request(line: str) -> Request | None:
    """A line as a request; None for an empty one.

    Raises:
        BadRequest: it can't be read.
    """
    command, _, rest = line.strip().partition(" ")
    if not command:
        return None
    if not _NAME.fullmatch(command):
        raise BadRequest(f"{command[:40]!r} is no command; try help", "unknown_command")
    words, fields = tokens(rest)
    return Request(command, words, fields, rest.strip())


def shown(value: object) -> str:
    """A value as it stands in a line: bare, or as a JSON string."""
    text = "-" if value is None else str(value)
    return text if _BARE.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def named(**values: object) -> str:
    """``name=value`` for each."""
    return " ".join(f"{name.rstrip('_')}={shown(value)}" for name, value in values.items())


def request(command: str, *words: object, **fields: object) -> bytes:
    """A request as bytes."""
    return (" ".join([command, *map(shown, words), *_each(fields)]) + "\n").encode()


def _each(fields: Mapping[str, object]) -> Iterable[str]:
    return (f"{name.rstrip('_')}={shown(value)}" for name, value in fields.items())


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply.

    Attributes:
        text: what follows ``OK``, or the sentence after ``ERR``.
        lines: the lines before it.
        error: the word for programs after ``ERR``; None: it went well.
    """

    text: str = ""
    lines: tuple[str, ...] = ()
    error: str | None = None

    def __bytes__(self) -> bytes:
        body = "".join(f" {_flat(line)}\n" for line in self.lines)
        if self.error is not None:
            last = f"ERR {self.error} {_flat(self.text)}"
        elif self.lines:
            last = "END"
        else:
            last = f"OK {_flat(self.text)}".rstrip()
        return f"{body}{last}\n".encode()


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, for those who subscribed: its kind, and a line about it."""

    kind: str
    text: str

    def __bytes__(self) -> bytes:
        return f"EVENT {self.kind} {_flat(self.text)}\n".encode()


def _flat(text: str) -> str:
    """On one line, without what would make it unreadable."""
    return _CONTROLS.sub(" ", text.replace("\n", " ").replace("\t", " "))


class ReplyReader:
    """What a client hears: bytes become replies and events."""

    def __init__(self) -> None:
        self._lines = Lines()
        self._body: list[str] = []
        self._greeted = False

    def feed(self, data: bytes) -> list[Reply | Event]:
        """What is complete with `data`.

        Raises:
            ProtocolError: the other side is no coordinator.
        """
        heard: list[Reply | Event] = []
        for line in self._lines.feed(data):
            first, _, rest = line.partition(" ")
            if not self._greeted:
                if "Ready" not in line:
                    raise ProtocolError(f"this is no coordinator: it greets with {line[:80]!r}")
                self._greeted = True
            elif first == "":
                self._body.append(rest)
            elif first == "EVENT":
                kind, _, text = rest.partition(" ")
                heard.append(Event(kind, text))
            elif first in ("OK", "END"):
                heard.append(Reply(rest, self._taken()))
            elif first == "ERR":
                code, _, text = rest.partition(" ")
                heard.append(Reply(text, self._taken(), code))
            else:
                raise ProtocolError(f"this is no reply: {line[:80]!r}")
        return heard

    def _taken(self) -> tuple[str, ...]:
        body, self._body = tuple(self._body), []
        return body
