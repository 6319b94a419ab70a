"""Bodies of requests, put to the disk or not: through ours and through Debian's Perlbal.

Where Perlbal's file is in the folder, ours has no name: nothing is ever seen there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.perlbal import Balancer, Node, Which, echoing, proxy, starting
from tests.support.process import wait_for
from tests.support.proxies import BOTH

pytestmark = pytest.mark.interop

SETTINGS = """  SET persist_client = on
  SET persist_backend = on
  SET buffer_uploads = on
  SET buffer_uploads_path = {folder}
"""


@dataclass
class Uploading:
    """A balancer of each kind that puts uploads to the disk, and tells nodes why."""

    balancers: dict[Which, Balancer]
    folders: dict[Which, Path]
    node: Node

    def thresholds(self, which: Which, *, size: int = 0, rate: int = 0, time: int = 0) -> None:
        """What is put to the disk from now on."""
        for name, value in (("size", size), ("rate", rate), ("time", time)):
            line = f"SET web.buffer_upload_threshold_{name} = {value}"
            assert self.balancers[which].command(line) == ["OK"]

    def on_disk(self, which: Which) -> bool:
        """Whether an upload is there at the moment."""
        if which == "perlbal":
            return any(self.folders[which].iterdir())
        assert not any(self.folders[which].iterdir())
        return any("; spooled" in line for line in self.balancers[which].command("socks"))


@pytest.fixture(scope="module")
def uploading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Uploading]:
    folder = tmp_path_factory.mktemp("uploading")
    balancers: dict[Which, Balancer] = {}
    folders: dict[Which, Path] = {}
    with pytest.MonkeyPatch.context() as patch, echoing() as node, starting(folder) as start:
        patch.setenv("PERLBAL_DEBUG_BUFFERED_UPLOADS", "1")
        which: Which
        for which in ("ours", "perlbal"):
            spool = folders[which] = folder / f"spool-{which}"
            spool.mkdir()
            config = proxy(node.address, settings=SETTINGS.format(folder=spool))
            balancers[which] = start("SERVER aio_mode = none\n" + config, which)
        yield Uploading(balancers, folders, node)


def why(told: dict[str, list[list[str]]]) -> str:
    """The reason that the node was told."""
    fields = {name.lower(): value for name, value in told["headers"]}
    return fields.get("x-perlbal-buffered-upload-reason", "")


def head(path: str, size: int) -> bytes:
    return f"POST {path} HTTP/1.0\r\nContent-Length: {size}\r\n\r\n".encode()


@BOTH
def test_what_is_as_large_as_the_threshold_goes_to_the_disk(
    which: Which, uploading: Uploading
) -> None:
    uploading.thresholds(which, size=400_000)
    with uploading.balancers[which].talk() as talk:
        talk.send(head(f"/size-{which}", 500_000) + b"x" * 400_000)
        wait_for(lambda: uploading.on_disk(which), "the upload on the disk")
        assert f"/size-{which}" not in uploading.node.seen("POST")
        talk.send(b"x" * 100_000)
        told = talk.read().json
    assert (len(told["body"]), why(told)) == (500_000, "size")
    wait_for(lambda: not uploading.on_disk(which), "the file to be gone")
    with uploading.balancers[which].talk() as talk:
        told = talk.ask(head("/below", 350_000) + b"x" * 350_000).json
    assert (len(told["body"]), why(told)) == (350_000, "")


@BOTH
def test_thresholds_of_nothing_put_nothing_to_the_disk(which: Which, uploading: Uploading) -> None:
    uploading.thresholds(which)
    with uploading.balancers[which].talk() as talk:
        told = talk.ask(head("/none", 500_000) + b"x" * 500_000).json
    assert (len(told["body"]), why(told)) == (500_000, "")


@BOTH
@pytest.mark.parametrize(
    ("reason", "threshold"), [("rate", {"rate": 10_000_000}), ("time", {"time": 1})]
)
def test_slow_uploads_go_to_the_disk(
    which: Which, reason: str, threshold: dict[str, int], uploading: Uploading
) -> None:
    """Perlbal looks once 100,000 bytes have come, ours from the first second on."""
    uploading.thresholds(which, **threshold)
    path = f"/slow-{reason}-{which}"
    with uploading.balancers[which].talk() as talk:
        talk.send(head(path, 1_000_000) + b"x" * 90_000)
        sent = 90_000

        def more() -> bool:
            nonlocal sent
            talk.send(b"x" * 1000)
            sent += 1000
            return uploading.on_disk(which)

        wait_for(more, "the upload on the disk", every_s=0.15)
        assert path not in uploading.node.seen("POST")
        talk.send(b"x" * (1_000_000 - sent))
        told = talk.read().json
    assert (len(told["body"]), why(told)) == (1_000_000, reason)


@BOTH
def test_an_upload_that_is_broken_off_leaves_no_file(which: Which, uploading: Uploading) -> None:
    uploading.thresholds(which, size=1)
    path = f"/broken-{which}"
    with uploading.balancers[which].talk() as talk:
        talk.send(head(path, 500_000) + b"x" * 400_000)
        wait_for(lambda: uploading.on_disk(which), "the upload on the disk")
    wait_for(lambda: not uploading.on_disk(which), "the file to be gone")
    assert path not in uploading.node.seen("POST")


@BOTH
def test_chunks_reach_the_node_with_their_length(which: Which, uploading: Uploading) -> None:
    """Perlbal takes them in requests of HTTP/1.0, too; ours refuses what means nothing there."""
    with uploading.balancers[which].talk() as talk:
        fields = b"Host: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
        talk.send(b"POST /chunks HTTP/1.1\r\n" + fields)
        assert talk.read().status == 100
        for size in (500, 5, 5, 5, 100_000):
            talk.send(b"%x\r\n%b\r\n" % (size, b"x" * size))
        wait_for(lambda: uploading.on_disk(which), "the upload on the disk")
        talk.send(b"3\r\nend\r\n0\r\n\r\n")
        told = talk.read().json
    assert told["body"] == "x" * 100_515 + "end"
    seen = {name.lower(): value for name, value in told["headers"]}
    assert seen["content-length"] == "100518"
    wait_for(lambda: not uploading.on_disk(which), "the file to be gone")
    if which == "ours":
        with uploading.balancers[which].talk() as talk:
            talk.send(b"POST /old HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
            assert talk.read().status == 400


@BOTH
def test_an_empty_body_in_chunks_does_no_harm(which: Which, uploading: Uploading) -> None:
    with uploading.balancers[which].talk() as talk:
        talk.send(b"POST /empty HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        if which == "ours":  # Perlbal goes on waiting
            assert talk.read().json["body"] == ""
    with uploading.balancers[which].talk() as talk:
        assert talk.ask(head("/after", 2) + b"ok").json["body"] == "ok"


MODES = {
    "passed on": ("SET web.buffer_uploads = off", "SET web.buffer_backend_connect = 0"),
    "in memory": ("SET web.buffer_uploads = off", "SET web.buffer_backend_connect = 250000"),
    "on the disk": ("SET web.buffer_uploads = on", "SET web.buffer_upload_threshold_size = 1"),
}


@BOTH
@pytest.mark.parametrize("mode", MODES)
def test_posts_on_one_connection_use_one_connection_to_the_node(
    which: Which, mode: str, uploading: Uploading
) -> None:
    """Whether or not the client ends a body with a line end that it has not counted."""
    balancer = uploading.balancers[which]
    for line in MODES[mode]:
        assert balancer.command(line) == ["OK"]
    post = b"POST /real HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 7\r\n\r\n"
    used = set()
    with balancer.talk() as talk:
        for extra in (b"", b"\r\n", b"\r\n", b""):
            answer = talk.ask(post + b"foo=bar" + extra)
            assert answer.fields["connection"].lower() == "keep-alive"
            assert answer.json["body"] == "foo=bar"
            used.add(answer.json["connection"])
        talk.send(post)
        wait_for(lambda: any("/real" in row for row in balancer.command("socks")), "the head")
        talk.send(b"foo=bar")
        used.add(talk.read().json["connection"])
    assert len(used) == 1
