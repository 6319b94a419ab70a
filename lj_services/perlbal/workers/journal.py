"""What consoles have changed since the configuration file was read, for workers that come later.

Of lines that set the same thing, only the last one is kept, so it does not grow with every
node that is taken out of a pool and put in again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from lj_services.perlbal.language import Command

_SET: Final = re.compile(r"(?:set|default) (?:(\w+)[. ])?([\w.]+) ?=.*")
_POOL: Final = re.compile(r"pool (\w+) (\w+) (\S+)")
_SWITCH: Final = re.compile(r"(?:enable|disable) (\w+)")


class Journal:
    """Lines in the order in which they were carried out."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, ...], tuple[str, str]] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Each line, and the service or pool that it means where it names none."""
        return iter(self._lines.values())

    def add(self, command: Command, meant: str) -> None:
        """Write a line down; `meant` is what was created or used last before it."""
        key = _key(command, meant)
        self._lines.pop(key, None)
        self._lines[key] = (command.original, meant)

    def clear(self) -> None:
        """Forget everything: the configuration file is read again."""
        self._lines.clear()


def _key(command: Command, meant: str) -> tuple[str, ...]:
    """What a line sets; two lines with the same key replace each other."""
    text = command.text
    if (found := _SET.fullmatch(text)) is not None:
        return (command.name, found[1] or meant, found[2])
    if (found := _POOL.fullmatch(text)) is not None:
        name = found[2] if found[1] in ("add", "remove") else found[1]
        return ("pool", name, found[3])
    if (found := _SWITCH.fullmatch(text)) is not None:
        return ("switch", found[1])
    return (meant, text)
