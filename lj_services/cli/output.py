"""How commands speak: tables and sentences for people, one JSON document for machines.

Every command that prints takes ``--json`` (`json_option`).  What is printed is
gathered first and written once, so that the output is whole or absent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lj_services.daemon import ExitCode

WIDE = 10_000

F = TypeVar("F", bound=Callable[..., Any])


class CommandError(click.ClickException):
    """A command that can't do its work: printed as one line on stderr, with an exit code."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        # click declares the code per class, but reads it from the instance.
        self.exit_code = exit_code  # type: ignore[misc]


def json_option(function: F) -> F:
    """Add ``--json``; the function is given `as_json: bool`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON document for machines."
    )(function)


def _cell(value: Any) -> Text:
    """A value as plain text: what users called themselves is never taken for markup."""
    return Text("" if value is None else str(value))


class Output:
    """Where a command prints, in one of the two forms."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self.console = Console(highlight=False, soft_wrap=True)
        if not self.console.is_terminal:
            self.console.width = WIDE  # what other programs read is never cut off

    def document(self, value: Any) -> None:
        """Print `value` as JSON; only for ``--json``, where it must be all that is printed."""
        click.echo(json.dumps(value, indent=2, default=str, ensure_ascii=False))

    def table(
        self, columns: Sequence[str], rows: Sequence[Mapping[str, Any]], *, title: str | None = None
    ) -> None:
        """Print rows (column name -> value): a table, or a JSON list of objects.

        Args:
            columns: names of the values to show, in order; also the headings.
            rows: the JSON form prints them whole.
            title: heading of the table.
        """
        if self.as_json:
            self.document(list(rows))
            return
        table = Table(title=title, title_justify="left", header_style="bold", box=None)
        for column in columns:
            numeric = all(isinstance(row.get(column), int | float) for row in rows)
            table.add_column(
                column, justify="right" if rows and numeric else "left", overflow="fold"
            )
        for row in rows:
            table.add_row(*(_cell(row.get(name)) for name in columns))
        self.console.print(table)

    def record(self, values: Mapping[str, Any]) -> None:
        """Print one thing: a line per value, or a JSON object."""
        if self.as_json:
            self.document(dict(values))
            return
        table = Table(show_header=False, box=None, pad_edge=False)
        for name, value in values.items():
            table.add_row(Text(name, style="bold"), _cell(value))
        self.console.print(table)

    def say(self, text: str) -> None:
        """A sentence for people; silent with ``--json``."""
        if not self.as_json:
            self.console.print(text, markup=False)
