"""Files served, listed and stored: the same scenarios for ours and for Debian's Perlbal."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.perlbal import Talk, Which
from tests.support.process import wait_for
from tests.support.proxies import BOTH
from tests.support.web_servers import Site, web_servers

pytestmark = pytest.mark.interop

LARGE = bytes(range(256)) * 12_000


def fill(root: Path) -> None:
    """The files."""
    (root / "a.txt").write_bytes(b"hello, world\n")
    (root / "empty.css").write_bytes(b"")
    (root / "large.bin").write_bytes(LARGE)
    (root / "with space & <b>.html").write_bytes(b"odd")
    (root / "sub").mkdir()
    (root / "sub" / "index.html").write_bytes(b"index")
    (root / "bare").mkdir()
    (root / "bare" / "x.js").write_bytes(b"xx\n")
    (root / "bare" / "y.js").write_bytes(b"yy\n")
    os.utime(root / "a.txt", (1_000_000_000, 1_000_000_000))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    settings = "  SET dirindexing = on\n"
    with web_servers(tmp_path_factory.mktemp("web"), fill, settings) as made:
        yield made


@BOTH
def test_a_file_is_sent(which: Which, site: Site) -> None:
    answer = site.get(which, "/a.txt")
    assert (answer.status, answer.body) == (200, b"hello, world\n")
    assert answer.fields["content-type"] == "text/plain"
    assert answer.fields["last-modified"] == "Sun, 09 Sep 2001 01:46:40 GMT"
    head = site.ask(which, "HEAD", "/a.txt?query")
    assert head.status == 200
    assert head.fields["content-length"] == "13"
    assert site.get(which, "/empty.css").body == b""


@BOTH
def test_a_large_file_is_sent(which: Which, site: Site) -> None:
    assert site.get(which, "/large.bin").body == LARGE


@BOTH
def test_odd_names_are_decoded(which: Which, site: Site) -> None:
    answer = site.get(which, "/with%20space%20%26%20%3Cb%3E.html")
    assert answer.body == b"odd"
    assert answer.fields["content-type"] == "text/html"


@BOTH
@pytest.mark.parametrize(
    ("wanted", "status", "body", "span"),
    [
        ("bytes=0-4", 206, b"hello", "bytes 0-4/13"),
        ("bytes=7-", 206, b"world\n", "bytes 7-12/13"),
        ("bytes=7-99", 206, b"world\n", "bytes 7-12/13"),
        ("bytes=13-", 416, None, "bytes */13"),
        ("nonsense", 200, b"hello, world\n", None),
    ],
)
def test_a_part_of_a_file(
    which: Which, wanted: str, status: int, body: bytes | None, span: str | None, site: Site
) -> None:
    answer = site.get(which, "/a.txt", f"Range: {wanted}")
    assert answer.status == status
    if body is not None:
        assert answer.body == body
    assert answer.fields.get("content-range") == span


def test_the_last_bytes_of_a_file(site: Site) -> None:
    """Perlbal takes this for the first seven."""
    answer = site.get("ours", "/a.txt", "Range: bytes=-6")
    assert (answer.status, answer.body) == (206, b"world\n")
    assert answer.fields["content-range"] == "bytes 7-12/13"


@BOTH
def test_a_part_of_a_large_file(which: Which, site: Site) -> None:
    answer = site.get(which, "/large.bin", "Range: bytes=1000-1999999")
    assert answer.body == LARGE[1000:2_000_000]


@BOTH
def test_what_a_client_has_is_not_sent_again(which: Which, site: Site) -> None:
    same = "If-Modified-Since: Sun, 09 Sep 2001 01:46:40 GMT"
    assert site.get(which, "/a.txt", same).status == 304
    assert site.get(which, "/a.txt", same + "; length=13").status == 304
    older = "If-Modified-Since: Sat, 08 Sep 2001 01:46:40 GMT"
    assert site.get(which, "/a.txt", older).status == 200


@BOTH
def test_folders(which: Which, site: Site) -> None:
    assert site.get(which, "/sub/").body == b"index"
    answer = site.get(which, "/bare/")
    assert answer.status == 200
    assert b"x.js" in answer.body
    site.balancers[which].command("SET files.dirindexing = off")
    assert b"x.js" not in site.get(which, "/bare/").body
    site.balancers[which].command("SET files.dirindexing = on")


@BOTH
def test_what_is_not_there_is_404(which: Which, site: Site) -> None:
    assert site.get(which, "/nothing").status == 404
    assert site.get(which, "/a.txt/b").status == 404


@BOTH
def test_several_files_at_once(which: Which, site: Site) -> None:
    answer = site.get(which, "/bare/??y.js,x.js?v=1")
    assert answer.body == b"yy\nxx\n"
    assert answer.fields["content-type"].endswith("javascript")
    assert site.get(which, "/bare/??y.js,nothing.js").status == 404


@BOTH
def test_a_file_is_stored_and_removed(which: Which, site: Site) -> None:
    assert site.put(which, "/new/dir/f.txt", b"x" * 300_000) in (200, 201)
    stored = site.folders[which] / "new" / "dir" / "f.txt"
    assert stored.read_bytes() == b"x" * 300_000
    assert site.put(which, "/new/dir/f.txt", b"again") in (200, 201)
    assert site.get(which, "/new/dir/f.txt").body == b"again"
    assert site.ask(which, "DELETE", "/new/dir/f.txt").status == 204
    assert not stored.exists()
    assert site.ask(which, "DELETE", "/new/dir/f.txt").status == 404
    assert sorted(stored.parent.iterdir()) == []


@BOTH
def test_a_digest_that_does_not_fit_is_refused(which: Which, site: Site) -> None:
    digest = base64.b64encode(hashlib.md5(b"good").digest()).decode()
    assert site.put(which, "/md5", b"good", f"Content-MD5: {digest}") in (200, 201)
    assert site.put(which, "/md5", b"evil", f"Content-MD5: {digest}") >= 400
    assert (site.folders[which] / "md5").read_bytes() == b"good"


@BOTH
def test_storing_is_limited(which: Which, site: Site) -> None:
    console = site.balancers[which].command
    console("SET files.max_put_size = 10")
    assert site.put(which, "/limited", b"x" * 11) >= 400
    console("SET files.max_put_size = 0")
    console("SET files.min_put_directory = 1")
    assert site.put(which, "/not-there/f", b"x") >= 400
    assert site.put(which, "/sub/g/f", b"x") in (200, 201)
    console("SET files.min_put_directory = 0")
    console("SET files.enable_put = off")
    assert site.put(which, "/off", b"x") >= 400
    console("SET files.enable_put = on")
    for name in ("limited", "not-there", "off"):
        assert not (site.folders[which] / name).exists()


@BOTH
@pytest.mark.parametrize(
    "target",
    [
        "/../secret",
        "/%2e%2e/secret",
        "/sub/../../secret",
        "/..%2fsecret",
        "/sub/%2e%2e/%2e%2e/secret",
    ],
)
def test_nothing_outside_the_folder_is_sent(which: Which, target: str, site: Site) -> None:
    (site.folders[which].parent / "secret").write_bytes(b"secret")
    answer = site.get(which, target)
    assert answer.status in (400, 403, 404)
    assert b"secret" not in answer.body
    assert site.put(which, target, b"changed") >= 400
    assert (site.folders[which].parent / "secret").read_bytes() == b"secret"


def test_links_out_of_the_folder_are_not_followed(site: Site) -> None:
    root = site.folders["ours"]
    (root.parent / "secret").write_bytes(b"secret")
    (root / "link").symlink_to(root.parent / "secret")
    (root / "linked").symlink_to(root.parent)
    (root / "inside").symlink_to(root / "a.txt")
    assert site.get("ours", "/link").status == 403
    assert site.get("ours", "/linked/secret").status == 403
    assert site.put("ours", "/linked/new", b"x") >= 400
    assert site.put("ours", "/linked/folder/new", b"x") >= 400
    assert not (root.parent / "folder").exists()
    assert site.ask("ours", "DELETE", "/linked/secret").status == 403
    assert (root.parent / "secret").read_bytes() == b"secret"
    assert site.get("ours", "/inside").body == b"hello, world\n"


def test_a_file_that_changes_is_seen_at_once(site: Site) -> None:
    file = site.folders["ours"] / "changing"
    for content in (b"one", b"three"):
        file.write_bytes(content)
        assert [site.get("ours", "/changing").body for _ in range(3)] == [content] * 3
    file.unlink()
    assert site.get("ours", "/changing").status == 404


def test_a_range_of_many_parts_costs_nothing(site: Site) -> None:
    bomb = "Range: bytes=" + ",".join("0-" for _ in range(1000))
    assert site.get("ours", "/a.txt", bomb).status == 200


def test_an_upload_that_is_broken_off_leaves_nothing(site: Site) -> None:
    with Talk(site.balancers["ours"].port) as talk:
        talk.send(b"PUT /half HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\nabc")
    root = site.folders["ours"]
    wait_for(lambda: not list(root.glob(".put-*")), "the upload to be removed")
    assert not (root / "half").exists()
    assert site.ask("ours", "GET", "/.put-x").status == 404


def test_a_connection_goes_on_after_a_large_file(site: Site) -> None:
    with Talk(site.balancers["ours"].port) as talk:
        request = b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n"
        talk.send(request % b"large.bin" + request % b"a.txt" + request % b"large.bin")
        assert talk.read().body == LARGE
        assert talk.read().body == b"hello, world\n"
        assert talk.read().body == LARGE


def test_other_methods_are_told_which_there_are(site: Site) -> None:
    answer = site.ask("ours", "POST", "/a.txt", "Content-Length: 0")
    assert answer.status == 405
    assert answer.fields["allow"] == "GET, HEAD, PUT, DELETE"
