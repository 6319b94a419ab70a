"""What consoles have changed since the configuration file was read, for workers that come later.

Of lines that set the same thing, only the last one is kept, so it does not grow with every
node that is taken out of a pool and put in again.  Rules of which the first that matches counts,
and plug-ins that other lines need, stay in the place where they were first.  A drain that is told
again is told for what is left of its time.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator
from typing import Final

from lj_services.perlbal.commands.configure import DRAIN_S
from lj_services.perlbal.language import Command

_SET: Final = re.compile(r"(?:set|default) (?:(\w+)[. ])?([\w.]+) ?=.*")
_FOR: Final = re.compile(r"(?: for=(\d+))?$", re.IGNORECASE)
_STAYING: Final = frozenset({"load", "access", "vpath"})
_SWITCH: Final = re.compile(r"(?:enable|disable) (\w+)")


class Journal:
    """Lines in the order in which they were carried out.

    Args:
        clock: gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lines: dict[tuple[str, ...], tuple[str, str]] = {}
        self._ends: dict[tuple[str, ...], float] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Each line, and the service or pool that it means where it names none."""
        now = self._clock()
        for key, (line, meant) in self._lines.items():
            if key not in self._ends:
                yield line, meant
            elif (left := math.ceil(self._ends[key] - now)) > 0:
                yield f"{line} for={left}", meant

    def add(self, command: Command, meant: str) -> None:
        """Write a line down; `meant` is what was created or used last before it."""
        key = _key(command, meant)
        line = command.original
        if key[2:] == ("access reset",):
            for rule in [each for each in self._lines if each[:2] == key[:2]]:
                del self._lines[rule]
        elif command.name in _STAYING and self._lines.get(key, ("", ""))[0] == line:
            return
        self._lines.pop(key, None)
        if key[0] == "drain":
            found = _FOR.search(command.text)
            seconds = int(found[1]) if found is not None and found[1] else DRAIN_S
            self._ends[key] = self._clock() + seconds
            line = _FOR.sub("", line, count=1)
        elif key[0] == "pool":
            # The node is in, or out, for good.
            self._lines.pop(("drain", *key[1:]), None)
            self._ends.pop(("drain", *key[1:]), None)
        self._lines[key] = (line, meant)

    def drains(self) -> Journal:
        """What outlives a restart, at which the configuration file is read again.

        Who has a node drained does not know of the restart, and may be at work on the node.
        """
        others = Journal(self._clock)
        others._ends = dict(self._ends)
        others._lines = {key: self._lines[key] for key in self._ends}
        return others


def _key(command: Command, meant: str) -> tuple[str, ...]:
    """What a line sets; two lines with the same key replace each other."""
    text = command.text
    if (found := _SET.fullmatch(text)) is not None:
        return (command.name, found[1] or meant, found[2])
    words = text.split()
    if words[0] == "pool" and len(words) >= 4:
        first, second, node = words[1:4]
        verb, name = (first, second) if first in ("add", "remove", "drain") else (second, first)
        return ("drain" if verb == "drain" else "pool", name, node)
    if words[0] in ("load", "unload"):
        return ("plugin", words[1])
    if words[0] == "access":
        return ("access", meant, "access policy" if words[1] == "policy" else text)
    if (found := _SWITCH.fullmatch(text)) is not None:
        return ("switch", found[1])
    return (meant, text)
