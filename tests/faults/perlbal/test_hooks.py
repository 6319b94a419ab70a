"""A plug-in of somebody's own, from a folder: it is called at every point, and can take over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lj_services.perlbal.hooks import POINTS
from tests.support.perlbal import Balancer, Node, get, starting

pytestmark = pytest.mark.faults

PLUGIN = """
from lj_services.perlbal.hooks import POINTS
from lj_services.perlbal.plugin import Plugin


class Probe(Plugin):
    title = "Probe"

    def __init__(self):
        super().__init__()
        self.commands = {"probed": self.probed}
        self.met = []
        self.put = []

    def register(self, service):
        for point in POINTS:
            service.hooks.register(self.name, point, self.at(point))

    def at(self, point):
        def hook(*arguments):
            self.met.append(point)
            return getattr(self, point, lambda *_: None)(*arguments)

        return hook

    def probed(self, balancer, command):
        for point in sorted(set(self.met)):
            command.out(point)
        self.met.clear()
        command.end()

    def start_serve_request(self, client):
        if client.request.target == b"/alias":
            client.request.target = b"/small"

    def put_writeout(self, client, data):
        self.put.append(data)
        return client.request.target == b"/swallowed"

    def handle_put(self, client):
        if client.request.target == b"/handled":
            client.answer(202)
            return True

    def concat_get_poststat_file_missing(self, client):
        client.answer(200, (), b"several")
        return True

    def modify_response_headers(self, client, response):
        response.set(b"X-Probe", b"1")
        if client.request.target == b"/prepended":
            length = int(response.fields[b"content-length"]) + 6
            response.set(b"Content-Length", b"%d" % length)

    def prepend_body(self, client, response):
        if client.request.target in (b"/prepended", b"/chunked"):
            return b"first\\n"

    def reproxy_response_received(self, exchange, response):
        if exchange.client.request.target == b"/taken":
            exchange.client.answer(299)
            return True

    def return_to_base(self, client):
        return client.request.target == b"/stay"


plugin = Probe()
"""


@dataclass
class Rig:
    balancer: Balancer
    node: Node
    folder: Path

    def met(self) -> set[str]:
        """The points that were met since the last time."""
        return set(self.balancer.command("probed"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, node: Node) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("hooks")
    (folder / "plugins").mkdir()
    (folder / "plugins" / "probe.py").write_text(PLUGIN)
    files = folder / "files"
    files.mkdir()
    (files / "small").write_text("small")
    config = (
        f"LOAD probe\nLOAD vpaths\nCREATE POOL p\n  POOL p ADD {node.address}\n"
        "CREATE SERVICE web\n  SET role = reverse_proxy\n  SET pool = p\n"
        "  SET enable_reproxy = on\n  SET plugins = probe\nENABLE web\n"
        f"CREATE SERVICE files\n  SET role = web_server\n  SET docroot = {files}\n"
        "  SET enable_put = on\n  SET enable_concatenate_get = on\n  SET plugins = probe\n"
        "ENABLE files\n"
        "CREATE SERVICE front\n  SET role = selector\n  SET listen = 127.0.0.1:PORT\n"
        "  SET persist_client = on\n  SET plugins = vpaths, probe\n"
        "  VPATH ^/files/ = files\n  SET default_service = web\nENABLE front\n"
    )
    config = config.replace("^/files/", "^/(small|alias|missing|swallowed|handled|kept|[?][?])")
    with starting(folder) as start:
        balancer = start(config, "ours", "--plugin-path", str(folder / "plugins"))
        yield Rig(balancer, node, folder)


@pytest.fixture
def rig(made: Rig) -> Rig:
    """The same for all tests, with nothing met yet."""
    made.met()
    return made


def test_every_point_is_met(rig: Rig) -> None:
    port = rig.balancer.port
    url = f"http://{rig.node.address}/named"
    rig.node.answer_fields["/url"] = [("X-REPROXY-URL", url)]
    rig.node.answer_fields["/file"] = [("X-REPROXY-FILE", f"{rig.folder}/files/small")]
    for target in ("/plain", "/url", "/file", "/small", "/missing", "/??small", "/??missing"):
        get(port, target)
    with rig.balancer.talk() as talk:
        talk.ask(b"PUT /kept HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
        talk.ask(b"GET /plain HTTP/1.1\r\nHost: a\r\n\r\n")
    assert rig.met() == POINTS


def test_a_web_servers_requests_are_changed_and_taken_over(rig: Rig) -> None:
    port = rig.balancer.port
    alias = get(port, "/alias")
    assert alias.body == b"small"
    assert alias.fields["x-probe"] == "1"
    assert (get(port, "/missing").status, get(port, "/??missing").body) == (404, b"several")
    with rig.balancer.talk() as talk:
        put = b"PUT /%b HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
        assert talk.ask(put % b"kept-too").status == 201
        assert talk.ask(put % b"swallowed").status == 201
        assert talk.ask(put % b"handled").status == 202
    files = rig.folder / "files"
    assert ((files / "kept-too").read_bytes(), (files / "swallowed").read_bytes()) == (b"hi", b"")
    assert not (files / "handled").exists()


def test_something_is_put_before_a_nodes_body(rig: Rig) -> None:
    port = rig.balancer.port
    for target in ("/prepended", "/chunked"):
        with rig.balancer.talk() as talk:
            answer = talk.ask(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            assert answer.body.startswith(b"first\n{")
            assert answer.body.endswith(b"}")
            assert answer.whole
    assert get(port, "/prepended", version="1.0").body.startswith(b"first\n{")
    with rig.balancer.talk() as talk:
        assert talk.ask(b"HEAD /prepended HTTP/1.1\r\nHost: a\r\n\r\n").status == 200
        assert talk.ask(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n").json["path"] == "/next"


def test_the_answer_of_a_urls_server_is_taken_over(rig: Rig) -> None:
    rig.node.answer_fields["/taken"] = [("X-REPROXY-URL", f"http://{rig.node.address}/named")]
    assert get(rig.balancer.port, "/taken").status == 299


def test_a_connection_stays_with_its_service(rig: Rig) -> None:
    with rig.balancer.talk() as talk:
        ask = b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n"
        assert talk.ask(ask % b"/small").body == b"small"
        # To the selector this is the proxy's; the web server, which had the last one, has it.
        assert talk.ask(ask % b"/stay").status == 404
        assert talk.ask(ask % b"/plain").json["path"] == "/plain"
