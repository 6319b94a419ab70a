"""Sizes, run ids, and the options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, get_args

import click

from disk_checker.errors import DiskCheckerError
from disk_checker.plan import SyncName, WorkloadName, parse_size


class Size(click.ParamType[int]):
    """A size as 512, 16k, 64M, 2G."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return value if isinstance(value, int) else parse_size(str(value))
        except DiskCheckerError as error:
            self.fail(str(error), param, ctx)


def run_id(text: str | None) -> int | None:
    """A run's id from its name; None of None."""
    if text is None:
        return None
    try:
        return int(text, 16)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is not a run's id: `create` says it in its first line, 16 hexadecimal digits"
        ) from None


def writing_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a run, shared by `create` and `run`."""
    options = [
        click.option(
            "--workload",
            type=click.Choice(get_args(WorkloadName)),
            default="overwrite",
            show_default=True,
            help="Where it writes.",
        ),
        click.option(
            "--sync",
            type=click.Choice(get_args(SyncName)),
            default="fsync",
            show_default=True,
            help="How it asks for durability; sync_file_range and "
            "none promise nothing and are there to show that.",
        ),
        click.option("--direct", is_flag=True, help="O_DIRECT: past the page cache."),
        click.option(
            "--block-size",
            type=Size(),
            default="16k",
            show_default=True,
            help="512 to 1M, a multiple of 512.",
        ),
        click.option(
            "--threads",
            type=click.IntRange(1, 256),
            default=1,
            show_default=True,
            help="So many threads write and sync at once.",
        ),
        click.option(
            "--depth",
            type=click.IntRange(1, 1024),
            default=1,
            show_default=True,
            help="Writes of a thread before each sync.",
        ),
        click.option(
            "--fill",
            is_flag=True,
            help="Write every block once first, so that the "
            "file's metadata is not at stake as well.",
        ),
        click.option(
            "--read-back",
            type=click.IntRange(0),
            default=100,
            show_default=True,
            help="Read an old block back after so many writes; 0: never.",
        ),
        click.option(
            "--on-error",
            type=click.Choice(["stop", "continue"]),
            default="stop",
            show_default=True,
            help="After an I/O error.",
        ),
        click.option(
            "--force",
            is_flag=True,
            help="Overwrite data that is not disk-checker's.  "
            "A device in use is refused all the same.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return wraps(function)(function)


def as_words(options: dict[str, Any]) -> list[str]:
    """Options of a run as `create` reads them."""
    words: list[str] = []
    for name, value in options.items():
        if value is True:
            words.append(f"--{name.replace('_', '-')}")
        elif value not in (False, None):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words
