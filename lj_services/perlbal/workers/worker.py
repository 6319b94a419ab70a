"""A worker: a balancer that has its configuration, its sockets and its console from a master."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from typing import Final

from prometheus_client import generate_latest

from lj_services.daemon import ConfigError
from lj_services.perlbal.config import BalancerSettings
from lj_services.perlbal.language import Context
from lj_services.perlbal.server import PerlbalService
from lj_services.perlbal.workers.channel import Channel, Message
from lj_services.perlbal.workers.relay import Speaker
from lj_services.perlbal.workers.sockets import SocketClient

VARIABLE: Final = "LJ_PERLBAL_WORKER"
"""The environment variable by which a process is told that it is a worker."""

log = logging.getLogger(__name__)


def fds_of_worker() -> tuple[int, int, int] | None:
    """The ends of the sockets', the questions' and the bus's channel; None if this is no worker."""
    text = os.environ.pop(VARIABLE, None)
    if text is None:
        return None
    sockets, questions, bus = map(int, text.split(":"))
    return sockets, questions, bus


class WorkerService(PerlbalService):
    """One of several processes.

    Args:
        settings: the same as the master's.
        fds: as `fds_of_worker` gives them.
    """

    def __init__(self, settings: BalancerSettings, fds: tuple[int, int, int]) -> None:
        super().__init__(settings)
        self._channel: Channel | None = None
        self._connected = socket.socket(fileno=fds[1])
        self._bus = socket.socket(fileno=fds[2])
        self._speaker = Speaker(self.balancer.bus, self._end)
        self._serving: asyncio.Task[None] | None = None
        self._ending = False
        self._idle_s = 0.0
        sockets = SocketClient(fds[0])
        self.balancer.open_socket = sockets.open
        self.balancer.open_datagrams = sockets.open_datagrams
        self.balancer.console_at = sockets.console_at
        self.balancer.shut_down = None

    async def start(self) -> None:
        """Carry out what the master gives, and tell it how that went."""
        self._channel = channel = await Channel.over(self._connected)
        given = await channel.receive()
        try:
            self.begin(given)
        except ConfigError as error:
            await channel.send({"refused": str(error)})
            raise
        await self._speaker.start(self._bus)
        pidfile = self.balancer.pidfile
        self.balancer.pidfile = None
        told = {"pidfile": str(pidfile) if pidfile else None, "listens": self._listens()}
        await channel.send({"ready": True, **told})
        self._serving = self._loop.create_task(self._serve(channel))

    def begin(self, given: Message) -> None:
        """Carry out the configuration and what has been changed since."""
        self.load(given["config"], given["name"])
        for line, meant in given["changes"]:
            answer, well = self.balancer.run(line, Context(last_created=meant))
            if not well:
                log.warning("changed before, refused now: %s: %s", line, answer[-1])
        self.go()

    async def _serve(self, channel: Channel) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                await channel.send(self._carry_out(await channel.receive()))
        self._end()

    def _end(self) -> None:
        # Once only: the second SIGTERM would cut off who still waits for an answer.
        if not self._ending:
            self._ending = True
            log.warning("the master is gone; this worker ends")
            signal.raise_signal(signal.SIGTERM)

    def _carry_out(self, message: Message) -> Message:
        what = message["do"]
        if what == "run":
            context = Context(message["meant"], message["verbose"])
            lines, well = self.balancer.run(message["line"], context)
            answer = {"meant": context.last_created, "verbose": context.verbose}
            return {"lines": lines, "well": well, "listens": self._listens(), **answer}
        if what == "metrics":
            return {"text": generate_latest().decode()}
        if what == "reload":
            try:
                self.reload(self.settings)
            except ConfigError as error:
                return {"refused": str(error)}
            return {}
        # "retire": others have taken over, so clients may take their time to notice.
        self._idle_s = message["idle_s"]
        return {}

    def _listens(self) -> list[str]:
        """The addresses that are listened on, here or, for the console, by the master."""
        services = self.balancer.services.values()
        return [str(each.parameters.listen) for each in services if each.enabled]

    async def drain(self) -> None:
        """Take no more connections, and wait for what is going on."""
        self.balancer.drain(self._idle_s)
        await self._empty.wait()

    async def close(self) -> None:
        """Cut off who is left, and hang up."""
        if self._serving is not None:
            self._serving.cancel()
        self._speaker.close()
        await super().close()
        if self._channel is not None:
            self._channel.close()
