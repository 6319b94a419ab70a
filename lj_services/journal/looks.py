"""How things look in templates: times, user pictures, texts."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from functools import cache, lru_cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lj_services.journal import config
from lj_services.journal.text import to_html

_HUES = ("#b5523b", "#3b6ea5", "#5b7f3a", "#8a5a9e", "#b07d2b", "#2f8583", "#a34a6e", "#5d5f9e")
_SIZE = 5
# What stands in the name that a browser gives itself, and what people call it.  Most claim to
# be older ones as well: the first that is found counts.
_BROWSERS = (
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"),
    ("Chrome/", "Chrome"),
    ("CriOS/", "Chrome"),
    ("Safari/", "Safari"),
    ("curl/", "curl"),
)
_SYSTEMS = (
    ("Android", "Android"),
    ("iPhone", "an iPhone"),
    ("iPad", "an iPad"),
    ("Windows", "Windows"),
    ("Macintosh", "a Mac"),
    ("CrOS", "a Chromebook"),
    ("Linux", "Linux"),
)


@cache
def environment() -> Environment:
    """The site's templates, compiled once in a process.

    Everything is escaped; a name that is not there is an error.
    """
    made = Environment(
        loader=PackageLoader("lj_services.journal"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(body=to_html, when=when, day=day, iso=iso, picture=picture, browser=browser)
    made.globals.update(limits=config)
    return made


def _utc(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def when(ms: int) -> str:
    """``21 March 2007, 14:05``"""
    moment = _utc(ms)
    return f"{moment.day} {moment:%B %Y, %H:%M}"


def day(ms: int) -> str:
    """``21 March 2007``"""
    moment = _utc(ms)
    return f"{moment.day} {moment:%B %Y}"


def iso(ms: int) -> str:
    """For ``<time datetime>``."""
    return _utc(ms).isoformat(timespec="seconds")


def browser(user_agent: str) -> str:
    """``Firefox on Linux``, of what a browser calls itself (RFC 9110, User-Agent)."""
    name = next((name for mark, name in _BROWSERS if mark in user_agent), "A browser")
    system = next((name for mark, name in _SYSTEMS if mark in user_agent), None)
    return name if system is None else f"{name} on {system}"


@lru_cache(maxsize=4096)
def picture(name: str) -> Markup:
    """A user's picture: a small symmetric mosaic that is always the same for a name."""
    digest = hashlib.sha256(name.encode()).digest()
    hue = _HUES[digest[0] % len(_HUES)]
    half = _SIZE // 2 + 1
    cells = []
    for row in range(_SIZE):
        for column in range(half):
            if digest[1 + row * half + column] % 5 < 3:
                cells.append(f"M{column + 1} {row + 1}h1v1h-1z")
                if column != _SIZE - 1 - column:
                    cells.append(f"M{_SIZE - column} {row + 1}h1v1h-1z")
    return Markup(  # noqa: S704 - made of numbers and constants
        f'<svg class="picture" viewBox="0 0 7 7" aria-hidden="true" shape-rendering="crispEdges">'
        f'<rect width="7" height="7" rx="1" fill="{hue}" opacity=".18"/>'
        f'<path fill="{hue}" d="{"".join(cells)}"/></svg>'
    )
