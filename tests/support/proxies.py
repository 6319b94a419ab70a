"""What tests of reverse proxies say over and over."""

from __future__ import annotations

from typing import Final

import pytest

from tests.support.perlbal import Node, proxy

KEPT: Final = "  SET persist_client = on\n  SET persist_backend = on\n"
"""Settings: connections on both sides stay."""
GET: Final = b"GET %b HTTP/1.1\r\nHost: a\r\n%b\r\n"
"""A request: its target, and further lines."""
BOTH = pytest.mark.parametrize("which", ["ours", "perlbal"])
"""A scenario for ours and for Debian's Perlbal."""


def using(plugin: str, node: Node, *lines: str, before: tuple[str, ...] = ()) -> str:
    """A reverse proxy that uses a plug-in, with lines before and behind that."""
    settings = "".join(f"  {line}\n" for line in (*before, f"SET plugins = {plugin}", *lines))
    return f"LOAD {plugin}\n" + proxy(node.address, settings=settings)
