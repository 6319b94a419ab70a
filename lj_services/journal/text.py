"""Text of users: plain, cleaned on the way in, made HTML on the way out.

What users write is plain text, unless they say that a post is HTML (see `cleaning`).
`clean` is applied once, when a form comes in; `to_html` escapes everything, and makes
paragraphs and links of the rest.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from markupsafe import Markup, escape

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_URL = re.compile(r"https?://[^\s<>\"“”‘’]{1,2000}", re.IGNORECASE)
_PARAGRAPHS = re.compile(r"\n[ \t]*\n\s*")
_BREAKS = re.compile(r"<(?:br|/?(?:p|div|li|tr|h[3-6]|blockquote|pre|ul|ol|table|hr))\b[^>]*>")
_MANY_LINES = re.compile(r"\n\s*\n\s*")
_TAGS = re.compile(r"<[^>]*>|<[^>]*$|&[#\w]{0,8}$")
_CLOSERS = ((")", "("), ("]", "["), ("}", "{"))


def clean(text: str, *, lines: bool = False) -> str:
    """Text as it is stored: no control characters, ``\\n`` for line ends, no outer spaces.

    Args:
        text: as the browser sent it.
        lines: whether it may have several lines; otherwise white space becomes one space.
    """
    text = _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return text.strip() if lines else " ".join(text.split())


def to_html(text: str) -> Markup:
    """Paragraphs at empty lines, line breaks at line ends, links at http(s) addresses."""
    parts = (part for part in _PARAGRAPHS.split(text.strip()) if part)
    return Markup("\n").join(Markup("<p>") + _inline(part) + Markup("</p>") for part in parts)


def plain(cleaned: str) -> str:
    """The words of HTML that was cleaned, also of its beginning alone, as plain text."""
    words = html.unescape(_TAGS.sub("", _BREAKS.sub("\n\n", cleaned)))
    return _MANY_LINES.sub("\n\n", words).strip()


def excerpt(text: str, length: int) -> tuple[str, bool]:
    """The beginning of `text`, cut between words, and whether anything was cut off."""
    if len(text) <= length:
        return text, False
    cut = text[:length]
    space = max(cut.rfind(" "), cut.rfind("\n"))
    return (cut[:space] if space > length // 2 else cut).rstrip() + " …", True


def _inline(text: str) -> Markup:
    return Markup("").join(_pieces(text))


def _pieces(text: str) -> Iterator[Markup]:
    end = 0
    for match in _URL.finditer(text):
        url = _without_trailing_punctuation(match[0])
        if "//" not in url or url.endswith("//"):
            continue
        yield _lines(text[end : match.start()])
        safe = escape(url)
        yield Markup(f'<a href="{safe}" rel="nofollow ugc noopener noreferrer">{safe}</a>')  # noqa: S704
        end = match.start() + len(url)
    yield _lines(text[end:])


def _lines(text: str) -> Markup:
    return Markup(str(escape(text)).replace("\n", "<br>\n"))  # noqa: S704


def _without_trailing_punctuation(url: str) -> str:
    """An address without the full stop of its sentence, and without an unmatched bracket."""
    unmatched = {closer: url.count(closer) - url.count(opener) for closer, opener in _CLOSERS}
    end = len(url)
    while end:
        last = url[end - 1]
        if unmatched.get(last, 0) > 0:
            unmatched[last] -= 1
        elif last not in ".,;:!?'*_~":
            break
        end -= 1
    return url[:end]
