"""A node's own answer, a file and a URL after each other, and parts of them: ours and Perlbal's.

The scenarios of the original's t/35-reproxy and t/40-ranges: one client keeps its connection
through every change from one way to another, however files are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest

from tests.support.perlbal import Answer, Balancer, Node, Talk, Which, echoing, proxy, starting
from tests.support.process import free_port, wait_for

pytestmark = pytest.mark.interop

AIO = pytest.mark.parametrize("aio", ["none", "ioaio"])
PHRASE = b"what is in the file, over and over\n"
CONTENT = PHRASE * 1000
SETTINGS = (
    "  SET persist_client = on\n  SET persist_backend = on\n  SET connect_ahead = 0\n"
    "  SET enable_reproxy = on\n  SET reproxy_cache_maxsize = 150\n"
)
# Perlbal 1.80 may hang after a response that names something and has a body of its own.
WAYS = {"node": "/node", "file": "/file?empty=1", "url": "/url?empty=1"}


@dataclass
class Rig:
    """A balancer before a node that names a file, or the URL at which `files` serves it."""

    which: Which
    balancer: Balancer
    node: Node
    files: int
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.files}/a.txt"


@pytest.fixture(scope="module", params=["ours", "perlbal"])
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    which: Which = request.param
    folder = tmp_path_factory.mktemp("ways")
    (folder / "a.txt").write_bytes(CONTENT)
    files = free_port()
    served = (
        f"CREATE SERVICE files\n  SET role = web_server\n  SET listen = 127.0.0.1:{files}\n"
        f"  SET docroot = {folder}\n  SET dirindexing = 0\n  SET persist_client = 1\n"
        "ENABLE files\n"
    )
    with echoing() as node, starting(folder) as start:
        balancer = start(served + proxy(node.address, settings=SETTINGS), which)
        made = Rig(which, balancer, node, files, folder)
        node.answer_fields["/file"] = [("X-REPROXY-FILE", str(folder / "a.txt"))]
        node.answer_fields["/url"] = [("X-REPROXY-URL", made.url)]
        yield made


def ask(talk: Talk, path: str, version: str, *lines: str) -> Answer:
    """Ask over a connection that is to be kept."""
    head = "".join(f"{line}\r\n" for line in ("Host: a", "Connection: keep-alive", *lines))
    return talk.ask(f"GET {path} HTTP/{version}\r\n{head}\r\n".encode())


@AIO
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_connection_is_kept_from_each_way_to_each(rig: Rig, version: str, aio: str) -> None:
    rig.balancer.command(f"SERVER aio_mode = {aio}")
    with rig.balancer.talk() as talk:
        for way in (way for pair in product(WAYS, WAYS) for way in pair):
            answer = ask(talk, WAYS[way], version)
            assert answer.status == 200
            assert answer.whole
            if way == "node":
                assert answer.json["path"] == "/node"
            else:
                assert answer.body == CONTENT
            assert not any(name.startswith("x-reproxy") for name in answer.fields)


def test_what_is_remembered_is_forgotten_in_time(rig: Rig) -> None:
    fields = [("X-REPROXY-URL", rig.url), ("X-REPROXY-CACHE-FOR", "2")]
    rig.node.answer_fields["/remembered"] = fields

    def asked() -> int:
        return rig.node.seen().count("/remembered?empty=1")

    with rig.balancer.talk() as talk:
        assert ask(talk, "/remembered?empty=1", "1.0").body == CONTENT
        assert ask(talk, "/remembered?empty=1", "1.0").body == CONTENT
        assert asked() == 1
        wait_for(
            lambda: ask(talk, "/remembered?empty=1", "1.0").body == CONTENT and asked() == 2,
            "the node to be asked again",
            every_s=0.1,
        )
        assert ask(talk, "/remembered?empty=1", "1.0").body == CONTENT
        assert asked() == 2


def test_a_connection_is_kept_when_the_first_url_is_dead(rig: Rig) -> None:
    dead = f"http://127.0.0.1:{free_port()}/a.txt"
    rig.node.answer_fields["/list"] = [("X-REPROXY-URL", f"{dead} {rig.url}")]
    with rig.balancer.talk() as talk:
        for path in ("/list?empty=1", WAYS["file"], "/list?empty=1", WAYS["url"]):
            assert ask(talk, path, "1.0").body == CONTENT


@AIO
@pytest.mark.parametrize("way", ["direct", "file", "url"])
def test_parts(rig: Rig, way: str, aio: str) -> None:
    rig.balancer.command(f"SERVER aio_mode = {aio}")
    direct = way == "direct"
    port, path = (rig.files, "/a.txt") if direct else (rig.balancer.port, WAYS[way])
    size = len(CONTENT)
    with Talk(port) as talk:
        for text, first, behind in (
            ("0-6", 0, 7),
            (f"{len(PHRASE)}-", len(PHRASE), size),
            (f"{size - 5}-{size + 5}", size - 5, size),
        ):
            answer = ask(talk, path, "1.0", f"Range: bytes={text}")
            assert answer.status == 206, text
            assert answer.body == CONTENT[first:behind]
            assert answer.fields["content-range"] == f"bytes {first}-{behind - 1}/{size}"
        behind_it = ask(talk, path, "1.0", f"Range: bytes={size}-")
        assert behind_it.status == 416
        if rig.which == "ours":
            assert behind_it.fields["connection"] == "keep-alive"
            assert ask(talk, path, "1.0").body == CONTENT
    with Talk(port) as talk:
        backwards = ask(talk, path, "1.0", "Range: bytes=5-1")
        if rig.which == "ours":
            # RFC 9110, 14.1.1: it means nothing, and is not looked at.
            assert (backwards.status, backwards.body) == (200, CONTENT)
        else:
            assert backwards.status == 416
