"""What workers say to each other, passed on by the master: the two ends of `bus.Bus`.

Each worker has a channel of its own for that.  The master gives every text a time and sends it
to all workers, the one that said it included, in the order in which it came; it keeps the last
ones of a topic if it is told to, for workers that start later.

Nobody waits for a worker that does not read: one that is more than `MOST_BEHIND` bytes behind is
hung up on, and ends, as it does when the master is gone; another one takes its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from lj_services.perlbal.bus import Bus, Said
from lj_services.perlbal.workers.channel import Channel

MOST_BEHIND: Final = 64 << 20
"""Bytes that may wait for one worker."""

log = logging.getLogger(__name__)


class Relay:
    """The master's side."""

    def __init__(self) -> None:
        self._ends: set[Channel] = set()
        self._kept: dict[str, deque[bytes]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, connected: socket.socket) -> None:
        """Have a worker hear the others, and what was kept; `connected` is owned from now on."""
        channel = await Channel.over(connected)
        for kept in self._kept.values():
            for line in kept:
                channel.post(line)
        self._ends.add(channel)
        task = asyncio.get_running_loop().create_task(self._listen(channel))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _listen(self, channel: Channel) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                self._pass_on(channel, await channel.receive())
        self._ends.discard(channel)
        channel.close()

    def _pass_on(self, sender: Channel, message: dict[str, Any]) -> None:
        told = {"topic": message["topic"], "at": int(time.time()), "text": message["text"]}
        line = json.dumps(told).encode() + b"\n"
        keep = message["keep"]
        if keep:
            kept = self._kept.get(message["topic"])
            if kept is None or kept.maxlen != keep:
                kept = self._kept[message["topic"]] = deque(kept or (), keep)
            kept.append(line)
        for channel in list(self._ends):
            if channel is sender:
                back = json.dumps({**told, "number": message["number"]}).encode() + b"\n"
                behind = channel.post(back)
            else:
                behind = channel.post(line)
            if behind > MOST_BEHIND:
                log.error("a worker does not hear what the others say; it is hung up on")
                self._ends.discard(channel)
                channel.abort()

    def close(self) -> None:
        """Hang up on everybody."""
        for task in self._tasks:
            task.cancel()
        for channel in self._ends:
            channel.close()
        self._ends.clear()


class Speaker:
    """A worker's side.

    Args:
        bus: what its balancer speaks and hears by.
        gone: called when the master hangs up.
    """

    def __init__(self, bus: Bus, gone: Callable[[], None]) -> None:
        self._bus = bus
        self._gone = gone
        self._numbers = itertools.count()
        self._own: dict[int, Callable[[], None]] = {}
        self._channel: Channel | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self, connected: socket.socket) -> None:
        """Speak and hear over a connected socket, which is owned from now on."""
        self._channel = channel = await Channel.over(connected)
        self._bus.carry = self._say
        self._task = asyncio.get_running_loop().create_task(self._listen(channel))

    def _say(self, said: Said) -> None:
        number = next(self._numbers)
        if said.heard is not None:
            self._own[number] = said.heard
        told = {"topic": said.topic, "text": said.text, "keep": said.keep, "number": number}
        if self._channel is not None:
            self._channel.post(json.dumps(told).encode() + b"\n")

    async def _listen(self, channel: Channel) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                told = await channel.receive()
                self._bus.hear(told["topic"], told["at"], told["text"])
                heard = self._own.pop(told.get("number", -1), None)
                if heard is not None:
                    heard()
        self._gone()

    def close(self) -> None:
        """Hang up."""
        if self._task is not None:
            self._task.cancel()
        if self._channel is not None:
            self._channel.close()
