"""Index files, odd names, parts, several files at once, what is stored: ours and Debian's Perlbal.

What `test_web_server` leaves of the original's own scenarios.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.perlbal import Which
from tests.support.proxies import BOTH
from tests.support.web_servers import Site, web_servers

pytestmark = pytest.mark.interop

TEXT = b"foo bar baz\n" * 1000
A, B = b"a" * 50 + b"\n", b"b" * 50 + b"\n"


def fill(root: Path) -> None:
    """The files."""
    (root / "foo" / "bar").mkdir(parents=True)
    for name in ("bar.txt", "bar+baz.txt", "foo..123.txt"):
        (root / "foo" / name).write_bytes(TEXT)
    for folder in (root / "foo", root / "foo" / "bar"):
        (folder / "a.css").write_bytes(A)
        (folder / "b.css").write_bytes(B)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with web_servers(tmp_path_factory.mktemp("pages"), fill, version="1.0") as made:
        yield made


@BOTH
@pytest.mark.parametrize("name", ["bar.txt", "bar.txt?foo=bar", "bar+baz.txt", "foo..123.txt"])
def test_names(which: Which, name: str, site: Site) -> None:
    assert site.get(which, f"/foo/{name}").body == TEXT


@BOTH
def test_index_files_change_live(which: Which, site: Site) -> None:
    command = site.balancers[which].command
    # Without one, Perlbal says in a page that it is none; ours says 403.
    assert site.get(which, "/foo/").body != TEXT
    command("SET files.index_files = not_here.txt, nor_here.html, bar.txt")
    assert site.get(which, "/foo/").body == TEXT
    command("SET files.index_files = blah.txt")
    bare = site.get(which, "/foo/")
    assert bare.status == (200 if which == "perlbal" else 403)
    assert b"bar.txt" not in bare.body
    command("SET files.index_files = index.html")


@BOTH
def test_the_name_of_the_server_can_be_kept_back(which: Which, site: Site) -> None:
    assert "perlbal" in site.get(which, "/foo/bar.txt").fields["server"].lower()
    site.balancers[which].command("SET files.server_tokens = off")
    assert "server" not in site.get(which, "/foo/bar.txt").fields
    site.balancers[which].command("SET files.server_tokens = on")


@BOTH
def test_what_has_not_changed_has_no_length(which: Which, site: Site) -> None:
    for target in ("/foo/bar.txt", "/foo/??a.css,bar/b.css"):
        changed = site.get(which, target).fields["last-modified"]
        keep = "Connection: keep-alive"
        answer = site.get(which, target, keep, f"If-Modified-Since: {changed}")
        assert answer.status == 304
        assert "content-length" not in answer.fields
        assert answer.fields["connection"].lower() == "keep-alive"


@BOTH
@pytest.mark.parametrize(
    ("target", "status", "body"),
    [
        ("/foo??a.css,b.css", 400, None),  # Perlbal: 500
        ("/bogus/??a.css,b.css", 404, None),
        ("/foo/??a.css,bogus.css", 404, None),
        ("/foo/??a.css,b.css", 200, A + B),
        ("/foo/??a.css,bar/b.css", 200, A + B),
        ("/foo/??a.css,a.css", 200, A + A),
    ],
)
def test_several_files_at_once(
    which: Which, target: str, status: int, body: bytes | None, site: Site
) -> None:
    answer = site.get(which, target)
    assert answer.status == (500 if which == "perlbal" and status == 400 else status)
    assert body is None or answer.body == body


@BOTH
def test_several_large_files_at_once(which: Which, site: Site) -> None:
    folder = site.folders[which] / "many"
    folder.mkdir()
    sizes = (0, 300_000, 5, 0, 70_000, 1 << 20)
    files = [bytes([65 + number]) * size for number, size in enumerate(sizes)]
    for number, content in enumerate(files):
        (folder / f"{number}.txt").write_bytes(content)
    target = "/many/??" + ",".join(f"{number}.txt" for number in (*range(len(files)), 2))
    whole = b"".join(files) + files[2]
    with site.balancers[which].talk() as talk:
        ask = f"GET {target} HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n".encode()
        for _ in range(2):
            answer = talk.ask(ask)
            assert answer.status == 200
            assert answer.body == whole
        if which == "ours":  # Perlbal's closes
            head = talk.ask(ask.replace(b"GET", b"HEAD"))
            assert int(head.fields["content-length"]) == len(whole)


@BOTH
def test_several_files_at_once_can_be_switched_off(which: Which, site: Site) -> None:
    site.balancers[which].command("SET files.enable_concatenate_get = off")
    answer = site.get(which, "/foo/??a.css,b.css")
    assert answer.status == 403
    site.balancers[which].command("SET files.enable_concatenate_get = on")


@BOTH
@pytest.mark.parametrize(
    ("wanted", "status"),
    [("0-6", 206), ("12-", 206), ("12000-", 416), ("5-1", 416)],
)
def test_parts(which: Which, wanted: str, status: int, site: Site) -> None:
    answer = site.get(which, "/foo/bar.txt", f"Range: bytes={wanted}")
    if wanted == "5-1" and which == "ours":  # RFC 9110: it is no range, and means nothing
        assert (answer.status, answer.body) == (200, TEXT)
        return
    assert answer.status == status
    if status == 206:
        assert answer.body == (TEXT[:7] if wanted == "0-6" else TEXT[12:])


@BOTH
def test_an_upload_in_chunks_is_stored(which: Which, site: Site) -> None:
    with site.balancers[which].talk() as talk:
        talk.send(
            b"PUT /chunked.txt HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        assert talk.read().status == 100
        for size in (500, 5, 5, 100_000):
            talk.send(b"%x\r\n%b\r\n" % (size, b"x" * size))
        talk.send(b"0\r\n\r\n")
        assert talk.read().status in (200, 201)
    assert (site.folders[which] / "chunked.txt").read_bytes() == b"x" * 100_510


@BOTH
def test_folders_that_must_be_there(which: Which, site: Site) -> None:
    command = site.balancers[which].command
    command("SET files.min_put_directory = 2")
    assert not site.stores(which, "/one/two/f.txt", TEXT)
    (site.folders[which] / "one" / "two").mkdir(parents=True)
    assert site.stores(which, "/one/two/f.txt", TEXT)
    assert site.stores(which, "/one/two/f.txt", b"")
    assert (site.folders[which] / "one" / "two" / "f.txt").read_bytes() == b""
    command("SET files.min_put_directory = 0")
    assert site.stores(which, "/tree/a/b/c/d/f.txt", TEXT)


@BOTH
def test_what_may_be_stored_and_removed_changes_live(which: Which, site: Site) -> None:
    command = site.balancers[which].command
    file = site.folders[which] / "live.txt"
    digest = "Content-MD5: " + base64.b64encode(hashlib.md5(b"!").digest()).decode()
    assert site.stores(which, "/live.txt", b"!", digest)
    assert not site.stores(which, "/live.txt", b"?", digest)
    assert file.read_bytes() == b"!"
    command("SET files.enable_md5 = off")
    assert site.stores(which, "/live.txt", b"?", digest)
    command("SET files.enable_md5 = on")
    command("SET files.enable_put = off")
    assert not site.stores(which, "/live.txt", b"new")
    command("SET files.enable_put = on")
    command("SET files.enable_delete = off")
    assert site.ask(which, "DELETE", "/live.txt").status >= 400
    command("SET files.enable_delete = on")
    assert file.read_bytes() == b"?"
    assert site.ask(which, "DELETE", "/live.txt").status == 204
    assert list(file.parent.glob("live*")) == []
