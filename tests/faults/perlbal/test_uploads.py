"""Uploads on the disk: whole before a node hears of them; no room, clients that go, slow ones."""

from __future__ import annotations

import contextlib
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lj_services.perlbal.parameters import Parameters
from lj_services.perlbal.proxy.spool import reason
from tests.support.perlbal import Balancer, Node, Start, get, proxy, starting
from tests.support.process import wait_for

pytestmark = pytest.mark.faults

SIZE = 3 << 20
BODY = bytes(range(32, 127)) * (SIZE // 95)
POST = b"POST %b HTTP/1.1\r\nHost: a\r\n%b\r\n"


def length(size: int) -> bytes:
    return b"Content-Length: %d\r\n" % size


def settings(folder: Path, more: str = "") -> str:
    return (
        "  SET persist_client = on\n  SET persist_backend = on\n  SET buffer_uploads = on\n"
        f"  SET buffer_uploads_path = {folder}\n{more}"
    )


@pytest.fixture(scope="module")
def spooling(tmp_path_factory: pytest.TempPathFactory, node: Node) -> Iterator[Balancer]:
    """A proxy that spools; tests leave it as it was."""
    folder = tmp_path_factory.mktemp("spooling")
    (folder / "spool").mkdir()
    with starting(folder) as start:
        yield start(proxy(node.address, settings=settings(folder / "spool")))


def spooled(balancer: Balancer) -> bool:
    return any("; spooled" in line for line in balancer.command("socks"))


def open_files(balancer: Balancer) -> int:
    """Files without a name that the balancer has open."""
    found = 0
    for file in Path(f"/proc/{balancer.running.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed in the meantime
            found += "(deleted)" in str(file.readlink())
    return found


def test_a_large_upload_is_whole_before_a_node_hears_of_it(spooling: Balancer, node: Node) -> None:
    with spooling.talk() as talk:
        talk.send(POST % (b"/large", length(len(BODY))) + BODY[:-1])
        wait_for(lambda: spooled(spooling), "the upload to be spooled")
        wait_for(lambda: open_files(spooling) == 1, "the file")  # a thread opens it
        assert "/large" not in node.seen("POST")
        talk.send(BODY[-1:])
        answer = talk.read()
        assert answer.json["body"].encode() == BODY
        # Both connections can be used again, however fast the node answers.
        for _ in range(10):
            again = talk.ask(POST % (b"/again", length(len(BODY))) + BODY)
            assert again.json["body"].encode() == BODY
            assert again.json["connection"] == answer.json["connection"]
    wait_for(lambda: open_files(spooling) == 0, "the files to be gone")


def test_chunks_reach_the_node_as_a_whole(spooling: Balancer) -> None:
    with spooling.talk() as talk:
        talk.send(POST % (b"/chunks", b"Transfer-Encoding: chunked\r\n") + b"5\r\nhello\r\n")
        wait_for(lambda: spooled(spooling), "the upload to be spooled")
        talk.send(b"6\r\n world\r\n0\r\n\r\n")
        answer = talk.read().json
    fields = {name.lower(): value for name, value in answer["headers"]}
    assert answer["body"] == "hello world"
    assert fields["content-length"] == "11"
    assert "transfer-encoding" not in fields


def test_small_uploads_are_not_put_to_disk(spooling: Balancer) -> None:
    with spooling.talk() as talk:
        talk.send(POST % (b"/small", length(6)) + b"abc")
        wait_for(lambda: any("/small" in line for line in spooling.command("socks")), "the request")
        assert not spooled(spooling)
        talk.send(b"def")
        assert talk.read().json["body"] == "abcdef"


def test_a_client_that_goes_leaves_nothing(spooling: Balancer, node: Node) -> None:
    with spooling.talk() as talk:
        talk.send(POST % (b"/gone", length(len(BODY))) + BODY[: SIZE // 2])
        wait_for(lambda: open_files(spooling) == 1, "the file")
    wait_for(lambda: open_files(spooling) == 0, "the file to be gone")
    assert "/gone" not in node.seen("POST")
    assert get(spooling.port, "/after").status == 200


def test_a_slow_upload_is_put_to_disk(start_balancer: Start, tmp_path: Path, node: Node) -> None:
    folder = tmp_path / "spool"
    folder.mkdir()
    more = "  SET buffer_upload_threshold_rate = 1000000000\n"
    balancer = start_balancer(proxy(node.address, settings=settings(folder, more)))
    with balancer.talk() as talk:
        body = b""
        talk.send(POST % (b"/slow", length(10_000)))

        def more_of_it() -> bool:
            nonlocal body
            talk.send(b"x")
            body += b"x"
            return spooled(balancer)

        wait_for(more_of_it, "the upload to be spooled", every_s=0.1)
        assert "/slow" not in node.seen("POST")
        rest = b"y" * (10_000 - len(body))
        talk.send(rest)
        assert talk.read().json["body"].encode() == body + rest


@pytest.mark.parametrize("chunked", [False, True])
def test_without_room_the_client_is_told_and_no_node_hears_of_it(
    start_balancer: Start, tmp_path: Path, node: Node, chunked: bool
) -> None:
    folder = tmp_path / "spool"
    folder.mkdir()
    balancer = start_balancer(proxy(node.address, settings=settings(folder)))
    # The system refuses to let a file grow beyond this, as a full disk does.
    most = 1 << 20
    resource.prlimit(balancer.running.pid, resource.RLIMIT_FSIZE, (most, most))
    with balancer.talk() as talk:
        if chunked:
            talk.send(POST % (b"/full", b"Transfer-Encoding: chunked\r\n"))
            talk.send(b"%x\r\n%b\r\n" % (most + 1, BODY[: most + 1]))
        else:
            talk.send(POST % (b"/full", length(len(BODY))) + BODY[: most + 1])
        assert talk.read().status == 507
    wait_for(lambda: open_files(balancer) == 0, "the file to be gone")
    assert "/full" not in node.seen("POST")
    assert "make room in buffer_uploads_path" in balancer.running.output
    with balancer.talk() as talk:
        small = POST % (b"/fits", b"Transfer-Encoding: chunked\r\n") + b"2\r\nok\r\n0\r\n\r\n"
        assert talk.ask(small).json["body"] == "ok"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of 2 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "lj-small-disk", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_refuses_what_does_not_fit_and_disturbs_nobody_else(
    start_balancer: Start, small_disk: Path, node: Node
) -> None:
    balancer = start_balancer(proxy(node.address, settings=settings(small_disk)))
    fits = BODY[: 1 << 20]
    with balancer.talk() as other, balancer.talk() as small, balancer.talk() as large:
        other.send(POST % (b"/other", length(len(fits))) + fits[:-1])
        wait_for(lambda: open_files(balancer) == 1, "the first file")
        small.send(POST % (b"/small", length(9)) + b"in ")
        large.send(POST % (b"/too-large", length(len(BODY))) + BODY)
        answer = large.read()
        assert (answer.status, answer.whole) == (507, True)
        assert large.closed
        wait_for(lambda: open_files(balancer) == 1, "the second file to be gone")
        other.send(fits[-1:])
        assert other.read().json["body"].encode() == fits
        small.send(b"memory")
        assert small.read().json["body"] == "in memory"
        # There is room again.
        again = other.ask(POST % (b"/again", length(len(fits))) + fits)
        assert again.json["body"].encode() == fits
    wait_for(lambda: open_files(balancer) == 0, "the files to be gone")
    assert list(small_disk.iterdir()) == []
    assert "/too-large" not in node.seen("POST")
    wait_for(lambda: shutil.disk_usage(small_disk).used == 0, "the room to be given back")


def test_all_uploads_together_may_take_so_much_and_no_more(
    start_balancer: Start, tmp_path: Path, node: Node
) -> None:
    folder = tmp_path / "spool"
    folder.mkdir()
    more = "  SET buffer_uploads_limit = 4m\n"
    balancer = start_balancer(proxy(node.address, settings=settings(folder, more)))
    chunked = POST % (b"/chunked", b"Transfer-Encoding: chunked\r\n")
    with balancer.talk() as first, balancer.talk() as second, balancer.talk() as third:
        first.send(POST % (b"/first", length(len(BODY))) + BODY[:-1])
        wait_for(lambda: spooled(balancer), "the upload to be spooled")
        # What was told to come counts, though it has not come yet.
        second.send(POST % (b"/second", length(len(BODY))) + BODY[:1000])
        assert second.read().status == 503
        half = BODY[: SIZE // 2]
        third.send(chunked + b"%x\r\n%b\r\n" % (len(half), half))
        assert third.read().status == 503
        first.send(BODY[-1:])
        assert first.read().json["body"].encode() == BODY
        again = first.ask(POST % (b"/again", length(len(BODY))) + BODY)
        assert again.json["body"].encode() == BODY
    assert {"/second", "/chunked"}.isdisjoint(node.seen("POST"))
    wait_for(lambda: open_files(balancer) == 0, "the files to be gone")


def test_a_kill_leaves_nothing_of_a_put(start_balancer: Start, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    balancer = start_balancer(
        f"CREATE SERVICE web\n  SET role = web_server\n  SET docroot = {root}\n"
        "  SET listen = 127.0.0.1:PORT\n  SET enable_put = on\nENABLE web\n"
    )
    put = b"PUT /new HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(BODY)
    with balancer.talk() as talk:
        talk.send(put + BODY[: SIZE // 2])
        wait_for(lambda: open_files(balancer) == 1, "the file")
        assert list(root.iterdir()) == []
        balancer.running.kill()
    assert list(root.iterdir()) == []


def test_a_kill_leaves_no_file(start_balancer: Start, tmp_path: Path, node: Node) -> None:
    folder = tmp_path / "spool"
    folder.mkdir()
    balancer = start_balancer(proxy(node.address, settings=settings(folder)))
    with balancer.talk() as talk:
        talk.send(POST % (b"/killed", length(len(BODY))) + BODY[: SIZE // 2])
        wait_for(lambda: open_files(balancer) == 1, "the file")
        balancer.running.kill()
    assert list(folder.iterdir()) == []


def _parameters(**values: object) -> Parameters:
    parameters = Parameters()
    parameters.buffer_uploads = True
    parameters.buffer_uploads_path = Path()
    for name, value in values.items():
        setattr(parameters, name, value)
    return parameters


@pytest.mark.parametrize(
    ("values", "length_", "size", "elapsed_s", "expected"),
    [
        ({}, 255_999, 1000, 0.5, ""),
        ({}, 256_000, 1000, 0.0, "size"),
        ({}, -1, 1, 0.0, "chunked"),
        ({"buffer_upload_threshold_size": 0}, 1 << 30, 1 << 20, 0.5, ""),
        ({}, 10_000, 1000, 1.0, "time"),
        ({}, 6000, 1000, 1.0, ""),
        ({"buffer_upload_threshold_time": 0}, 10_000, 1000, 1.0, ""),
        ({"buffer_upload_threshold_rate": 1001}, 6000, 1000, 1.0, "rate"),
        ({"buffer_upload_threshold_rate": 1000}, 6000, 1000, 1.0, ""),
        ({"buffer_uploads": False}, 1 << 30, 1000, 9.0, ""),
    ],
)
def test_the_reason_to_put_an_upload_to_disk(
    values: dict[str, object], length_: int, size: int, elapsed_s: float, expected: str
) -> None:
    assert reason(_parameters(**values), length_, size, elapsed_s) == expected
