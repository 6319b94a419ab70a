"""``lj perlbal console``: what it prints of a balancer's answers."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from lj_services.cli import main
from tests.support.process import free_port
from tests.support.scripted_server import serving

pytestmark = pytest.mark.unit

ANSWERS = {
    "show pool webs": ["10.0.0.6:80 3", "10.0.0.7:80 4", "."],
    "pool webs remove 10.0.0.7:80": ["OK"],
    "show nothing": ["ERROR: No such thing"],
}


def balancer(connected: socket.socket) -> None:
    """Answers as Perlbal does: unknown words are echoed in an error."""
    for line in connected.makefile("r", newline="\r\n"):
        said = line.strip()
        answer = ANSWERS.get(said, [f"ERROR: unknown command {said}"])
        connected.sendall("".join(f"{text}\r\n" for text in answer).encode())


@pytest.fixture
def server() -> Iterator[str]:
    with serving(balancer) as running:
        yield f"127.0.0.1:{running.port}"


def ask(server: str, *words: str, told: str = "") -> Result:
    return CliRunner().invoke(main, ["perlbal", "console", "--server", server, *words], input=told)


def test_people_see_the_lines(server: str) -> None:
    assert ask(server, "show", "pool", "webs").stdout == "10.0.0.6:80 3\n10.0.0.7:80 4\n"


def test_machines_get_one_document(server: str) -> None:
    told = "pool webs remove 10.0.0.7:80\nshow pool webs\n"
    assert json.loads(ask(server, "--json", told=told).stdout) == [
        {"command": "pool webs remove 10.0.0.7:80", "answer": []},
        {"command": "show pool webs", "answer": ["10.0.0.6:80 3", "10.0.0.7:80 4"]},
    ]


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_refusal_says_which_line_and_why(server: str, form: tuple[str, ...]) -> None:
    refused = ask(server, *form, told="show pool webs\nshow nothing\n")
    assert (refused.exit_code, refused.stderr) == (5, "Error: show nothing: No such thing\n")
    assert ("10.0.0.6" in refused.stdout) == (form == ())


def test_no_balancer_says_what_to_name() -> None:
    away = ask(f"127.0.0.1:{free_port()}", "version")
    assert away.exit_code == 6
    assert "name its console with --server" in away.stderr
