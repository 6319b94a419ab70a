"""The Gearman servers that are compared: ours, Debian's gearmand (C) and Perl's."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil

import lj_services
from bench import _gearman_load as load
from bench.harness import Contender, Subject, free_port, wait_until_it_answers

C_SERVER = "/usr/sbin/gearmand"
PERL_SERVER = "/usr/bin/gearmand"
LJ = str(Path(sys.executable).parent / "lj")

OURS = [LJ, "gearman", "serve", "--listen", "127.0.0.1:PORT", "--set", "max_connections=20000"]
C_DEFAULT = [C_SERVER, "-L", "127.0.0.1", "-p", "PORT", "-l", "none", "-P", "FOLDER/pid"]
C_ONE_THREAD = [*C_DEFAULT, "-t", "1"]
C_MANY_FILES = [*C_DEFAULT, "-f", "20000", "-b", "1024"]
PERL = ["perl", PERL_SERVER, "-L", "127.0.0.1", "-p", "PORT"]
OURS_STORED = [*OURS, "--set", "persist.writer='sqlite:///FOLDER/jobs.db'"]
C_STORED = [*C_DEFAULT, "-q", "libsqlite3", "--libsqlite3-db", "FOLDER/jobs.db"]


@contextmanager
def running(argv: Sequence[str]) -> Iterator[Subject]:
    """A server for the length of the block; PORT and FOLDER in `argv` are replaced."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        words = [word.replace("PORT", str(port)).replace("FOLDER", folder) for word in argv]
        process = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            wait_until_it_answers(port)
            yield Subject(port, process.pid)
        finally:
            process.terminate()
            process.wait()


def version(argv: Sequence[str]) -> str:
    """What a server answers to ``version``."""
    with running(argv) as subject:
        return load.ask(subject.value, b"version").decode().strip().removeprefix("OK ")


def resident_bytes(subject: Subject) -> int:
    """Memory of a server."""
    size: int = psutil.Process(subject.pid).memory_info().rss
    return size


ours = partial(Contender, "lj gearman serve", lj_services.__version__)
"""Our server; call it with what starts it."""
