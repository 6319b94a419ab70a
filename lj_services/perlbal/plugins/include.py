"""Include: configuration in several files.

::

    LOAD include
    INCLUDE = /etc/perlbal/pools.conf
    INCLUDE = /etc/perlbal/services/*.conf

Patterns are the shell's; files are read in the order of their names.  A file that is named
without a pattern must be there.  What goes wrong names file and line.

Source: Perlbal::Plugin::Include of Perlbal 1.80.
"""

from __future__ import annotations

import glob
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lj_services.perlbal.errors import CommandError, ConfigFileError
from lj_services.perlbal.language import Command
from lj_services.perlbal.plugin import Plugin

if TYPE_CHECKING:
    from lj_services.perlbal.balancer import Balancer

_INCLUDE = re.compile(r"include ?= ?(.+)")
MOST_DEEP: Final = 16
"""Files that may include one another; more of them is a circle."""


class Include(Plugin):
    """The plug-in."""

    title = "Include"

    def __init__(self) -> None:
        super().__init__()
        self.commands = {"include": self._include}
        self._depth = 0

    def _include(self, balancer: Balancer, command: Command) -> None:
        words = command.match(_INCLUDE, "usage: INCLUDE = <config files>")[1].split()
        if self._depth == MOST_DEEP:
            raise CommandError("files include each other in a circle")
        self._depth += 1
        try:
            for word in words:
                for file in _files(word):
                    balancer.load_file(file)
        except ConfigFileError as error:
            raise CommandError(str(error)) from None
        finally:
            self._depth -= 1
        command.ok()


def _files(word: str) -> list[Path]:
    """What a word of INCLUDE means."""
    if not glob.has_magic(word):
        return [Path(word)]
    return [Path(name) for name in sorted(glob.glob(word))]  # noqa: PTH207


plugin = Include()
"""What LOAD takes; each balancer of a process shares it."""
