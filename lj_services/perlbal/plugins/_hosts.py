"""Hosts as requests name them, and as patterns of plug-ins mean them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

PATTERN: Final = re.compile(r"\*|(?:\*\.)?[\w.-]+")
"""``www.example.com``, ``*.example.com``, ``*``."""
_PORT = re.compile(r":\d*$")


def bare(host: bytes) -> str:
    """A Host field's value without port, dot at the end, and capitals."""
    return _PORT.sub("", host.decode("latin-1").lower()).rstrip(".")


def patterns(host: str) -> Iterator[str]:
    """What a host may be written as, the most particular first."""
    if host:
        yield host
        labels = host.split(".")
        for start in range(len(labels)):
            yield "*." + ".".join(labels[start:])
    yield "*"


def find(host: bytes, table: Mapping[str, str]) -> str | None:
    """What the most particular pattern of `table` that means `host` stands for."""
    for pattern in patterns(bare(host)):
        if (found := table.get(pattern)) is not None:
            return found
    return None
