"""The two forms in which commands print."""

from __future__ import annotations

import json

import click
import pytest
from click.testing import CliRunner

from lj_services.cli import GROUPS, main
from lj_services.cli.output import CommandError, Output, json_option
from lj_services.daemon import ExitCode

pytestmark = pytest.mark.unit

ROWS = [{"name": "bob", "clusterid": 2, "note": None}, {"name": "[red]eve", "clusterid": 1}]


@click.command()
@json_option
def rows(as_json: bool) -> None:
    output = Output(as_json)
    output.say("two users")
    output.table(["name", "clusterid"], ROWS)


@click.command()
def fails() -> None:
    raise CommandError("no such user: bob", ExitCode.UNKNOWN)


def test_people_get_a_table_and_no_value_is_taken_for_markup() -> None:
    text = CliRunner().invoke(rows).output
    assert "two users" in text
    assert "bob" in text
    assert "[red]eve" in text


def test_what_goes_to_a_pipe_is_not_cut_off() -> None:
    long = "/" + "x" * 500

    @click.command()
    def wide() -> None:
        Output().table(["a", "b"], [{"a": long, "b": long}])
        Output().record({"c": long})

    lines = CliRunner().invoke(wide).output.splitlines()
    assert [line.count(long) for line in lines] == [0, 2, 1]


def test_machines_get_one_document_and_nothing_else() -> None:
    assert json.loads(CliRunner().invoke(rows, ["--json"]).output) == ROWS


def test_an_error_is_one_line_with_its_exit_code() -> None:
    result = CliRunner().invoke(fails)
    assert (result.exit_code, result.stderr) == (4, "Error: no such user: bob\n")


@pytest.mark.parametrize("name", sorted(GROUPS))
def test_every_group_exists_and_teaches(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage:" in result.output
    assert len(result.output) > 150
