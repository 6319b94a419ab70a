"""Files, URLs and services that nodes name: through ours and through Debian's Perlbal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.perlbal import Balancer, Node, Which, echoing, get, proxy, starting
from tests.support.process import free_port
from tests.support.proxies import BOTH

pytestmark = pytest.mark.interop

LARGE = bytes(range(256)) * 4000
SETTINGS = (
    "  SET enable_reproxy = on\n  SET persist_backend = on\n  SET reproxy_cache_maxsize = 10\n"
)


@dataclass
class Rig:
    """A balancer of each kind before one node that names things, and a server of URLs."""

    balancers: dict[Which, Balancer]
    node: Node
    store: Node
    folder: Path

    def names(self, path: str, *fields: tuple[str, str]) -> None:
        """Have the node answer `path` with these fields."""
        self.node.answer_fields[path] = list(fields)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("reproxy")
    (folder / "a.txt").write_bytes(b"hello, world\n")
    (folder / "large.bin").write_bytes(LARGE)
    (folder / "empty").write_bytes(b"")
    with echoing() as node, echoing("store") as store, starting(folder) as start:
        other = (
            "CREATE SERVICE inner\n  SET role = web_server\n"
            f"  SET docroot = {folder}\nENABLE inner\n"
        )
        config = "SERVER aio_mode = none\n" + other + proxy(node.address, settings=SETTINGS)
        balancers: dict[Which, Balancer] = {
            "ours": start(config, "ours"),
            "perlbal": start(config, "perlbal"),
        }
        yield Rig(balancers, node, store, folder)


@BOTH
def test_a_file(which: Which, rig: Rig) -> None:
    port = rig.balancers[which].port
    rig.names("/f", ("X-REPROXY-FILE", f"{rig.folder}/a.txt"), ("Content-Type", "text/x-mine"))
    answer = get(port, "/f")
    assert (answer.status, answer.body) == (200, b"hello, world\n")
    assert answer.fields["content-type"] == "text/x-mine"
    assert answer.fields["content-length"] == "13"
    assert not any(name.startswith("x-reproxy") for name in answer.fields)
    part = get(port, "/f", "Range: bytes=7-11")
    assert (part.status, part.body) == (206, b"world")
    assert part.fields["content-range"] == "bytes 7-11/13"
    rig.names("/large", ("X-REPROXY-FILE", f"{rig.folder}/large.bin"))
    assert get(port, "/large").body == LARGE


@BOTH
@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_a_file_that_is_not_there_is_404(which: Which, name: str, rig: Rig) -> None:
    rig.names("/f", ("X-REPROXY-FILE", f"{rig.folder}/{name}"))
    assert get(rig.balancers[which].port, "/f").status == 404


@BOTH
def test_a_url(which: Which, rig: Rig) -> None:
    url = f"http://{rig.store.address}/stored?a=b"
    rig.names("/u", ("X-REPROXY-URL", url), ("X-Mine", "kept"))
    answer = get(rig.balancers[which].port, "/u", "Cookie: secret=1", "Range: bytes=0-9")
    assert answer.status == 200
    assert answer.fields["x-mine"] == "kept"
    told = answer.json
    assert (told["node"], told["method"], told["path"]) == ("store", "GET", "/stored?a=b")
    seen = {name.lower(): value for name, value in told["headers"]}
    assert seen["range"] == "bytes=0-9"
    assert "cookie" not in seen
    assert not any(name.startswith("x-reproxy") for name in answer.fields)


@BOTH
def test_the_next_url_has_its_turn(which: Which, rig: Rig) -> None:
    down = f"http://127.0.0.1:{free_port()}/x"
    missing = f"http://{rig.store.address}/missing?status=404"
    good = f"http://{rig.store.address}/good"
    rig.names("/u", ("X-REPROXY-URL", f"{down} {missing} {good}"))
    assert get(rig.balancers[which].port, "/u").json["path"] == "/good"
    rig.names("/u", ("X-REPROXY-URL", f"{down} {missing}"))
    assert get(rig.balancers[which].port, "/u").status in (404, 503)


@BOTH
def test_a_url_of_another_size_is_not_taken(which: Which, rig: Rig) -> None:
    url = f"http://{rig.store.address}/sized"
    rig.names("/u", ("X-REPROXY-URL", url), ("X-REPROXY-EXPECTED-SIZE", "5"))
    assert get(rig.balancers[which].port, "/u").status == 503


@BOTH
def test_another_service(which: Which, rig: Rig) -> None:
    rig.names("/a.txt", ("X-REPROXY-SERVICE", "inner"))
    answer = get(rig.balancers[which].port, "/a.txt")
    assert (answer.status, answer.body) == (200, b"hello, world\n")


@BOTH
def test_what_is_remembered_needs_no_node(which: Which, rig: Rig) -> None:
    path = f"/cached-{which}"
    rig.names(
        path,
        ("X-REPROXY-URL", f"http://{rig.store.address}/c"),
        ("X-REPROXY-CACHE-FOR", "60; X-Mine"),
        ("X-Mine", "kept"),
    )
    for _ in range(3):
        answer = get(rig.balancers[which].port, path)
        assert answer.json["path"] == "/c"
        assert answer.fields["x-mine"] == "kept"
    assert rig.node.seen().count(path) == 1
    block = rig.balancers[which].command("show service web")
    assert "    cache hits: 2" in block


@BOTH
def test_head_is_answered_without_a_body(which: Which, rig: Rig) -> None:
    rig.names("/f", ("X-REPROXY-FILE", f"{rig.folder}/a.txt"))
    balancer = rig.balancers[which]
    with balancer.talk() as talk:
        answer = talk.ask(b"HEAD /f HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert (answer.status, answer.fields["content-length"]) == (200, "13")
        assert talk.closed


@BOTH
def test_a_client_can_name_nothing(which: Which, rig: Rig) -> None:
    said = (f"X-REPROXY-FILE: {rig.folder}/a.txt", "X-REPROXY-URL: http://127.0.0.1:1/")
    assert get(rig.balancers[which].port, "/plain", *said).json["path"] == "/plain"


def test_nodes_may_name_only_what_they_are_allowed(rig: Rig) -> None:
    balancer = rig.balancers["ours"]
    allowed = rig.folder / "allowed"
    allowed.mkdir()
    (allowed / "b.txt").write_bytes(b"allowed")
    (allowed / "link").symlink_to(rig.folder / "a.txt")
    prefixes = f"{allowed}, http://{rig.store.address}/ok"
    assert balancer.command(f"SET web.reproxy_prefixes = {prefixes}") == ["OK"]

    def file(path: str) -> int:
        rig.names("/f", ("X-REPROXY-FILE", path))
        return get(balancer.port, "/f").status

    def url(path: str) -> int:
        rig.names("/u", ("X-REPROXY-URL", f"http://{rig.store.address}{path}"))
        return get(balancer.port, "/u").status

    assert file(f"{allowed}/b.txt") == 200
    assert file(f"{rig.folder}/a.txt") == 404
    assert file(f"{allowed}/../a.txt") == 404
    assert file(f"{allowed}/link") == 404
    assert (url("/ok/1"), url("/okay"), url("/")) == (200, 503, 503)
    assert (url("/ok/../1"), url("/ok/%2e%2E/1"), url("/ok/..1")) == (503, 503, 200)
    balancer.command("SET web.reproxy_prefixes = ,")


@pytest.mark.parametrize("field", ["ETag", "Last-Modified"])
@pytest.mark.parametrize("way", ["file", "url"])
def test_a_part_of_something_else_is_not_continued(rig: Rig, way: str, field: str) -> None:
    port = rig.balancers["ours"].port
    now, before = {
        "ETag": ('"new"', '"old"'),
        "Last-Modified": ("Sat, 02 Jan 2021 00:00:00 GMT", "Fri, 01 Jan 2021 00:00:00 GMT"),
    }[field]
    file = ("X-REPROXY-FILE", f"{rig.folder}/a.txt")
    url = ("X-REPROXY-URL", f"http://{rig.store.address}/parts")
    rig.names("/part", file if way == "file" else url, (field, now))

    def part(of: str) -> bool:
        answer = get(port, "/part", "Range: bytes=7-11", f"If-Range: {of}")
        if way == "file":
            assert answer.body == (b"world" if answer.status == 206 else b"hello, world\n")
            return answer.status == 206
        return ["Range", "bytes=7-11"] in answer.json["headers"]

    assert (part(now), part(before)) == (True, False)


def test_what_a_node_has_decided_by_its_tag_is_not_decided_by_a_date(rig: Rig) -> None:
    port = rig.balancers["ours"].port
    rig.names("/tagged", ("X-REPROXY-FILE", f"{rig.folder}/a.txt"), ("ETag", '"new"'))
    since = "If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT"
    assert get(port, "/tagged", since).status == 304
    assert get(port, "/tagged", since, 'If-None-Match: "old"').status == 200


def test_remembered_urls_that_fail_are_asked_for_again(rig: Rig) -> None:
    port = rig.balancers["ours"].port
    down = ("X-REPROXY-URL", f"http://127.0.0.1:{free_port()}/")
    cache = ("X-REPROXY-CACHE-FOR", "60")
    rig.names("/again", down, cache)
    assert get(port, "/again").status == 503
    rig.names("/again", ("X-REPROXY-URL", f"http://{rig.store.address}/moved"), cache)
    assert get(port, "/again").json["path"] == "/moved"


def test_a_body_of_the_node_is_thrown_away(rig: Rig) -> None:
    rig.names("/f", ("X-REPROXY-FILE", f"{rig.folder}/a.txt"))
    port = rig.balancers["ours"].port
    assert [get(port, "/f?pad=100000").body for _ in range(3)] == [b"hello, world\n"] * 3
