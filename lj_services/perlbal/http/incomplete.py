"""Bytes that are no head yet: refused as early as it is certain that they can't become one.

A client that sends garbage is told so at once, and not when it has sent a head's size of it;
and why a complete head is none is found out here, where it costs good requests nothing.

Source: RFC 9112 sections 2.2, 3 and 5.
"""

from __future__ import annotations

import re

from lj_services.perlbal.http.errors import BadMessage
from lj_services.perlbal.http.head import MAX_HEAD, MAX_TARGET

_BARE_LF = re.compile(rb"(?<!\r)\n")
_BARE_CR = re.compile(rb"\r(?!\n)(?!\Z)")


def check_more(data: bytes, start: int, status: int) -> bool:
    """Whether a head that was incomplete is complete now; without reading it all again.

    Args:
        data: all that has come.
        start: up to where it had come before.
        status: of the refusal: 400 of a client, 502 of a server.

    Raises:
        BadMessage: it can't become a head any more.
    """
    if data.find(b"\r\n\r\n", max(start - 3, 0)) >= 0:
        return True
    if len(data) > MAX_HEAD:
        raise BadMessage(431 if status == 400 else status, "the head is too long")
    if _BARE_LF.search(data, max(start - 1, 0)) or _BARE_CR.search(data, max(start - 1, 0)):
        raise BadMessage(status, "a line that does not end in CRLF")
    return False


def refuse_no_request(data: bytes) -> None:
    """Refuse at once what can't become a request any more."""
    refuse_no_head(data, 400)
    line, end, _ = data.partition(b"\r\n")
    if end:
        if b" HTTP/1." not in line:
            if re.fullmatch(rb"\S+ \S+ HTTP/\d(\.\d)?", line):
                raise BadMessage(505, "a version other than HTTP/1.0 and 1.1")
            raise BadMessage(400, "malformed request line")
    elif len(line) > MAX_TARGET + 64:
        raise BadMessage(414, "the request line is too long")


def refuse_no_head(data: bytes, status: int) -> None:
    """Refuse at once what can't become a head any more."""
    if b"\r\n\r\n" in data:
        raise BadMessage(status, _why(data))
    if len(data) > MAX_HEAD:
        raise BadMessage(431 if status == 400 else status, "the head is too long")
    if _BARE_LF.search(data) or _BARE_CR.search(data):
        raise BadMessage(status, "a line that does not end in CRLF")


def _why(data: bytes) -> str:
    """What keeps this complete head from being one."""
    head = data[: data.index(b"\r\n\r\n") + 2]
    if _BARE_LF.search(head) or _BARE_CR.search(head[:-1]):
        return "a line that does not end in CRLF"
    first, *lines = head[:-2].split(b"\r\n")
    for line in lines:
        if line[:1] in (b" ", b"\t"):
            return "a field continued on the next line"
        name, colon, _ = line.partition(b":")
        if not colon:
            return "a field without a colon"
        if not name or name.strip(b" \t") != name or b" " in name:
            return "white space around a field's name"
    if not re.fullmatch(rb"[!-~\x80-\xff ]+", first):
        return "control characters in the first line"
    return "malformed head"
