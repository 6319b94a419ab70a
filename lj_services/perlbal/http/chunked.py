"""Bodies sent in chunks: bytes -> data, strict.

What is decoded here is encoded anew before it is passed on, so that nothing of the framing
that a sender chose, extensions and trailers above all, reaches anybody else's parser.

A size is plain hexadecimal digits; the line ends in CRLF; the data is followed by CRLF and
by nothing else.  Extensions are read past if they are well-formed and short.  Trailer
fields are read past, too: they are for this hop.

Source: RFC 9112 section 7.1.
"""

from __future__ import annotations

import re
from typing import Final

from lj_services.perlbal.http.errors import BadMessage

MAX_SIZE_LINE: Final = 256
"""Bytes of a line with a chunk's size, extensions included."""
MAX_TRAILER: Final = 8 << 10
"""Bytes of all trailer fields."""
LAST_CHUNK: Final = b"0\r\n\r\n"

_SIZE = re.compile(
    rb"([0-9A-Fa-f]{1,15})"
    rb"(?:[ \t]*;[ \t]*[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
    rb'(?:[ \t]*=[ \t]*(?:[!#$%&\'*+\-.^_`|~0-9A-Za-z]+|"[\t !#-~\x80-\xff]*"))?)*'
)
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\x00-\x08\x0a-\x1f\x7f]*")


def chunk(data: bytes) -> bytes:
    """One chunk; `data` must not be empty."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class ChunkDecoder:
    """Decodes one body.

    Args:
        status: of the refusal: 400 of a client, 502 of a server.
    """

    __slots__ = ("_line", "_remaining", "_status", "_step", "_trailer", "done", "rest")

    def __init__(self, status: int) -> None:
        self.done = False
        """Whether the body has ended."""
        self.rest = b""
        """What came behind the end: the next message's."""
        self._status = status
        self._step = _SIZE_LINE
        self._remaining = 0
        self._line = b""
        self._trailer = 0

    def feed(self, data: bytes) -> bytes:
        """The data in what has come, possibly none.

        Raises:
            BadMessage: the framing is wrong.
        """
        pieces: list[bytes] = []
        position = 0
        size = len(data)
        while position < size and not self.done:
            if self._step == _DATA:
                piece = data[position : position + self._remaining]
                pieces.append(piece)
                position += len(piece)
                self._remaining -= len(piece)
                if not self._remaining:
                    self._step = _DATA_END
                continue
            line, position = self._take_line(data, position)
            if line is not None:
                self._on_line(line)
        if self.done:
            self.rest = data[position:]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _take_line(self, data: bytes, position: int) -> tuple[bytes | None, int]:
        """The next line without its end, or None; and where to go on."""
        end = data.find(b"\n", position)
        stop = len(data) if end < 0 else end + 1
        line = self._line + data[position:stop]
        longest = {_DATA_END: 2, _SIZE_LINE: MAX_SIZE_LINE}.get(self._step, MAX_TRAILER)
        if len(line) > longest:
            raise BadMessage(self._status, "a line between chunks is too long")
        if end < 0:
            self._line = line
            return None, stop
        if not line.endswith(b"\r\n"):
            raise BadMessage(self._status, "a line between chunks that does not end in CRLF")
        self._line = b""
        return line[:-2], stop

    def _on_line(self, line: bytes) -> None:
        if self._step == _DATA_END:
            if line:
                raise BadMessage(self._status, "a chunk is longer than its size says")
            self._step = _SIZE_LINE
        elif self._step == _SIZE_LINE:
            match = _SIZE.fullmatch(line)
            if match is None:
                raise BadMessage(self._status, "malformed size of a chunk")
            self._remaining = int(match[1], 16)
            self._step = _DATA if self._remaining else _TRAILERS
        elif not line:
            self.done = True
        else:
            self._trailer += len(line) + 2
            if self._trailer > MAX_TRAILER:
                raise BadMessage(self._status, "the trailer is too long")
            if _TRAILER.fullmatch(line) is None:
                raise BadMessage(self._status, "malformed trailer field")


_SIZE_LINE, _DATA, _DATA_END, _TRAILERS = range(4)
