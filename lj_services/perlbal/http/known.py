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


def fields_of(data: bytes) -> bytes:
    """The fields of the request that `data` is to its end, if it is one; nothing of a long one."""
    return data[data.find(b"\r\n") + 2 :] if len(data) <= LONGEST else b""


def known_request(data: bytes, fields: bytes) -> RequestHead | None:
    """The request that `data` is, if what `fields_of` it gives is known."""
    known = _requests.heads.get(fields)
    if known is None:
        return None
    line = _LINE.fullmatch(data, 0, len(data) - len(fields))
    return None if line is None else known.again(line[1], line[2])


def remember_request(head: RequestHead, fields: bytes) -> None:
    """Know these fields the next time, if they are worth it.

    Args:
        head: what was made of them.
        fields: as `fields_of` gives them.
    """
    if (
        head.minor
        and not head.length
        and not head.upgrade
        and _requests.wanted(fields)
        and head.fields.keys().isdisjoint(_UNSHARED)
    ):
        head.share()
        _requests.remember(fields, head.again(head.method, head.target))


def start_of(data: bytes) -> bytes:
    """The head of the response that `data` begins with; nothing of a long one."""
    end = data.find(b"\r\n\r\n", 0, LONGEST) + 4
    return data[:end] if end > 3 else b""


def known_response(start: bytes) -> ResponseHead | None:
    """The head that these bytes are, if they are known.  Not for answers to HEAD."""
    known = _responses.heads.get(start)
    return None if known is None else known.again()


def remember_response(head: ResponseHead, start: bytes) -> None:
    """Know this head the next time, if it is worth it.

    Args:
        head: what was made of it.
        start: as `start_of` gives it.
    """
    if (
        head.minor
        and head.status >= 200
        and b"set-cookie" not in head.fields
        and _responses.wanted(start)
    ):
        head.share()
        _responses.remember(start, head.again())
