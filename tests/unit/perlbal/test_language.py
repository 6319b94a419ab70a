"""The configuration language: lines to commands."""

from __future__ import annotations

import pytest

from lj_services.perlbal.errors import CommandError
from lj_services.perlbal.language import Command, Context, parse_line

pytestmark = pytest.mark.unit


def parsed(line: str, **environment: str) -> Command:
    command = parse_line(line, Context(), environment)
    assert command is not None
    return command


def test_comments_and_white_space_go() -> None:
    assert parsed("  SET   web.pool =  Apaches  # mine").text == "set web.pool = Apaches"
    assert parse_line("   # nothing", Context()) is None
    assert parse_line("", Context()) is None


def test_case_goes_left_of_the_first_equals_sign_only() -> None:
    command = parsed("VHOST *.Site.COM = Site=X")
    assert command.text == "vhost *.site.com = Site=X"
    assert command.original == "VHOST *.Site.COM = Site=X"
    assert command.name == "vhost"


def test_variables_are_put_in() -> None:
    assert parsed("SET listen = ${ip:lo}:$PORT", PORT="81").text == "set listen = 127.0.0.1:81"
    assert parsed("SET docroot = $NOTHING").text == "set docroot = "


@pytest.mark.parametrize("line", ["SET listen = ${ip:nic9}:80", "SET a = ${x:y}", "SET a = ${ip}"])
def test_unknown_variables_are_refused(line: str) -> None:
    with pytest.raises(CommandError):
        parse_line(line, Context())


def test_a_line_must_start_with_a_word() -> None:
    with pytest.raises(CommandError, match="invalid command"):
        parse_line("= 5", Context())
