"""What running servers of all systems have in common in tests: a port, and how `lj` starts them."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

from tests.support.process import Running, accepts, free_port, spawn

LONGEST_WAIT_S = 20.0
"""How long a conversation with a server may be silent, in seconds."""
LJ = Path(sys.executable).parent / "lj"
"""The operator's command."""


class LocalServer:
    """A running server on 127.0.0.1."""

    def __init__(self, port: int, running: Running) -> None:
        self.port = port
        self.running = running

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


def serve_command(system: str, port: int, *settings: str) -> list[str]:
    """``lj SYSTEM serve`` on a port; settings are words for ``--set``."""
    words = [word for setting in settings for word in ("--set", setting)]
    return [str(LJ), system, "serve", "--listen", f"127.0.0.1:{port}", *words]


def start_server(system: str, folder: Path, stack: ExitStack, *settings: str) -> LocalServer:
    """Run ``lj SYSTEM serve`` on a free port until `stack` ends; its log is in `folder`."""
    port = free_port()
    log = folder / f"{port}.log"
    argv = serve_command(system, port, *settings)
    return LocalServer(port, stack.enter_context(spawn(argv, log, ready=lambda: accepts(port))))
