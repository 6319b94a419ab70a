"""The command `disk-checker`.

One module per part of a test: ``listening`` (listen, cut), ``writing`` (create),
``verifying`` (verify), ``cycling`` (run: all of them, from the desk), ``gating`` (gate: may this
host hold data?); ``options`` has what they share.
"""

from __future__ import annotations

import sys
import traceback
from typing import Any

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
    """Usage errors end with 3, as every error of the set-up; 2 means "could not tell"."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        try:
            sys.exit(super().main(*args, **kwargs) or 0)
        except click.ClickException as error:
            error.show()
            sys.exit(SETUP)
        except click.Abort:
            sys.exit(UNKNOWN)
        except DiskCheckerError as error:
            click.echo(f"disk-checker: {error}", err=True)
            sys.exit(error.exit_code)
        except Exception:
            # Python would end with 1, which here says "data was lost".
            traceback.print_exc()
            sys.exit(SETUP)


@click.group(cls=Group, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Prove that a disk keeps what fsync promised: write, pull the power, check."""


for command in (listen, create, verify_command, run_command, cut, gate):
    main.add_command(command)
