"""One worker as the master sees it: its process, its channel, its sockets' channel."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Final

from lj_services.daemon import ConfigError
from lj_services.perlbal.workers.channel import Channel, Message
from lj_services.perlbal.workers.relay import Relay
from lj_services.perlbal.workers.sockets import SocketKeeper
from lj_services.perlbal.workers.worker import VARIABLE

START_S: Final = 60.0
"""How long a worker may take to start, in seconds."""

log = logging.getLogger(__name__)


def _argv() -> list[str]:
    """How this program was started.

    By its script and not by the interpreter that has read it: where a release is a folder that a
    link leads to, the script has an interpreter, and code, of its own.
    """
    words = sys.orig_argv[1:]
    script = Path(words[0]) if words else Path()
    if script.is_file() and os.access(script, os.X_OK):
        return words
    return [sys.executable, *words]


class Worker:
    """A worker's process.

    Attributes:
        number: from 1; it says which sockets are its own.
        generation: grows with every restart.
        started: seconds since 1970.
        pidfile: where its configuration wants the process's id; None: nowhere.
        listens: where its services, consoles among them, were when it had started.
        done: ends with the exit code.
    """

    def __init__(self, number: int, generation: int) -> None:
        self.number = number
        self.generation = generation
        self.started = int(time.time())
        self.pidfile: str | None = None
        self.listens: list[str] = []
        self.ready = False
        self.done: asyncio.Task[int]
        self._process: asyncio.subprocess.Process
        self._channel: Channel

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    async def start(self, keeper: SocketKeeper, relay: Relay, given: Message) -> None:
        """Start the process, and wait until clients can connect.

        Args:
            keeper: what it has its sockets from.
            relay: by what it hears other workers.
            given: its configuration.

        Raises:
            ConfigError: a line of the configuration is refused.
            OSError: it does not start, or not in time.
        """
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        my_sockets, its_sockets = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        my_bus, its_bus = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        fds = (its_sockets.fileno(), its.fileno(), its_bus.fileno())
        stop = keeper.serve(my_sockets, self.number, self.generation)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *_argv(),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=fds,
                env={**os.environ, VARIABLE: ":".join(map(str, fds))},
            )
        except OSError:
            stop()
            mine.close()
            my_bus.close()
            raise
        finally:
            its.close()
            its_sockets.close()
            its_bus.close()
        self.done = asyncio.get_running_loop().create_task(self._wait())
        self._channel = await Channel.over(mine)
        await relay.serve(my_bus)
        try:
            async with asyncio.timeout(START_S):
                await self._channel.send(given)
                answer = await self._channel.receive()
        except (ConnectionError, TimeoutError):
            self.kill()
            raise OSError(f"worker {self.number} has not started; see its messages") from None
        if "refused" in answer:
            raise ConfigError(answer["refused"])
        self.pidfile = answer["pidfile"]
        self.listens = answer["listens"]
        self.ready = True

    async def _wait(self) -> int:
        code = await self._process.wait()
        self.ready = False
        if hasattr(self, "_channel"):
            self._channel.close()
        return code

    async def ask(self, message: Message) -> Message:
        """Its answer to a question.  Raises ConnectionError or TimeoutError."""
        return await self._channel.ask(message)

    async def retire(self, idle_s: float, patience_s: float) -> int:
        """End it when its clients have their answers; returns the exit code.

        Args:
            idle_s: how long idle clients may still ask for something, in seconds.
            patience_s: after how many seconds it is ended at once.
        """
        with contextlib.suppress(ConnectionError, TimeoutError):
            await self.ask({"do": "retire", "idle_s": idle_s})
        self.signal(signal.SIGTERM)
        await asyncio.wait({self.done}, timeout=patience_s)
        if not self.done.done():
            self.signal(signal.SIGTERM)
            await asyncio.wait({self.done}, timeout=5.0)
            self.kill()
        return await asyncio.shield(self.done)

    def signal(self, number: int) -> None:
        """Send it a signal, if it is there."""
        if hasattr(self, "_process") and not self.done.done():
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once."""
        self.signal(signal.SIGKILL)
