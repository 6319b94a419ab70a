"""Start `disk-checker`: as a program, or forked from a process that has it loaded already.

The second saves the interpreter's start, which is the longest part of a cycle.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Protocol

from tests.support.process import wait_for

CHECKER = Path(sys.executable).with_name("disk-checker")


class Program(Protocol):
    """One that was started, in a session of its own."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""

    def wait(self, timeout_s: float) -> int:
        """Wait for its end; its exit code."""


Start = Callable[[Sequence[str], Path, Path], Program]
"""(the words of `disk-checker`, where its output goes, and its errors) -> the program."""


class Started:
    """A program of its own, as an operator starts it."""

    def __init__(self, words: Sequence[str], out: Path, err: Path) -> None:
        with out.open("wb") as to, contextlib.ExitStack() as stack:
            errors = subprocess.STDOUT if err == out else stack.enter_context(err.open("wb"))
            self._process = subprocess.Popen(
                [CHECKER, *words], stdout=to, stderr=errors, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.poll()

    def wait(self, timeout_s: float) -> int:
        return self._process.wait(timeout_s)


class Forked:
    """The same words, in a fork of a process that does nothing else."""

    _context: ForkServerContext | None = None
    # A process that is asked by two threads how it ended may tell one of them wrongly.
    _lock = threading.Lock()

    def __init__(self, words: Sequence[str], out: Path, err: Path) -> None:
        with Forked._lock:
            if Forked._context is None:
                os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
                Forked._context = multiprocessing.get_context("forkserver")
                Forked._context.set_forkserver_preload(["disk_checker.cli", "disk_checker.scan"])
            self._process = Forked._context.Process(target=_say, args=(list(words), out, err))
            self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        with Forked._lock:
            return self._process.exitcode

    def wait(self, timeout_s: float) -> int:
        code: list[int] = []

        def ended() -> bool:
            code.extend(number for number in (self.poll(),) if number is not None)
            return bool(code)

        wait_for(ended, "disk-checker to end", timeout_s=timeout_s, every_s=0.005)
        return code[0]


def _say(words: list[str], out: Path, err: Path) -> None:
    from disk_checker.cli import main

    os.setsid()
    for number, path in ((1, out), (2, err)):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.argv[:] = [str(CHECKER), *words]
    main()
