"""Plug-ins: the same through ours and through Debian's Perlbal; then what only ours does."""

from __future__ import annotations

import os
import socket
import struct
import zlib
from pathlib import Path

import pytest

from tests.support.perlbal import Balancer, Node, Start, Talk, Which, echoing, get, proxy
from tests.support.process import free_port
from tests.support.proxies import BOTH, using

pytestmark = pytest.mark.interop


def seen(balancer: Balancer, *lines: str) -> dict[str, str]:
    """The fields that the node sees of a request with `lines`."""
    return {name.lower(): value for name, value in get(balancer.port, "/", *lines).json["headers"]}


@BOTH
def test_vpaths_choose_by_the_first_expression(
    which: Which, start_balancer: Start, node: Node
) -> None:
    with echoing("images") as images:
        config = (
            f"LOAD Vpaths\nCREATE POOL i\n  POOL i ADD {images.address}\n"
            "CREATE SERVICE files\n  SET role = reverse_proxy\n  SET pool = i\nENABLE files\n"
            + proxy(node.address).replace("  SET listen = 127.0.0.1:PORT\n", "")
            + "CREATE SERVICE front\n  SET role = selector\n  SET listen = 127.0.0.1:PORT\n"
            "  SET plugins = Vpaths\n  VPATH ^/images/ = files\n  VPATH ^/web = web\nENABLE front\n"
        )
        balancer = start_balancer(config, which)
        assert get(balancer.port, "/images/a.png").json["node"] == "images"
        assert get(balancer.port, "/web/images/").json["node"] == "node"
        if which == "ours":  # Perlbal leaves such a client without an answer
            assert get(balancer.port, "/other").status == 404


@BOTH
def test_redirect_sends_hosts_elsewhere(which: Which, start_balancer: Start, node: Node) -> None:
    balancer = start_balancer(
        using("Redirect", node, "REDIRECT HOST *.example www.example.net"), which
    )
    answer = get(balancer.port, "/a?b=c")
    assert answer.status == 301
    assert answer.fields["location"] == "http://www.example.net/a?b=c"
    with balancer.talk() as talk:
        talk.send(b"GET /stays HTTP/1.1\r\nHost: elsewhere\r\nConnection: close\r\n\r\n")
        assert talk.read().status == 200


@BOTH
def test_highpri_shows_its_patterns(which: Which, start_balancer: Start, node: Node) -> None:
    balancer = start_balancer(using("Highpri", node, "SET web.highpri.host_pattern = ^pay"), which)
    usual = r"^(?:/interface/(?:xmlrpc|flat)|/login\.bml)$"
    assert balancer.command("patterns") == [
        "High priority pattern buffer:",
        f"SET web.highpri.uri_pattern = {usual}",
        "SET web.highpri.host_pattern = ^pay",
    ]


@BOTH
def test_queues_are_told_to_nodes(which: Which, start_balancer: Start, node: Node) -> None:
    balancer = start_balancer(using("Queues", node), which)
    fields = seen(balancer, "X-Queue-Count: 99")
    assert fields["x-queue-count"] == "0"
    assert fields["x-queue-age"] == "0"
    assert fields["x-hp-queue-count"] == "0"
    assert fields["x-hp-queue-age"] == "0"


@BOTH
def test_xffextras_tell_port_and_protocol(which: Which, start_balancer: Start, node: Node) -> None:
    balancer = start_balancer(
        using("XFFExtras", node, "SET send_backend_port = yes", "SET send_backend_proto = yes"),
        which,
    )
    fields = seen(balancer, "X-Forwarded-Proto: gopher")
    assert fields["x-forwarded-port"] == str(balancer.port)
    assert fields["x-forwarded-proto"] == "http"
    balancer.command("SET web.send_backend_port = no")
    assert "x-forwarded-port" not in seen(balancer)


@BOTH
def test_long_bodies_are_refused(which: Which, start_balancer: Start, node: Node) -> None:
    balancer = start_balancer(using("MaxContentLength", node, "SET max_content_length = 10"), which)
    for size, status in ((10, 200), (11, 413)):
        with balancer.talk() as talk:
            head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size
            assert talk.ask(head + b"x" * size).status == status
    assert node.seen("POST") == ["/"]


@BOTH
def test_hosts_whose_files_never_change(which: Which, start_balancer: Start, node: Node) -> None:
    balancer = start_balancer(
        using("NotModified", node, "SET web.notmodified.host_pattern = ^site"), which
    )
    since = "If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT"
    assert get(balancer.port, "/", since).status == 304
    assert get(balancer.port, "/").status == 200
    with balancer.talk() as talk:
        request = f"GET / HTTP/1.1\r\nHost: other\r\nConnection: close\r\n{since}\r\n\r\n"
        assert talk.ask(request.encode()).status == 200


@BOTH
def test_configuration_in_several_files(
    which: Which, start_balancer: Start, node: Node, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.part").write_text(f"CREATE POOL {name}\n")
    config = f"LOAD Include\nINCLUDE = {tmp_path}/*.part\n" + proxy(node.address)
    balancer = start_balancer(config, which)
    assert {"a nodes 0", "b nodes 0"} <= set(balancer.command("show pool"))


@BOTH
def test_stats_count(which: Which, start_balancer: Start, node: Node) -> None:
    balancer = start_balancer(using("Stats", node), which)
    for _ in range(3):
        assert get(balancer.port, "/counted").status == 200
    lines = [line.split() for line in balancer.command("stats")]
    assert ["web", "proxy_requests", "3"] in lines
    assert ["total", "proxy_requests", "3"] in lines
    assert ["web", "files_sent", "0"] in lines
    recent = balancer.command("recent")
    assert len(recent) == 3
    service, seconds, address = recent[0].split()
    assert (service, address) == ("web", "http://site.example/counted")
    assert 0 <= float(seconds) < 60


@BOTH
def test_files_are_counted_whatever_their_size(
    which: Which, start_balancer: Start, tmp_path: Path
) -> None:
    for name, size in (("small", 10), ("large", 1 << 20)):
        (tmp_path / name).write_bytes(b"x" * size)
    balancer = start_balancer(web_server(tmp_path, "Stats"), which)
    for name in ("small", "large", "small"):
        assert get(balancer.port, f"/{name}").status == 200
    lines = [line.split() for line in balancer.command("stats")]
    assert ["total", "files_sent", "3"] in lines
    assert ["total", "web_requests", "3"] in lines


def test_a_plug_in_stays_while_a_service_has_its_role(start_balancer: Start) -> None:
    lines = "LOAD echoservice\nCREATE SERVICE e\n  SET role = echo\nENABLE e\n"
    balancer = start_balancer(lines)
    assert balancer.command("UNLOAD echoservice") == ["ERROR: plugin EchoService works on e"]


def test_what_is_set_while_requests_come_counts_from_the_next_one_on(
    start_balancer: Start, node: Node
) -> None:
    balancer = start_balancer(proxy(node.address))
    assert "x-set" not in seen(balancer)
    assert balancer.command("HEADER web INSERT X-Set: now")[-1] == "OK"
    assert seen(balancer)["x-set"] == "now"
    assert balancer.command("HEADER web REMOVE Host")[-1] == "OK"
    assert "host" not in seen(balancer)
    balancer.command("LOAD Stats")
    assert balancer.command("SET web.plugins = Stats")[-1] == "OK"
    get(balancer.port, "/counted")
    assert len(balancer.command("recent")) == 1


@BOTH
def test_an_echo_service_sends_lines_back(which: Which, start_balancer: Start) -> None:
    port = free_port()
    balancer = start_balancer(
        "LOAD EchoService\nCREATE SERVICE echo\n  SET role = echo\n"
        f"  SET listen = 127.0.0.1:{port}\nENABLE echo\n",
        which,
    )
    with Talk(port) as talk:
        talk.send(b"hello\r\nwor")
        assert talk.line() == b"hello\r\n"
        talk.send(b"ld\n")
        assert talk.line() == b"world\r\n"
    assert balancer.command("SET echo.echo_delay = soon")[0].startswith("ERROR: Expecting integer")


def gif(*colours: bytes) -> bytes:
    """A GIF image of one pixel with a colour table."""
    table = b"".join(colours)
    bits = (len(colours) - 1).bit_length() - 1
    return b"GIF89a\1\0\1\0%c\0\0" % (0x80 | bits) + table + b",\0\0\0\0\1\0\1\0\0\2\2D\1\0;"


def png(palette: bytes, *, rest: bytes = b"") -> bytes:
    """A paletted PNG image of one pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", 1, 1, 8, 3, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"gAMA", b"\0\0\xb1\x8f"), (b"PLTE", palette)]
    chunks += [(b"IDAT", zlib.compress(b"\0\0")), (b"tEXt", b"x\0" + rest), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


GREYS = bytes(value for level in range(16) for value in (level * 17,) * 3)


def web_server(folder: Path, plugin: str, *lines: str) -> str:
    settings = "".join(f"  {line}\n" for line in (f"SET plugins = {plugin}", *lines))
    return (
        f"LOAD {plugin}\nCREATE SERVICE files\n  SET role = web_server\n"
        f"  SET docroot = {folder}\n  SET listen = 127.0.0.1:PORT\n{settings}ENABLE files\n"
    )


@BOTH
def test_images_in_other_colours(which: Which, start_balancer: Start, tmp_path: Path) -> None:
    images = tmp_path / "palimg"
    images.mkdir()
    colours = [GREYS[at : at + 3] for at in range(0, 48, 3)]
    (images / "a.gif").write_bytes(gif(*colours))
    large = bytes(range(1, 256)) * 1000
    (images / "a.png").write_bytes(png(GREYS, rest=large))
    (images / "rgb.png").write_bytes(png(GREYS).replace(b"\x08\x03\0\0\0", b"\x08\x02\0\0\0", 1))
    (images / "a.txt").write_bytes(b"text")
    balancer = start_balancer(web_server(tmp_path, "Palimg"), which)

    def image(name: str) -> bytes:
        answer = get(balancer.port, f"/palimg/{name}")
        assert answer.status == 200
        return answer.body

    red_and_blue = list(colours)
    red_and_blue[0], red_and_blue[10] = b"\xff\0\0", b"\0\0\xff"
    assert image("a.gif/p0ff0000a0000ff") == gif(*red_and_blue)
    tinted = bytes(
        int(dark + (light - dark) * value / 255)
        for value in range(0, 256, 17)
        for dark, light in ((0x10, 0xFF), (0x20, 0x80), (0x30, 0x00))
    )
    assert image("a.png/ptff8000102030") == png(tinted, rest=large)
    ramp = GREYS[:3] + bytes(int(at * 100 / 4) for at in range(5) for _ in range(3)) + GREYS[18:]
    assert image("a.png/pg0100000005646464") == png(ramp, rest=large)
    assert image("a.gif") == gif(*colours)
    refused = ["b.gif/ptff8000"]
    if which == "ours":  # Perlbal has sent the head of a 200 when it finds out
        refused += ["rgb.png/ptff8000", "a.gif/pzz", "a.gif/pg0000000000ffffff"]
    for name in refused:
        assert get(balancer.port, f"/palimg/{name}").status == 404


@BOTH
def test_files_that_are_not_there_yet_come_from_elsewhere(
    which: Which, start_balancer: Start, node: Node, tmp_path: Path
) -> None:
    (tmp_path / "here.txt").write_text("here")
    os.utime(tmp_path / "here.txt", (1000, 1000))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("a")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as told:
        told.bind(("127.0.0.1", 0))
        told.settimeout(20)
        port = told.getsockname()[1]
        lines = (
            "SET fallback_service = web",
            f"SET fallback_udp_ping_addr = 127.0.0.1:{port}",
            "SET enable_concatenate_get = on",
        )
        config = proxy(node.address).replace("  SET listen = 127.0.0.1:PORT\n", "")
        balancer = start_balancer(config + web_server(tmp_path, "LazyCDN", *lines), which)
        assert get(balancer.port, "/here.txt").body == b"here"
        assert get(balancer.port, "/here.txt?v=999").body == b"here"
        assert get(balancer.port, "/here.txt?v=1001").json["path"] == "/here.txt?v=1001"
        assert told.recv(1000) == b"/here.txt?v=1001"
        assert get(balancer.port, "/not/here.txt").json["path"] == "/not/here.txt"
        assert told.recv(1000) == b"/not/here.txt"
        if which == "ours":  # Perlbal finds no folder
            assert get(balancer.port, "/sub/??a.txt,a.txt").body == b"aa"
            several = "/sub/??a.txt,not.txt"
            assert get(balancer.port, several).json["path"] == several
            assert told.recv(1000) == several.encode()


# -- ours alone -------------------------------------------------------------------


def test_a_redirect_keeps_the_method_and_adds_no_field(start_balancer: Start, node: Node) -> None:
    balancer = start_balancer(using("Redirect", node, "REDIRECT HOST * new.example:8080"))
    with balancer.talk() as talk:
        answer = talk.ask(b"POST /form HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
        assert answer.status == 308
        assert answer.fields["location"] == "http://new.example:8080/form"
    refused = balancer.command("REDIRECT HOST * evil\\r\\nX")
    assert refused[0].startswith("ERROR:")


def test_a_circle_of_files_and_a_missing_one_are_refused(
    start_balancer: Start, node: Node, tmp_path: Path
) -> None:
    balancer = start_balancer("LOAD Include\n" + proxy(node.address))
    circle = tmp_path / "circle.conf"
    circle.write_text(f"INCLUDE = {circle}\n")
    assert "files include each other in a circle" in balancer.command(f"INCLUDE = {circle}")[0]
    (answer,) = balancer.command(f"INCLUDE = {tmp_path}/missing.conf")
    assert answer.startswith(f"ERROR: {tmp_path}/missing.conf: can't be read: ")
    assert get(balancer.port).status == 200


def test_a_part_of_a_large_image_in_other_colours(start_balancer: Start, tmp_path: Path) -> None:
    (tmp_path / "palimg").mkdir()
    large = bytes(range(1, 256)) * 1000
    (tmp_path / "palimg" / "a.png").write_bytes(png(GREYS, rest=large))
    balancer = start_balancer(web_server(tmp_path, "Palimg"))
    whole = get(balancer.port, "/palimg/a.png/ptff8000")
    assert whole.body != png(GREYS, rest=large)
    for first, last in ((0, 9), (50, 80), (90, 200), (100_000, 100_009)):
        part = get(balancer.port, "/palimg/a.png/ptff8000", f"Range: bytes={first}-{last}")
        assert part.status == 206
        assert part.body == whole.body[first : last + 1]
    since = f"If-Modified-Since: {whole.fields['last-modified']}"
    assert get(balancer.port, "/palimg/a.png/ptff8000", since).status == 304
    assert get(balancer.port, "/palimg/%2e%2e/palimg/a.png/ptff8000").status == 404
