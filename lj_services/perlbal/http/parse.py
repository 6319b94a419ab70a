r"""Heads of HTTP/1 messages: bytes -> `RequestHead`, `ResponseHead`; strict.

Theory of operation
===================

A head is taken only as a whole, and only in the one form that every other parser reads in
the same way: lines end in CRLF, a name is a token with the colon right behind it, a value
has no control characters, no line is continued on the next one.  One regular expression
says all of that, so a head that passes it can be cut at ``\r\n`` and at ``:`` and nowhere
else.  What it does not say is decided in one pass over the lines: how the body is framed,
whether the connection persists, which lines are for this hop alone.

Request smuggling lives on two parsers that disagree about where a message ends.  Hence a
request is refused when its length is said twice, in two ways (Content-Length and
Transfer-Encoding) or in any way but plain digits or the single word ``chunked``; when its
Host is missing, repeated or malformed; and when a name would become Content-Length or
Transfer-Encoding in programs that read ``_`` as ``-``.

What is no head yet, and whether it can still become one, is `incomplete`'s business.  Heads
that have come before need not be read again: `known`.

Sources: RFC 9112 sections 2 to 6 and 11, RFC 9110 sections 5, 7.2 and 7.6.1.
"""

from __future__ import annotations

import re
from typing import Final

from lj_services.perlbal.http.errors import BadMessage
from lj_services.perlbal.http.head import (
    CHUNKED,
    FORWARDED,
    HOP_BY_HOP,
    MAX_FIELDS,
    MAX_HEAD,
    MAX_TARGET,
    RequestHead,
    ResponseHead,
)
from lj_services.perlbal.http.incomplete import refuse_no_head, refuse_no_request
from lj_services.perlbal.http.known import (
    known_request,
    known_response,
    remember_request,
    remember_response,
)

_FIELDS = rb"((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[^\x00-\x08\x0a-\x1f\x7f]*+\r\n)*+)\r\n"
_REQUEST = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]++) ([!-~\x80-\xff]++) HTTP/1\.([01])\r\n" + _FIELDS
)
_RESPONSE = re.compile(
    rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: ([^\x00-\x08\x0a-\x1f\x7f]*+))?\r\n" + _FIELDS
)
_LENGTH = re.compile(rb"[0-9]{1,18}")
_HOST = re.compile(rb"(?:[0-9A-Za-z._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_ABSOLUTE = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?#]+)([/?].*)?", re.DOTALL)
_NEVER_DROPPED = frozenset({b"host", b"content-length", b"transfer-encoding", b""})
"""What a Connection field may not take away: it frames or routes the message."""


def parse_request(data: bytes) -> tuple[RequestHead, int] | None:
    """The head at the start of `data`, and how many bytes it takes; None while it is incomplete.

    Raises:
        BadMessage: it is malformed, ambiguous or too long.
    """
    known = known_request(data)
    if known is not None:
        return known, len(data)
    match = _REQUEST.match(data)
    if match is None:
        if data.startswith(b"\r\n"):
            return _after_empty_line(data)
        refuse_no_request(data)
        return None
    if match.end() > MAX_HEAD:
        raise BadMessage(431, "the head is too long")
    method, target, minor, block = match.groups()
    head = RequestHead(method, target, 1 if minor == b"1" else 0)
    authority = b""
    if not target.startswith(b"/") or len(target) > MAX_TARGET or b"#" in target:
        authority = _unusual_target(head)
    fields = head.fields
    if block:
        _read_lines(head, block)
        if b"content-length" in fields or b"transfer-encoding" in fields:
            head.length = _request_length(head)
        if b"connection" in fields or b"proxy-connection" in fields:
            _connection(head)
        if b"expect" in fields:
            _expect(head)
    host = fields.get(b"host")
    if host is None:
        if head.minor == 1:
            raise BadMessage(400, "a request of HTTP/1.1 must have a Host")
    elif _HOST.fullmatch(host) is None and (host or head.minor == 1):
        raise BadMessage(400, "malformed Host")
    if authority:
        head.set(b"Host", authority)
    elif match.end() == len(data):
        remember_request(head, data)
    return head, match.end()


def parse_response(data: bytes, method: bytes) -> tuple[ResponseHead, int] | None:
    """The head at the start of `data`, and how many bytes it takes; None while it is incomplete.

    Args:
        data: what the server has sent.
        method: of the request that it answers: HEAD's answers have no body.

    Raises:
        BadMessage: it is malformed, ambiguous or too long.
    """
    if method != b"HEAD" and (known := known_response(data)) is not None:
        return known
    match = _RESPONSE.match(data)
    if match is None:
        refuse_no_head(data, 502)
        if len(data) >= 7 and not data.startswith((b"HTTP/1.0", b"HTTP/1.1"), 0, 8):
            raise BadMessage(502, "no answer of HTTP/1.0 or 1.1")
        return None
    minor, status, reason, block = match.groups()
    head = ResponseHead(1 if minor == b"1" else 0, int(status), reason or b"")
    fields = head.fields
    if block:
        _read_lines(head, block)
        if b"connection" in fields:
            _connection(head)
    code = head.status
    if method == b"HEAD" or code < 200 or code == 204 or code == 304:
        head.length = 0
    elif b"transfer-encoding" in fields:
        if fields[b"transfer-encoding"].lower() != b"chunked":
            raise BadMessage(502, "a transfer coding other than chunked")
        head.length = CHUNKED
        if b"content-length" in fields:
            # The coding wins, but who says both is not to be trusted with another request.
            head.remove(b"content-length")
            head.keep_alive = False
    elif (length := fields.get(b"content-length")) is not None:
        if _LENGTH.fullmatch(length) is None:
            raise BadMessage(502, "malformed Content-Length")
        head.length = int(length)
    else:
        head.keep_alive = False
    if method != b"HEAD":
        remember_response(head, data)
    return head, match.end()


_PLAIN, _HOP, _ONCE, _SMUGGLED = range(4)

_known: dict[bytes, tuple[bytes, bytes, int]] = {}
"""Lines that were read before.  Most lines of most messages are the same as those of others."""
_MOST_KNOWN: Final = 8192
_LONGEST_KNOWN: Final = 160
_PRIVATE = frozenset({b"cookie", b"set-cookie", b"authorization", b"proxy-authorization"})


def _read_line(line: bytes) -> tuple[bytes, bytes, int]:
    """A line's name in lower case, its value, and what is special about it."""
    name, _, value = line.partition(b":")
    name = name.lower()
    kind = _PLAIN
    if name in HOP_BY_HOP:
        kind = _HOP
    elif name in (b"content-length", b"host"):
        kind = _ONCE
    elif b"_" in name:
        # CGI and its heirs can't tell such a name from one with dashes.
        plain = name.replace(b"_", b"-")
        if plain in (b"content-length", b"transfer-encoding"):
            kind = _SMUGGLED
        elif plain in HOP_BY_HOP or plain in FORWARDED or plain == b"host":
            kind = _HOP
    read = (name, value.strip(b" \t"), kind)
    if len(line) <= _LONGEST_KNOWN and name not in _PRIVATE:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[line] = read
    return read


def _read_lines(head: RequestHead | ResponseHead, block: bytes) -> None:
    """Fill `lines`, `fields` and `hop`."""
    head.lines = lines = block[:-2].split(b"\r\n")
    if len(lines) > MAX_FIELDS:
        raise BadMessage(431, "too many fields")
    fields = head.fields
    known = _known.get
    for number, line in enumerate(lines):
        name, value, kind = known(line) or _read_line(line)
        if kind:
            if kind == _SMUGGLED:
                raise BadMessage(400, "a length with an underscore in its name")
            if kind == _HOP:
                head.hop.append(number)
        if name in fields:
            if kind == _ONCE or name == b"transfer-encoding":
                raise BadMessage(400, f"{name.decode()} is given twice")
            value = fields[name] + (b"; " if name == b"cookie" else b", ") + value
        fields[name] = value


def _request_length(head: RequestHead) -> int:
    fields = head.fields
    coding = fields.get(b"transfer-encoding")
    length = fields.get(b"content-length")
    if coding is not None:
        if length is not None:
            raise BadMessage(400, "both Content-Length and Transfer-Encoding")
        if head.minor == 0:
            raise BadMessage(400, "Transfer-Encoding in HTTP/1.0")
        if coding.lower() != b"chunked":
            raise BadMessage(501, "a transfer coding other than chunked")
        return CHUNKED
    if length is None or _LENGTH.fullmatch(length) is None:
        raise BadMessage(400, "malformed Content-Length")
    return int(length)


def _connection(head: RequestHead | ResponseHead) -> None:
    """What the Connection field says: about persistence, and about other fields."""
    fields = head.fields
    value = fields.get(b"connection", b"").lower()
    if value == b"keep-alive":
        head.keep_alive = True
        return
    if value == b"close":
        head.keep_alive = False
        return
    words = [word.strip(b" \t") for word in value.split(b",")]
    if b"close" in words:
        head.keep_alive = False
    elif b"keep-alive" in words:
        head.keep_alive = True
    if b"upgrade" in words and isinstance(head, RequestHead) and head.minor == 1:
        head.upgrade = fields.get(b"upgrade", b"")
    named = {word for word in words if word in fields} - HOP_BY_HOP - _NEVER_DROPPED
    if named:
        numbers = set(head.hop)
        for number, line in enumerate(head.lines):
            if line.partition(b":")[0].lower() in named:
                numbers.add(number)
        head.hop = sorted(numbers)


def _expect(head: RequestHead) -> None:
    if head.fields[b"expect"].lower() != b"100-continue":
        raise BadMessage(417, "an expectation other than 100-continue")
    # Of HTTP/1.0, or without a body, it means nothing.
    head.expects_continue = head.minor == 1 and head.length != 0


def _unusual_target(head: RequestHead) -> bytes:
    """Targets that are no path: brought into origin form, or refused.  Returns the authority."""
    target = head.target
    if len(target) > MAX_TARGET:
        raise BadMessage(414, "the target is too long")
    if b"#" in target:
        raise BadMessage(400, "a fragment in the target")
    if target.startswith(b"/") or (target == b"*" and head.method == b"OPTIONS"):
        return b""
    if head.method == b"CONNECT":
        raise BadMessage(405, "CONNECT is for forward proxies")
    match = _ABSOLUTE.fullmatch(target)
    if match is None or _HOST.fullmatch(match[1]) is None:
        raise BadMessage(400, "malformed target")
    path = match[2] or b"/"
    head.target = path if path.startswith(b"/") else b"/" + path
    authority: bytes = match[1]
    return authority


def _after_empty_line(data: bytes) -> tuple[RequestHead, int] | None:
    """One empty line before a request is tolerated, as RFC 9112 section 2.2 asks."""
    if data.startswith(b"\r\n\r\n"):
        raise BadMessage(400, "empty lines before the request")
    found = parse_request(data[2:]) if len(data) > 2 else None
    return None if found is None else (found[0], found[1] + 2)
