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

A head is remembered when it comes for the second time: much comes only once, and remembering costs
as much as a good part of reading.  What is remembered is bounded in number and size, and all of it
is forgotten when it is full: keeping account of what was used last would cost more than to read
everything once again.
"""

from __future__ import annotations

import re
from typing import Final, Generic, TypeVar

from lj_services.perlbal.http.head import FORWARDED, RequestHead, ResponseHead

MOST: Final = 1024
"""Heads of each kind that are remembered."""
LONGEST: Final = 2048
"""Bytes beyond which one is not: of a request with its line, of a response up to its end."""

_LINE: Final = re.compile(rb"([A-Z]++) (/[!\"$-~\x80-\xff]*+) HTTP/1\.1\r\n")
_UNSHARED: Final = FORWARDED | {b"authorization", b"proxy-authorization", b"x-proxy-capabilities"}

H = TypeVar("H")


class Known(Generic[H]):
    """Heads by the bytes that they were made of.

    Attributes:
        heads: those that are remembered.
    """

    def __init__(self) -> None:
        self.heads: dict[bytes, H] = {}
        self._once: set[int] = set()

    def wanted(self, data: bytes) -> bool:
        """Whether what is made of these bytes should be remembered: they have come before."""
        if not data:
            return False
        digest = hash(data)  # two that share it do no harm
        if digest in self._once:
            return True
        if len(self._once) >= MOST:
            self._once.clear()
        self._once.add(digest)
        return False

    def remember(self, data: bytes, head: H) -> None:
        """Remember a head; if there are too many, no other one any more."""
        if len(self.heads) >= MOST:
            self.heads.clear()
        self.heads[data] = head


_requests: Known[RequestHead] = Known()
_responses: Known[ResponseHead] = Known()


def known_request(data: bytes) -> RequestHead | None:
    """The request that `data` is to its end, if its fields are known."""
    fields = _fields_of(data)
    known = _requests.heads.get(fields)
    if known is None:
        return None
    line = _LINE.fullmatch(data, 0, len(data) - len(fields))
    return None if line is None else RequestHead(line[1], line[2], 1, known)


def remember_request(head: RequestHead, data: bytes) -> None:
    """Know these fields the next time, if they are worth it.

    Args:
        head: what was made of them.
        data: the request, to its end.
    """
    if (
        head.minor
        and not head.length
        and not head.upgrade
        and _requests.wanted(fields := _fields_of(data))
        and head.fields.keys().isdisjoint(_UNSHARED)
    ):
        head.share()
        _requests.remember(fields, RequestHead(head.method, head.target, 1, head))


def _fields_of(data: bytes) -> bytes:
    """What is behind a request's first line; nothing of a long one."""
    return data[data.find(b"\r\n") + 2 :] if len(data) <= LONGEST else b""


def known_response(data: bytes) -> tuple[ResponseHead, int] | None:
    """The head that `data` begins with, and how many bytes it takes, if it is known.

    Not for answers to HEAD.
    """
    start = _head_of(data)
    known = _responses.heads.get(start)
    if known is None:
        return None
    return ResponseHead(1, known.status, known.reason, known), len(start)


def remember_response(head: ResponseHead, data: bytes) -> None:
    """Know this head the next time, if it is worth it.  Not for answers to HEAD.

    Args:
        head: what was made of it.
        data: that begins with it.
    """
    if (
        head.minor
        and head.status >= 200
        and b"set-cookie" not in head.fields
        and _responses.wanted(start := _head_of(data))
    ):
        head.share()
        _responses.remember(start, ResponseHead(1, head.status, head.reason, head))


def _head_of(data: bytes) -> bytes:
    """The head that a response begins with; nothing of a long one."""
    end = data.find(b"\r\n\r\n", 0, LONGEST) + 4
    return data[:end] if end > 3 else b""
