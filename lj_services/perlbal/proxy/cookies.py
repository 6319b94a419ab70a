"""Cookies of requests.

Source: RFC 6265 section 5.4.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from lj_services.perlbal.http.head import RequestHead


def values(request: RequestHead, name: str) -> Iterator[bytes]:
    """What a request's cookies of this name hold; names are case-sensitive."""
    cookies = request.fields.get(b"cookie")
    if cookies is None:
        return
    wanted = name.encode()
    for pair in cookies.split(b";"):
        found, _, value = pair.strip(b" \t").partition(b"=")
        if found == wanted:
            yield value


def has_cookie(request: RequestHead, name: str, contents: re.Pattern[bytes] | None) -> bool:
    """Whether a request has a cookie of this name, with `contents` in it unless that is None."""
    return any(contents is None or contents.search(value) for value in values(request, name))
