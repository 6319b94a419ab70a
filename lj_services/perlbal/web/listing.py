"""A folder as a page: names, sizes, dates; links that work whatever the names are."""

from __future__ import annotations

import html
import os
import time
from urllib.parse import quote

MOST_NAMES = 10_000
"""Names beyond which a page says that there are more."""


def page(path: str, shown: str) -> bytes:
    """The page of a folder; waits for the disk.

    Args:
        path: of the folder.
        shown: what it is called in the page.

    Raises:
        OSError: it can't be read.
    """
    rows = []
    with os.scandir(path) as entries:
        for number, entry in enumerate(entries):
            if number >= MOST_NAMES:
                break
            if not entry.name.startswith("."):
                rows.append(_row(entry))
    rows.sort()
    more = "<p>There are more.</p>\n" if len(rows) >= MOST_NAMES else ""
    title = html.escape(f"Index of {shown}")
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        "<style>body{font:15px sans-serif;margin:2em}td{padding-right:2em}</style></head>\n"
        f'<body><h1>{title}</h1><table>\n<tr><td><a href="../">../</a></td></tr>\n'
        f"{''.join(text for _, text in rows)}</table>\n{more}</body></html>\n"
    ).encode("utf-8", "surrogateescape")


def _row(entry: os.DirEntry[str]) -> tuple[tuple[bool, str], str]:
    """The sorting key and the row of one name."""
    folder = False
    size = date = ""
    try:
        folder = entry.is_dir()
        status = entry.stat()
        date = time.strftime("%Y-%m-%d %H:%M", time.gmtime(status.st_mtime))
        size = "" if folder else f"{status.st_size:,}"
    except OSError:
        date = "?"
    name = entry.name + ("/" if folder else "")
    link = quote(name, errors="surrogateescape")
    text = html.escape(name)
    row = f'<tr><td><a href="./{link}">{text}</a></td><td>{size}</td><td>{date}</td></tr>\n'
    return (not folder, name), row
