"""The guide's configurations of nginx and HAProxy, and its own beside them: they do the same."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from lj_services.daemon import ConnectionLimits
from lj_services.perlbal.balancer import Balancer
from lj_services.perlbal.pools import PARAMETERS
from tests.support.perlbal import LJ, Answer, Node, Talk, echoing
from tests.support.process import accepts, free_port, spawn

pytestmark = pytest.mark.interop

GUIDE = (Path(__file__).parents[3] / "docs" / "perlbal.md").read_text()
MOVING = GUIDE[GUIDE.index("\n## Moving here") :]


def example(language: str) -> tuple[str, str]:
    """A configuration of another program, and the one here that is said to do the same."""
    found = re.search(rf"```{language}\n(.*?)```\n\n```perlbal\n(.*?)```", MOVING, re.DOTALL)
    assert found is not None
    return found[1], found[2]


class Rig:
    """The nodes and folders that configurations name, and the ports at which they are served."""

    def __init__(self, folder: Path, nodes: list[Node]) -> None:
        self.folder = folder
        self.nodes = nodes
        self.ports: dict[str, int] = {}

    def place(self, config: str, port: int) -> str:
        """The configuration with addresses and folders of this test, to listen on `port`."""
        for number, node in enumerate(self.nodes):
            config = config.replace(f"10.0.0.{7 + number}:8080", node.address)
        config = config.replace("/srv/", f"{self.folder}/")
        config, places = re.subn(
            r"(listen +=? *)(?:0\.0\.0\.0:)?80\b|(bind +):80\b",
            lambda found: f"{found[1] or found[2]}127.0.0.1:{port}",
            config,
        )
        assert places
        return config

    def get(self, which: str, host: str, path: str, *lines: str) -> Answer:
        """What a program answers."""
        return self.ask(which, host, f"GET {path}", *lines)

    def ask(self, which: str, host: str, what: str, *lines: str, body: bytes = b"") -> Answer:
        """The same, of another method."""
        fields = (f"Host: {host}", "Connection: close", *lines)
        head = "".join(f"{line}\r\n" for line in fields)
        with Talk(self.ports[which]) as talk:
            return talk.ask(f"{what} HTTP/1.1\r\n{head}\r\n".encode() + body)


@contextmanager
def rig(folder: Path, language: str) -> Iterator[Rig]:
    """The other program and ours, each before the same nodes."""
    with ExitStack() as stack:
        nodes = [stack.enter_context(echoing(name)) for name in ("a", "b", "c")]
        made = Rig(folder, nodes)
        for name in ("private", "static"):
            (folder / name).mkdir()
            (folder / name / "a.txt").write_text(f"{name} file")
        for which, config in zip((language, "ours"), example(language), strict=True):
            port = made.ports[which] = free_port()
            file = folder / f"{which}.conf"
            text = made.place(config, port)
            argv: list[str | Path]
            if which == "ours":
                argv = [LJ, "perlbal", "serve", "--config", file]
                argv += ["--listen", f"127.0.0.1:{free_port()}"]
            elif which == "nginx":
                argv = ["nginx", "-e", "stderr", "-c", file]
                # As who runs the tests: nobody may not enter their folders.
                user = f"user {pwd.getpwuid(os.getuid()).pw_name};"
                argv += ["-g", f"{user} daemon off; pid {folder}/pid; error_log stderr;"]
                temporary = " ".join(
                    f"{name}_temp_path {folder}/{name};"
                    for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
                )
                text = text.replace("http {", f"http {{ access_log off; {temporary}")
            else:
                argv = ["haproxy", "-db", "-f", file]
            file.write_text(text)
            if which != "ours":
                check = [*argv, "-t" if which == "nginx" else "-c"]
                checked = subprocess.run(check, capture_output=True, text=True)
                assert checked.returncode == 0, checked.stderr
            stack.enter_context(
                spawn(argv, folder / f"{which}.log", ready=lambda port=port: accepts(port))
            )
        yield made


def fields(answer: Answer) -> dict[str, str]:
    """The request's fields as the node saw them, by lower-case name."""
    return {name.lower(): value for name, value in answer.json["headers"]}


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with rig(tmp_path_factory.mktemp("nginx"), "nginx") as made:
        yield made


@pytest.fixture(scope="module")
def haproxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with rig(tmp_path_factory.mktemp("haproxy"), "haproxy") as made:
        yield made


NGINX = pytest.mark.parametrize("which", ["nginx", "ours"])
HAPROXY = pytest.mark.parametrize("which", ["haproxy", "ours"])
WWW = "www.example.com"


@NGINX
def test_nginx_hosts(nginx: Rig, which: str) -> None:
    answer = nginx.get(which, WWW, "/path?a=b")
    assert answer.json["path"] == "/path?a=b"
    assert answer.json["version"] == "HTTP/1.1"
    seen = fields(answer)
    assert (seen["host"], seen["x-site"], seen["x-forwarded-for"]) == (WWW, "live", "127.0.0.1")
    asked = {nginx.get(which, WWW, "/").json["node"] for _ in range(60)}
    assert asked == {"a", "b"}
    served = nginx.get(which, "static.example.com", "/a.txt")
    assert (served.status, served.body) == (200, b"static file")
    assert b"a.txt" in nginx.get(which, "static.example.com", "/").body


@NGINX
def test_nginx_files_that_a_node_names(nginx: Rig, which: str) -> None:
    for node in nginx.nodes:
        node.answer_fields["/named"] = [
            ("X-Accel-Redirect", "/private/a.txt"),
            ("X-REPROXY-FILE", f"{nginx.folder}/private/a.txt"),
        ]
    answer = nginx.get(which, WWW, "/named")
    assert (answer.status, answer.body) == (200, b"private file")
    # Who asks for it by its name gets to no file.
    assert b"private file" not in nginx.get(which, WWW, "/private/a.txt").body


@NGINX
def test_nginx_limits(nginx: Rig, which: str) -> None:
    size = 1 << 20
    line = f"Content-Length: {size}"
    assert nginx.ask(which, WWW, "POST /", line, body=bytes(size)).status == 200
    refused = nginx.ask(which, WWW, "POST /", f"Content-Length: {size + 1}")
    assert refused.status == 413


@HAPROXY
def test_haproxy_hosts(haproxy: Rig, which: str) -> None:
    answer = haproxy.get(which, WWW, "/path")
    assert answer.json["node"] in "ab"
    assert fields(answer)["x-forwarded-for"] == "127.0.0.1"
    assert haproxy.get(which, "images.example.com", "/").json["node"] == "c"
    assert haproxy.get(which, "IMAGES.example.com", "/").json["node"] == "c"


@HAPROXY
def test_haproxy_clients_stay_with_their_node(haproxy: Rig, which: str) -> None:
    first = haproxy.get(which, WWW, "/")
    cookie = first.fields["set-cookie"].partition(";")[0]
    assert cookie.startswith("lj_node=")
    again = {haproxy.get(which, WWW, "/", f"Cookie: {cookie}").json["node"] for _ in range(20)}
    assert again == {first.json["node"]}
    asked = {haproxy.get(which, WWW, "/").json["node"] for _ in range(60)}
    assert asked == {"a", "b"}


def test_the_tables_name_parameters_that_there_are() -> None:
    limits = ConnectionLimits("perlbal", 10, 10.0)
    balancer = Balancer(limits)
    for plugin in ("maxcontentlength", "throttle"):
        balancer.load_plugin(plugin)
    rows = [row.split(" | ") for row in MOVING.splitlines() if row.startswith("| `")]
    assert len(rows) > 30
    named = {
        word
        for row in rows
        for code in re.findall(r"`([^`]+)`", row[-1])
        for word in re.findall(r"^(?:SET \w+\.)?([a-z]\w*_\w+)", code)
    }
    assert len(named) > 15
    assert named <= {*balancer.tunables, *PARAMETERS}
