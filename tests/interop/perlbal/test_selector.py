"""A selector before a proxy and a web server: through ours and through Debian's Perlbal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.perlbal import Answer, Balancer, Talk, Which, echoing, starting
from tests.support.proxies import BOTH

pytestmark = pytest.mark.interop

CONTENT = b"what is in the file\n" * 1000
CONFIG = """SERVER aio_mode = none
LOAD Vhosts
LOAD Redirect
CREATE POOL p
  POOL p ADD {node}
CREATE SERVICE front
  SET role = selector
  SET plugins = vhosts
  SET persist_client = on
  SET listen = 127.0.0.1:PORT
  VHOST front proxy = web
  VHOST front files = files
  VHOST front *.files = files
  VHOST front moved = moved
  VHOST front again = second
  VHOST front nowhere = nothing
ENABLE front
CREATE SERVICE second
  SET role = selector
  SET plugins = vhosts
  VHOST second * = web
ENABLE second
CREATE SERVICE web
  SET role = reverse_proxy
  SET pool = p
  SET persist_client = on
  SET persist_backend = on
ENABLE web
CREATE SERVICE files
  SET role = web_server
  SET docroot = {folder}
  SET persist_client = on
  SET enable_put = on
  SET enable_delete = on
ENABLE files
CREATE SERVICE moved
  SET role = web_server
  SET persist_client = on
  SET plugins = Redirect
  REDIRECT HOST moved example.net
ENABLE moved
"""


@dataclass
class Site:
    """A balancer of each kind, with the folder of each."""

    balancers: dict[Which, Balancer]
    folders: dict[Which, Path]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    base = tmp_path_factory.mktemp("selector")
    balancers: dict[Which, Balancer] = {}
    folders: dict[Which, Path] = {}
    with echoing() as node, starting(base) as start:
        which: Which
        for which in ("ours", "perlbal"):
            folders[which] = base / which
            folders[which].mkdir()
            (folders[which] / "there.txt").write_bytes(CONTENT)
            config = CONFIG.format(node=node.address, folder=folders[which])
            balancers[which] = start(config, which)
        yield Site(balancers, folders)


def ask(
    talk: Talk, host: str, target: str = "/", method: str = "GET", body: bytes | None = None
) -> Answer:
    """One request on a connection that is to stay."""
    length = "" if body is None else f"Content-Length: {len(body)}\r\n"
    head = f"{method} {target} HTTP/1.0\r\nHost: {host}\r\nConnection: keep-alive\r\n{length}\r\n"
    talk.send(head.encode() + (body or b""))
    return talk.read(method)


@BOTH
def test_one_connection_serves_all_services(which: Which, site: Site) -> None:
    blob = b"x bar\r\n\r\n" * 5000
    with site.balancers[which].talk() as talk:
        assert ask(talk, "proxy").json["node"] == "node"
        assert ask(talk, "files", "/new.txt", "PUT", CONTENT).status in (200, 201)
        assert (site.folders[which] / "new.txt").read_bytes() == CONTENT
        assert ask(talk, "files", "/new.txt").body == CONTENT
        told = ask(talk, "proxy", "/post", "POST", blob).json
        assert (told["method"], len(told["body"])) == ("POST", len(blob))
        assert ask(talk, "files", "/new.txt").body == CONTENT
        assert ask(talk, "again", "/post", "POST", b"twice selected").json["body"] == (
            "twice selected"
        )
        assert ask(talk, "files", "/new.txt", "DELETE").status == 204
        assert ask(talk, "proxy").status == 200


@BOTH
def test_whether_clients_stay_is_for_the_selector_to_say(which: Which, site: Site) -> None:
    balancer = site.balancers[which]
    balancer.command("SET web.persist_client = off")
    with balancer.talk() as talk:
        assert [ask(talk, "proxy").status for _ in range(2)] == [200, 200]
    balancer.command("SET front.persist_client = off")
    balancer.command("SET web.persist_client = on")
    with balancer.talk() as talk:
        assert ask(talk, "proxy").status == 200
        assert talk.closed
    balancer.command("SET front.persist_client = on")


@BOTH
def test_who_is_connected_is_served_by_what_was_disabled(which: Which, site: Site) -> None:
    """Ours has to open a connection to the node for it.

    Perlbal with `persist_backend` off lets a request in one or two thousand wait until it
    gives up after half a minute, though its service is enabled.
    """
    balancer = site.balancers[which]
    if which == "ours":
        balancer.command("SET web.persist_backend = off")
    with balancer.talk() as talk:
        assert ask(talk, "proxy").status == 200
        balancer.command("DISABLE web")
        assert ask(talk, "proxy").status == 200
    with balancer.talk() as talk:
        assert ask(talk, "proxy").status == 200
    balancer.command("ENABLE web")
    if which == "ours":
        balancer.command("SET web.persist_backend = on")


@BOTH
@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("files", 200),
        ("a.files", 200),
        ("a.b.files", 200),
        ("files:8080", 200),
        ("proxy", 200),
        ("a.proxy", 404),
        ("unknown", 404),
        ("nowhere", 404),
    ],
)
def test_hosts(which: Which, host: str, status: int, site: Site) -> None:
    with site.balancers[which].talk() as talk:
        got = ask(talk, host, "/there.txt").status
    if which == "ours" or status == 200:
        assert got == status
    else:  # it is not of one mind about what there is no service for
        assert got in (404, 500, 503)


@BOTH
def test_hosts_change_live(which: Which, site: Site) -> None:
    balancer = site.balancers[which]
    with balancer.talk() as talk:
        assert ask(talk, "later", "/there.txt").status >= 400
    assert balancer.command("VHOST front later = files") == ["OK"]
    with balancer.talk() as talk:
        assert ask(talk, "later", "/there.txt").body == CONTENT


@BOTH
@pytest.mark.parametrize(
    "line",
    [
        "VHOST front * files",
        "VHOST nothing * = files",
        "VHOST front *!x = files",
        "VHOST front * = files!!x",
    ],
)
def test_what_is_no_rule_is_refused(which: Which, line: str, site: Site) -> None:
    (answer,) = site.balancers[which].command(line)
    assert answer.startswith("ERROR")


@BOTH
def test_a_service_that_only_redirects_needs_no_folder(which: Which, site: Site) -> None:
    with site.balancers[which].talk() as talk:
        for _ in range(2):
            answer = ask(talk, "moved", "/foo/bar.txt")
            assert answer.status == 301
            assert answer.fields["location"] == "http://example.net/foo/bar.txt"
            assert answer.fields["connection"].lower() == "keep-alive"


def test_without_a_folder_nothing_is_read_or_written(site: Site) -> None:
    """Perlbal serves the whole disk then."""
    balancer = site.balancers["ours"]
    balancer.command("VHOST front bare = moved")
    balancer.command("SET moved.enable_put = on")
    with balancer.talk() as talk:
        assert ask(talk, "bare", "/etc/passwd").status == 404
        assert ask(talk, "bare", "/new", "PUT", b"x").status == 404
    assert not Path("/nonexistent").exists()
