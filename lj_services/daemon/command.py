"""The ``serve`` command that every daemon has, made from its settings model.

::

    @serve_command(ServerSettings)
    def serve(load: Callable[[], ServerSettings]) -> ExitCode:
        '''Run the embedded memcached server.'''
        return run_service("memcached", MemcachedService, load)

gives ``serve [--config FILE] [--listen HOST:PORT] [--set KEY=VALUE ...]
[--log-format text|json]``, and a help page that lists every setting with its
default and meaning.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import click
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from lj_services.daemon.config import ServiceSettings, load_settings
from lj_services.daemon.lifecycle import ExitCode

S = TypeVar("S", bound=ServiceSettings)
P = ParamSpec("P")


class ServeCommand(click.Command):
    """A click command whose help ends with the table of the daemon's settings."""

    settings_model: type[ServiceSettings]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [
            (name, _describe(field)) for name, field in self.settings_model.model_fields.items()
        ]
        with formatter.section("Settings (TOML keys, or --set KEY=VALUE)"):
            formatter.write_dl(rows)
        with formatter.section("Signals"):
            formatter.write_dl(
                [
                    ("SIGTERM", "drain: finish what is in flight, then end; twice: at once"),
                    ("SIGHUP", "read the settings again"),
                ]
            )
        super().format_epilog(ctx, formatter)


def _describe(field: FieldInfo) -> str:
    text = field.description or ""
    if field.is_required():
        return f"{text}  [required]"
    default = field.get_default(call_default_factory=False)
    if default in (None, "", (), PydanticUndefined):
        return text
    if isinstance(default, tuple):
        default = ", ".join(map(str, default))
    return f"{text}  [default: {default}]"


def serve_command(
    model: type[S], name: str = "serve"
) -> Callable[[Callable[Concatenate[Callable[[], S], P], ExitCode]], click.Command]:
    """Turn a function that runs a daemon into its ``serve`` command.

    Args:
        model: the daemon's settings; without ``listen`` there is no such option.
        name: the command's name.

    Returns:
        A decorator.  The decorated function is given a callable that reads the
        settings (again at each call: it is what SIGHUP uses) and returns the
        exit code; other click options and arguments may be added under it.
    """

    def decorate(run: Callable[Concatenate[Callable[[], S], P], ExitCode]) -> click.Command:
        @functools.wraps(run)
        def main(
            config: Path | None,
            assignments: Sequence[str],
            log_format: str | None,
            *args: P.args,
            **kwargs: P.kwargs,
        ) -> None:
            words = list(assignments)
            listen = kwargs.pop("listen", None)
            if listen is not None:
                words.append(f"listen={listen!r}")
            if log_format is not None:
                words.append(f"log_format={log_format!r}")
            sys.exit(run(lambda: load_settings(model, config, words), *args, **kwargs))

        listens = [
            click.Option(["--listen"], metavar="HOST:PORT", help="Address that clients connect to.")
        ]
        if "listen" not in model.model_fields:
            listens.clear()
        command: Any = click.command(name, cls=ServeCommand)(main)
        command.settings_model = model
        command.params = [
            click.Option(
                ["--config"],
                type=click.Path(dir_okay=False, path_type=Path),
                help="Settings file (TOML).  Without one the defaults run.",
            ),
            *listens,
            click.Option(
                ["--set", "assignments"],
                multiple=True,
                metavar="KEY=VALUE",
                help="Override one setting; may be given many times.",
            ),
            click.Option(
                ["--log-format"],
                type=click.Choice(["text", "json"]),
                help="Log lines for people or for machines.",
            ),
            *command.params,
        ]
        result: click.Command = command
        return result

    return decorate
