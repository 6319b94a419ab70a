"""The plugin for monitoring: levels, the line, figures."""

from __future__ import annotations

import json
import re
import socket

import pytest
from click.testing import CliRunner, Result

from lj_services.cli import main
from lj_services.gearman.admin_client import FunctionStatus
from lj_services.gearman.checking import Level, Limits, check
from tests.support.process import free_port
from tests.support.scripted_server import answering, serving

pytestmark = pytest.mark.unit

FOUND = [FunctionStatus("mail", 12, 2, 3), FunctionStatus("it's=x", 0, 0, 0)]


def test_all_is_well() -> None:
    level, line = check(FOUND, [], Limits(), seconds=0.0123)
    assert level is Level.OK
    assert line == (
        "GEARMAN OK - 2 functions, 10 jobs wait, 2 run | time=0.012s;;;0 "
        "'it_s_x queued'=0;;;0 'it_s_x running'=0;;;0 'it_s_x workers'=0;;;0 "
        "'mail queued'=10;;;0 'mail running'=2;;;0 'mail workers'=3;;;0"
    )


@pytest.mark.parametrize(
    ("limits", "level", "said"),
    [
        (Limits(10, 10, 3), Level.OK, "OK"),
        (Limits(9, 10, 3), Level.WARNING, "WARNING - 10 jobs of mail wait"),
        (Limits(5, 9, 3), Level.CRITICAL, "CRITICAL - 10 jobs of mail wait"),
        (Limits(9, None, 4), Level.CRITICAL, "CRITICAL - mail has 3 workers of 4, 10 jobs"),
    ],
)
def test_limits(limits: Limits, level: Level, said: str) -> None:
    found = check(FOUND, ["mail"], limits, seconds=0.0)
    assert found.level is level
    assert said in found.line
    assert "it_s" not in found.line


def test_a_function_that_nobody_offers_has_no_workers() -> None:
    level, line = check(FOUND, ["other"], Limits(min_workers=1), seconds=0.0)
    assert level is Level.CRITICAL
    assert "other has 0 workers of 1" in line
    assert "'other workers'=0;;1:;0" in line


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["gearman", "check", *words])


def test_the_command() -> None:
    with serving(answering(b"mail\t12\t2\t3\n.\n")) as server:
        address = f"127.0.0.1:{server.port}"
        well = run("--server", address)
        assert well.exit_code == 0
        assert re.fullmatch(r"GEARMAN OK - .*\n", well.stdout)
        assert run("--server", address, "-w", "5").exit_code == 1
        assert run("--server", address, "-w", "5", "-c", "9").exit_code == 2
        for_machines = run("--server", address, "-w", "5", "--json")
        assert for_machines.exit_code == 1
        told = json.loads(for_machines.stdout)
        assert (told["level"], told["line"][:15]) == ("WARNING", "GEARMAN WARNING")


def test_servers_that_are_away_or_strange_and_wrong_words() -> None:
    away = run("--server", f"127.0.0.1:{free_port()}")
    assert (away.exit_code, away.stdout[:16]) == (2, "GEARMAN CRITICAL")
    for said in (b"ERR UNKNOWN_COMMAND x\r\n", b"hello\n.\n"):
        with serving(answering(said)) as server:
            strange = run("--server", f"127.0.0.1:{server.port}")
            assert (strange.exit_code, strange.stdout[:15]) == (3, "GEARMAN UNKNOWN")
    for words in (["--server", "here"], ["-w", "many"], ["--nonsense"]):
        wrong = run(*words)
        assert (wrong.exit_code, wrong.stdout[:15]) == (3, "GEARMAN UNKNOWN")


def test_a_server_that_hangs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as hung:
        late = run("--server", f"127.0.0.1:{hung.getsockname()[1]}", "-t", "0.1")
        assert (late.exit_code, late.stdout[:16]) == (2, "GEARMAN CRITICAL")
