r"""Heads that have come before: read once, and known the next time.

A browser sends the same fields with one request after the other, and only the target differs;
a page that many ask for has the same head in every answer of that second.  So what was made of
fields is remembered under their very bytes, and the next head that has them shares it
(`head.Fields.share`).  Nothing but equality is asked: what differs in a single byte is read
(`parse`).

What is remembered is plain: of HTTP/1.1, complete with the head, without a body that follows a
request, without a wish to change the protocol.  What says who a client is, which some peers are
believed and others not (``X-Forwarded-For``), is not; neither is what is for one user alone to
know (``Authorization``).

What is remembered is bounded in number and size, and all of it is forgotten when it is full:
keeping account of what was used last would cost more than to read everything once again.
"""

from __future__ import annotations

import re
from typing import Final

from lj_services.perlbal.http.head import FORWARDED, RequestHead, ResponseHead

MOST: Final = 1024
"""Heads of each kind that are remembered."""
LONGEST: Final = 2048
"""Bytes beyond which one is not."""

_LINE: Final = re.compile(rb"([A-Z]++) (/[!\"$-~\x80-\xff]{0,2000}+) HTTP/1\.1\r\n")
_UNSHARED: Final = FORWARDED | {b"authorization", b"proxy-authorization", b"x-proxy-capabilities"}

_requests: dict[bytes, RequestHead] = {}
_responses: dict[bytes, ResponseHead] = {}


def known_request(data: bytes) -> RequestHead | None:
    """The request that `data` is, to its end, if its fields are known."""
    line = _LINE.match(data)
    if line is None:
        return None
    known = _requests.get(data[line.end() :])
    return None if known is None else known.again(line[1], line[2])


def remember_request(head: RequestHead, fields: bytes) -> None:
    """Know these fields the next time.

    Args:
        head: what was made of them.
        fields: the lines from the second one on, and the empty one.
    """
    if (
        len(fields) <= LONGEST
        and head.minor
        and not head.length
        and not head.upgrade
        and head.fields.keys().isdisjoint(_UNSHARED)
    ):
        if len(_requests) >= MOST:
            _requests.clear()
        head.share()
        _requests[fields] = head.again(head.method, head.target)


def known_response(data: bytes) -> tuple[ResponseHead, int] | None:
    """The head at the start of `data`, and how many bytes it takes, if it is known.

    Not for answers to HEAD.
    """
    end = data.find(b"\r\n\r\n") + 4
    known = _responses.get(data[:end])
    return None if known is None else (known.again(), end)


def remember_response(head: ResponseHead, data: bytes) -> None:
    """Know this head the next time.

    Args:
        head: what was made of it.
        data: its bytes.
    """
    if (
        len(data) <= LONGEST
        and head.minor
        and head.status >= 200
        and b"set-cookie" not in head.fields
    ):
        if len(_responses) >= MOST:
            _responses.clear()
        head.share()
        _responses[data] = head.again()
