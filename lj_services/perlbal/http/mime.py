"""MIME types by a file name's extension."""

from __future__ import annotations

import mimetypes
from pathlib import PurePath
from typing import Final

DEFAULT: Final = "text/plain"
"""What a file without a known extension is, as in the original."""

_NEWER: Final = {
    "js": "text/javascript",
    "json": "application/json",
    "mjs": "text/javascript",
    "webp": "image/webp",
    "avif": "image/avif",
    "woff": "font/woff",
    "woff2": "font/woff2",
    "svg": "image/svg+xml",
    "mp4": "video/mp4",
    "webm": "video/webm",
    "wasm": "application/wasm",
}

TYPES: dict[str, str] = {
    **{name[1:]: kind for name, kind in mimetypes.MimeTypes(filenames=()).types_map[1].items()},
    **_NEWER,
}
"""Type by extension, in lower case; MIME on the console changes it."""


def type_of(path: str) -> str:
    """The type of a file, by its name."""
    return TYPES.get(PurePath(path).suffix[1:].lower(), DEFAULT)
