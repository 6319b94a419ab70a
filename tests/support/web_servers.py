"""Web servers of both kinds, each with a folder of the same files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.perlbal import Answer, Balancer, Talk, Which, starting


@dataclass
class Site:
    """The servers, and what they serve; `version` of HTTP is what they are asked in."""

    balancers: dict[Which, Balancer]
    folders: dict[Which, Path]
    version: str

    def ask(self, which: Which, method: str, target: str, *lines: str, body: bytes = b"") -> Answer:
        """One request over a connection of its own."""
        usual = ("Host: a", "Connection: close") if self.version == "1.1" else ()
        head = "".join(f"{line}\r\n" for line in (*usual, *lines))
        with Talk(self.balancers[which].port) as talk:
            talk.send(f"{method} {target} HTTP/{self.version}\r\n{head}\r\n".encode() + body)
            return talk.read(method)

    def get(self, which: Which, target: str, *lines: str) -> Answer:
        """One GET."""
        return self.ask(which, "GET", target, *lines)

    def put(self, which: Which, target: str, body: bytes, *lines: str) -> int:
        """One PUT; its status."""
        length = f"Content-Length: {len(body)}"
        return self.ask(which, "PUT", target, length, *lines, body=body).status

    def stores(self, which: Which, target: str, body: bytes, *lines: str) -> bool:
        """Whether a PUT is taken."""
        return self.put(which, target, body, *lines) in (200, 201)


@contextmanager
def web_servers(
    base: Path, fill: Callable[[Path], None], settings: str = "", version: str = "1.1"
) -> Iterator[Site]:
    """Both servers, for the length of the block.

    Args:
        base: an empty folder.
        fill: puts files into a folder that is to be served.
        settings: further lines under the service.
        version: of HTTP.
    """
    balancers: dict[Which, Balancer] = {}
    folders: dict[Which, Path] = {}
    with starting(base) as start:
        which: Which
        for which in ("ours", "perlbal"):
            root = folders[which] = base / which
            root.mkdir()
            fill(root)
            balancers[which] = start(
                "SERVER aio_mode = none\nCREATE SERVICE files\n  SET role = web_server\n"
                f"  SET docroot = {root}\n  SET listen = 127.0.0.1:PORT\n"
                "  SET persist_client = on\n  SET enable_put = on\n  SET enable_delete = on\n"
                f"  SET enable_concatenate_get = on\n{settings}ENABLE files\n",
                which,
            )
        yield Site(balancers, folders, version)
