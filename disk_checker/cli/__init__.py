"""The command `disk-checker`.

One module per part of a test: ``listening`` (listen, cut), ``writing`` (create),
``verifying`` (verify), ``cycling`` (run: all of them, from the desk), ``gating`` (gate: may this
host hold data?); ``options`` has what they share.
"""

from __future__ import annotations

import json
import sys
import traceback
from contextlib import suppress
from typing import Any, NoReturn

import click

from disk_checker.cli.cycling import run_command
from disk_checker.cli.gating import gate
from disk_checker.cli.listening import cut, listen
from disk_checker.cli.verifying import verify_command
from disk_checker.cli.writing import create
from disk_checker.errors import SETUP, UNKNOWN, DiskCheckerError

EPILOG = """\b
Exit codes:
  0  honest: everything acknowledged is there
  1  data was lost or damaged
  2  could not tell
  3  usage or set-up

\b
Those who know diskchecker.pl:
  diskchecker.pl -l                          disk-checker listen --state DIR
  diskchecker.pl -s HOST create FILE 500     disk-checker create HOST FILE 500M
  diskchecker.pl -s HOST verify FILE         disk-checker verify HOST FILE
"""


class Group(click.Group):
    """Usage errors end with 3, as every error of the set-up; 2 means "could not tell".

    Python and click would end with 1, which here says "data was lost".
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        words = args[0] if args else kwargs.get("args")
        as_json = "--json" in (sys.argv[1:] if words is None else words)
        try:
            code = super().main(*args, **kwargs) or 0
        except click.ClickException as error:
            with suppress(OSError):
                error.show()
            _end(error.format_message(), SETUP, as_json, said=True)
        except click.Abort:
            _end("interrupted", UNKNOWN, as_json)
        except DiskCheckerError as error:
            _end(str(error), error.exit_code, as_json)
        except OSError as error:
            denied = isinstance(error, PermissionError)
            hint = "run it as root, or name another place" if denied else "name another one"
            parts = [str(part) for part in (error.filename, error.strerror) if part]
            parts += [hint] if error.filename else []
            _end(": ".join(parts) or repr(error), SETUP, as_json)
        except SystemExit:  # click's, when whoever read its output has gone
            code = UNKNOWN
        except Exception as error:
            with suppress(OSError):
                traceback.print_exc()
            _end(repr(error), SETUP, as_json, said=True)
        sys.exit(code)


def _end(why: str, code: int, as_json: bool, *, said: bool = False) -> NoReturn:
    """End without a verdict; machines are told that in a document too.

    :param said: people know already.
    """
    with suppress(OSError):  # of who has gone, or of a log without room
        if not said:
            click.echo(f"disk-checker: {why}", err=True)
        if as_json:
            headline = f"{'COULD NOT TELL' if code == UNKNOWN else 'NOT TESTED'}: {why}"
            told = {"verdict": "unknown", "exit_code": code, "headline": headline, "error": why}
            click.echo(json.dumps(told, indent=1))
    sys.exit(code)


@click.group(cls=Group, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Prove that a disk keeps what fsync promised: write, pull the power, check."""


for command in (listen, create, verify_command, run_command, cut, gate):
    main.add_command(command)
