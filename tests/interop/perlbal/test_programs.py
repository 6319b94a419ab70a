"""Programs that people use, as clients of the balancer: curl, wrk and h2load (HTTP/1)."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.perlbal import Node, echoing, proxy, starting
from tests.support.proxies import KEPT

pytestmark = pytest.mark.interop

LARGE = 3 << 20


def _said(*words: str | Path) -> str:
    """What a program prints, which has to end well."""
    return subprocess.run(
        [*map(str, words)], capture_output=True, text=True, check=True, timeout=120
    ).stdout


@pytest.fixture(scope="module")
def echo() -> Iterator[Node]:
    with echoing() as running:
        yield running


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, echo: Node) -> Iterator[str]:
    """A reverse proxy before a node that echoes."""
    with starting(tmp_path_factory.mktemp("programs")) as start:
        balancer = start(proxy(echo.address, settings=KEPT), "ours")
        yield f"http://127.0.0.1:{balancer.port}"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A web server that takes files, too, and its folder."""
    base = tmp_path_factory.mktemp("files")
    root = base / "root"
    root.mkdir()
    (root / "large").write_bytes(bytes(range(256)) * (LARGE // 256))
    with starting(base) as start:
        balancer = start(
            f"CREATE SERVICE files\n  SET role = web_server\n  SET docroot = {root}\n"
            "  SET listen = 127.0.0.1:PORT\n  SET persist_client = on\n"
            "  SET enable_put = on\nENABLE files\n",
            "ours",
        )
        yield f"http://127.0.0.1:{balancer.port}", root


def test_curl_keeps_its_connection(url: str) -> None:
    said = _said("curl", "-sS", "-w", "\\nconnects: %{num_connects}\\n", *[f"{url}/a"] * 3)
    assert re.findall(r"^connects: (\d)$", said, re.MULTILINE) == ["1", "0", "0"]


@pytest.mark.parametrize("version", ["--http1.0", "--http1.1"])
def test_curl_posts_a_body_that_it_asks_leave_for(url: str, version: str, tmp_path: Path) -> None:
    """curl says Expect: 100-continue by itself before a large body."""
    body = tmp_path / "body"
    body.write_text("0123456789abcdef" * (LARGE // 16))
    told = tmp_path / "told"
    status = _said(
        "curl", "-sS", version, "--data-binary", f"@{body}", "-o", told, "-w", "%{http_code}", url
    )
    assert status == "200"
    assert body.read_text() in told.read_text()


def test_curl_sends_chunks(url: str, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_text("chunk " * 50_000)
    told = _said("curl", "-sS", "-T", body, "-H", "Transfer-Encoding: chunked", f"{url}/chunks")
    assert body.read_text() in told


def test_curl_goes_on_with_half_a_file(files: tuple[str, Path], tmp_path: Path) -> None:
    url, root = files
    whole = (root / "large").read_bytes()
    part = tmp_path / "part"
    part.write_bytes(whole[:1_234_567])
    _said("curl", "-sS", "-C", "-", "-o", part, f"{url}/large")
    assert hashlib.sha256(part.read_bytes()).digest() == hashlib.sha256(whole).digest()


def test_curl_puts_a_file_and_asks_whether_it_changed(
    files: tuple[str, Path], tmp_path: Path
) -> None:
    url, root = files
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine" * 1000)
    _said("curl", "-sS", "-f", "-T", mine, f"{url}/put")
    assert (root / "put").read_bytes() == mine.read_bytes()
    again = _said("curl", "-sS", "-z", root / "put", "-w", "%{http_code}", f"{url}/put")
    assert again == "304"


def test_wrk_sees_no_error(url: str) -> None:
    said = _said("wrk", "-t1", "-c16", "-d1s", f"{url}/wrk")
    assert int(re.findall(r"(\d+) requests in", said)[0]) > 16
    assert "Socket errors" not in said
    assert "Non-2xx" not in said


def test_h2load_over_http_1_gets_every_answer(url: str) -> None:
    said = _said("h2load", "--h1", "-n2000", "-c16", f"{url}/h2load")
    assert "2000 total, 2000 started, 2000 done, 2000 succeeded, 0 failed, 0 errored" in said
    assert "status codes: 2000 2xx" in said
