"""Small responses that the balancer makes itself: errors, redirects, pages."""

from __future__ import annotations

import html
import time
from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from typing import Final

SERVER: Final = b"Server: Perlbal\r\n"

_SAID: Final = {
    400: "Your browser has sent a request that could not be understood.",
    403: "You are not allowed to see this page.",
    404: "There is nothing at this address.",
    405: "This can't be done with what is at this address.",
    408: "The request took too long to arrive.",
    413: "What you have sent is too large.",
    500: "Something has gone wrong here.  Please try again later.",
    502: "The server behind this site has given no proper answer.  Please try again.",
    503: "The site is busy or down for a moment.  Please try again shortly.",
    504: "The server behind this site has taken too long.  Please try again later.",
}


def reason(status: int) -> str:
    """The words that go with a status code."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Status"


def error_page(status: int, why: str = "") -> bytes:
    """A page that says what is wrong, for people.

    Args:
        status: 400 to 599.
        why: the particular reason; it is escaped.
    """
    title = f"{status} - {reason(status)}"
    said = _SAID.get(status, "")
    text = "".join(f"<p>{html.escape(each)}</p>\n" for each in (said, why) if each)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        "<style>body{font:16px/1.5 sans-serif;max-width:40em;margin:3em auto;padding:0 1em}"
        f"</style></head>\n<body><h1>{title}</h1>\n{text}</body></html>\n"
    ).encode()


def own_page(folder: Path | None, status: int) -> bytes | None:
    """The operator's page for an error, if there is one; looked at each time."""
    if folder is None:
        return None
    try:
        return (folder / f"{status}.html").read_bytes()
    except OSError:
        return None


def head(status: int, fields: Iterable[tuple[str, str]]) -> bytes:
    """A status line and fields, without the empty line behind them.

    Raises:
        ValueError: a field has a control character: it would become another field.
    """
    lines = [f"HTTP/1.1 {status} {reason(status)}\r\n"]
    for name, value in fields:
        if not value.isprintable() and any(ord(char) < 32 or ord(char) == 127 for char in value):
            raise ValueError(f"control characters in {name}")
        lines.append(f"{name}: {value}\r\n")
    return "".join(lines).encode("latin-1", "replace")


def connection_field(keep_alive: bool, minor: int) -> bytes:
    """The Connection field that an answer to a client of HTTP/1.`minor` needs, and its end."""
    if not keep_alive:
        return b"Connection: close\r\n\r\n"
    return b"\r\n" if minor else b"Connection: keep-alive\r\n\r\n"


_date = (0, b"")


def date_field() -> bytes:
    """The Date field of this second."""
    global _date
    now = int(time.time())
    if _date[0] != now:
        _date = (now, f"Date: {formatdate(now, usegmt=True)}\r\n".encode())
    return _date[1]
