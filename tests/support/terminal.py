"""A program on a terminal of its own, typed to as a person would."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import termios
import time
from collections.abc import Mapping
from types import TracebackType

# What terminals are told about colours, cursors and titles.
_CONTROL = re.compile(rb"\x1b(\[[0-9;?>=]*[A-Za-z]|\][^\x07]*\x07|[=>()][0-9A-Z]?)|[\r\a\x08]")


class Terminal:
    """Run `command` on a terminal; what it shows is read without its control sequences."""

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        self._terminal, inner = pty.openpty()
        termios.tcsetwinsize(self._terminal, (50, 120))
        self._process = subprocess.Popen(
            command,
            stdin=inner,
            stdout=inner,
            stderr=inner,
            env={**environment, "TERM": "dumb"},
            start_new_session=True,
        )
        os.close(inner)
        self._shown = b""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._terminal)

    def type(self, keys: str) -> None:
        """Press `keys`."""
        os.write(self._terminal, keys.encode())

    def wait_for(self, words: str, within_s: float = 60) -> str:
        """What is shown up to `words`, which are taken away.

        Raises:
            AssertionError: they are not shown in `within_s` seconds.
        """
        deadline = time.monotonic() + within_s
        while (end := self._text().find(words)) < 0:
            ready, _, _ = select.select([self._terminal], [], [], deadline - time.monotonic())
            assert ready, f"waited for {words!r}, saw {self._text()!r}"
            self._shown += os.read(self._terminal, 65536)
        text = self._text()
        self._shown = text[end + len(words) :].encode()
        return text[:end]

    def _text(self) -> str:
        return _CONTROL.sub(b"", self._shown).decode(errors="replace")
