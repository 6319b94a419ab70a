"""What processes tell each other: through the master, in one order."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from typing import Any

import pytest

from lj_services.perlbal.bus import Bus, Said
from lj_services.perlbal.workers import relay as relay_module
from lj_services.perlbal.workers.relay import Relay, Speaker

pytestmark = pytest.mark.unit


class Process:
    """A worker's bus, and what is heard by it."""

    def __init__(self) -> None:
        self.bus = Bus()
        self.heard: list[str] = []
        self.gone = asyncio.Event()
        self.bus.subscribe("news", lambda _at, text: self.heard.append(text))
        self.speaker = Speaker(self.bus, self.gone.set)

    async def join(self, relay: Relay) -> socket.socket:
        """Be one of those that hear each other; returns the worker's own socket."""
        mine, its = socket.socketpair()
        await relay.serve(its)
        await self.speaker.start(mine)
        return mine

    async def say(self, text: str, topic: str = "news", keep: int = 0) -> None:
        """Say something, and wait until it has come back."""
        back = asyncio.Event()
        self.bus.say(Said(topic, text, keep, back.set))
        await back.wait()


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await scenario

    asyncio.run(bounded())


def test_who_is_alone_hears_itself_at_once() -> None:
    bus = Bus()
    heard: list[str] = []
    bus.subscribe("news", lambda at, text: heard.append(f"{text} {at > 0}"))
    bus.say(Said("news", "a", heard=lambda: heard.append("back")))
    bus.say(Said("other", "b"))
    assert heard == ["a True", "back"]


def test_all_hear_the_same_in_the_same_order() -> None:
    async def scenario() -> None:
        relay = Relay()
        processes = [Process() for _ in range(3)]
        for process in processes:
            await process.join(relay)
        await asyncio.gather(
            *(
                process.say(f"{number}.{n}")
                for n in range(50)
                for number, process in enumerate(processes)
            )
        )
        # The last word of each has come back; the others' are on their way.
        for process in processes:
            await process.say("end")
        assert len(set(processes[0].heard[:150])) == 150
        assert processes[0].heard[:150] == processes[1].heard[:150] == processes[2].heard[:150]
        relay.close()
        for process in processes:
            await process.gone.wait()
            process.speaker.close()

    run(scenario())


def test_who_comes_later_hears_what_was_kept() -> None:
    async def scenario() -> None:
        relay = Relay()
        first = Process()
        await first.join(relay)
        for text in "abcd":
            await first.say(text, keep=2)
        await first.say("not kept", topic="other")
        late = Process()
        await late.join(relay)
        await late.say("e")
        assert late.heard == ["c", "d", "e"]
        relay.close()

    run(scenario())


def test_nobody_waits_for_who_does_not_hear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "MOST_BEHIND", 1 << 20)

    async def scenario() -> None:
        relay = Relay()
        deaf, its = socket.socketpair()
        await relay.serve(its)
        first, second = Process(), Process()
        await first.join(relay)
        await second.join(relay)
        for number in range(40):
            await first.say(f"{number} " + "x" * 100_000)
        await second.say("end")
        assert [text.partition(" ")[0] for text in second.heard] == [*map(str, range(40)), "end"]
        # It was hung up on: what has been sent is all there is.
        deaf.setblocking(False)
        loop = asyncio.get_running_loop()
        received = 0
        try:
            while data := await loop.sock_recv(deaf, 1 << 20):
                received += len(data)
        except ConnectionResetError:
            pass
        assert received < 40 * 100_000
        deaf.close()
        relay.close()

    run(scenario())
