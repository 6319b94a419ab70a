"""The access log: what is written, whatever clients send, and when its file is moved away."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.perlbal import Start, echoing, get, proxy
from tests.support.process import wait_for

pytestmark = pytest.mark.faults


def lines(file: Path, count: int) -> list[str]:
    """The lines of a file, when there are as many."""
    wait_for(
        lambda: file.exists() and file.read_text().count("\n") >= count, f"{count} lines in {file}"
    )
    return file.read_text().splitlines()


def test_requests_are_written_down(start_balancer: Start, tmp_path: Path) -> None:
    file = tmp_path / "access.log"
    with echoing() as node:
        settings = f"  SET persist_client = on\n  SET access_log = {file}"
        balancer = start_balancer(proxy(node.address, settings=settings))
        body = get(balancer.port, "/a?b=c", 'User-Agent: x" 200 1\\', "Referer: r\xe9f").body
        (line,) = lines(file, 1)
        assert re.fullmatch(
            r'127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d \+0000\] "GET /a\?b=c HTTP/1\.1" '
            rf'200 {len(body)} "r(\\\\x[0-9a-f]{{2}})+f" "x\\" 200 1\\\\"',
            line,
        )

        # A connection that stays, a response in chunks, one that a node breaks off, a refusal.
        assert balancer.command("SET web.access_log_format = json") == ["OK"]
        with balancer.talk() as talk:
            talk.ask(b"GET /chunked HTTP/1.1\r\nHost: a\r\n\r\n")
            talk.ask(b"POST /p HTTP/1.1\r\nHost: b\r\nContent-Length: 2\r\n\r\nok")
            talk.ask(b"GET /short HTTP/1.1\r\nHost: a\r\n\r\n")
        told = [json.loads(each) for each in lines(file, 4)[1:]]
        assert [each["status"] for each in told] == [200, 200, 200]
        assert [each["whole"] for each in told] == [True, True, False]
        assert [(each["method"], each["host"]) for each in told][1] == ("POST", "b")

        # Moved away, as log rotation does.
        file.rename(tmp_path / "access.log.1")
        wait_for(file.exists, "a new file")
        get(balancer.port, "/later")
        assert json.loads(lines(file, 1)[0])["target"] == "/later"

        assert balancer.command("SET web.access_log_format = xml")[0].startswith("ERROR: access_l")
        answer = balancer.command(f"SET web.access_log = {tmp_path}/missing/log")[0]
        assert answer.endswith("No such file or directory")
        assert balancer.command("SET web.access_log = none") == ["OK"]
        before = file.read_text()
        get(balancer.port, "/unwritten")
        assert balancer.command("DISABLE web") == ["OK"]
        assert file.read_text() == before


def test_what_the_client_asked_is_written_down_and_not_what_became_of_it(
    start_balancer: Start, tmp_path: Path
) -> None:
    """X-REPROXY-SERVICE has another service asked by GET."""
    (tmp_path / "file").write_text("a file")
    file = tmp_path / "access.log"
    with echoing() as node:
        node.answer_fields["/file"] = [("X-REPROXY-SERVICE", "files")]
        files = (
            f"CREATE SERVICE files\n  SET role = web_server\n  SET docroot = {tmp_path}\n"
            "ENABLE files\n"
        )
        settings = f"  SET enable_reproxy = on\n  SET access_log = {file}"
        balancer = start_balancer(files + proxy(node.address, settings=settings))
        with balancer.talk() as talk:
            request = b"POST /file HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok"
            assert talk.ask(request).body == b"a file"
        (line,) = lines(file, 1)
        assert '"POST /file HTTP/1.1" 200 6 ' in line


def test_files_are_counted(start_balancer: Start, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 3_000_000)
    file = tmp_path / "access.log"
    balancer = start_balancer(
        f"CREATE SERVICE files\n  SET role = web_server\n  SET docroot = {tmp_path}\n"
        f"  SET listen = 127.0.0.1:PORT\n  SET access_log = {file}\n"
        "  SET access_log_format = common\nENABLE files\n"
    )
    assert len(get(balancer.port, "/large").body) == 3_000_000
    assert get(balancer.port, "/missing").status == 404
    first, second = lines(file, 2)
    assert first.endswith('"GET /large HTTP/1.1" 200 3000000')
    assert '"GET /missing HTTP/1.1" 404 ' in second
