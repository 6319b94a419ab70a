"""What a lab's keeper answers, with machines that are none."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.support.box import CHECKOUT
from tests.unit.lab.test_plan import pair
from tools.lab.keeper import Keeper, one_line
from tools.lab.machine import MachineError

pytestmark = pytest.mark.unit
KEY = "k3y"


class Pretended:
    """A machine that remembers what was done to it."""

    def __init__(self) -> None:
        self.is_on = True
        self.cut_links: list[str] = []
        self.lock = asyncio.Lock()

    def status(self) -> dict[str, Any]:
        return {"on": self.is_on, "cut": self.cut_links}

    async def on(self) -> None:
        self.is_on = True

    async def pull(self) -> None:
        self.is_on = False

    async def reset(self) -> None:
        await self.pull()
        await asyncio.sleep(0)
        self.is_on = True

    async def press(self) -> None:
        raise MachineError("db-a is off")

    async def cut(self, network: str) -> None:
        self.cut_links.append(network)

    async def mend(self, network: str) -> None:
        raise ConnectionRefusedError(111, "Connection refused", network)

    async def renew(self) -> None:
        raise subprocess.CalledProcessError(1, ["qemu-img"])


class Stuck(Pretended):
    """One that gets no power."""

    async def on(self) -> None:
        raise MachineError("db-a did not start:\nno image\n")

    async def reset(self) -> None:
        raise OSError(28, "No space left on device")


def keeper() -> Keeper:
    machines: Any = {"db-a": Pretended(), "db-b": Pretended()}
    return Keeper(pair(), machines, KEY)


def asked(held: Keeper, *words: str) -> Any:
    return json.loads(asyncio.run(held.control(json.dumps(words).encode())))


def test_does_what_it_is_asked() -> None:
    held = keeper()
    assert asked(held, "pull", "db-a") == {"answer": {"on": False, "cut": []}}
    assert asked(held, "cut", "db-b", "cluster1") == {"answer": {"on": True, "cut": ["cluster1"]}}
    assert asked(held, "status")["answer"]["db-a"]["on"] is False
    assert list(asked(held, "status", "db-b")["answer"]) == ["db-b"]
    asked(held, "end")
    assert held.ended.is_set()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pull"], "cannot pull"),
        (["explode", "db-a"], "cannot explode db-a"),
        (["pull", "db-c"], "no host db-c"),
        (["press", "db-a"], "db-a is off"),
        (["cut", "db-a"], "network"),
        (["mend", "db-a", "public"], "Connection refused"),
        (["renew", "db-a"], "qemu-img"),
        ([], "verb"),
    ],
)
def test_says_what_it_can_t_do(words: list[str], said: str) -> None:
    assert said in asked(keeper(), *words)["error"]


def test_survives_nonsense() -> None:
    held = keeper()
    for line in (b"", b"\xff\xfe\n", b"{}\n", b"3\n", b'"x"\n', b"[1, 2]\n"):
        assert "error" in json.loads(asyncio.run(held.control(line)))


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (f"{KEY} status db-a", "ok on"),
        (f"{KEY} off db-a", "ok off"),
        (f"{KEY} reset db-b", "ok on"),
        ("other off db-a", "error: wrong key"),
        (f"{KEY} off db-c", "error: cannot off db-c"),
        (f"{KEY} cut db-a", "error: cannot cut db-a"),
        ("", "error: wrong key"),
        ("\udcff", "error: wrong key"),
    ],
)
def test_is_the_rack_s_power_switch(line: str, answer: str) -> None:
    held = keeper()
    said = asyncio.run(held.switch(line.encode(errors="surrogateescape")))
    assert said.decode().strip() == answer


def test_nothing_is_said_of_a_machine_while_something_is_done_to_it() -> None:
    async def story() -> list[Any]:
        held = keeper()
        asked_for = (held.do("reset", "db-a"), held.do("status"))
        return [await each for each in [asyncio.create_task(one) for one in asked_for]]

    assert asyncio.run(story())[1]["db-a"]["on"] is True


def answers(
    answer: Callable[[bytes], Awaitable[bytes]], talk: Callable[[int], Awaitable[Any]]
) -> Any:
    """What a conversation with a port of this machine brings, where lines are answered."""

    async def story() -> Any:
        server = await asyncio.start_server(one_line(answer), "127.0.0.1", 0)
        async with server:
            return await talk(server.sockets[0].getsockname()[1])

    return asyncio.run(story())


def stuck() -> Keeper:
    machines: Any = {"db-a": Stuck(), "db-b": Pretended()}
    return Keeper(pair(), machines, KEY)


async def say(line: bytes, port: int) -> bytes:
    """All that comes until the other side has closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(line)
    try:
        return await asyncio.wait_for(reader.read(), 20)
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        ("on", b"error: db-a did not start: no image\n"),
        ("reset", b"error: [Errno 28] No space left on device\n"),
        ("status", b"ok on\n"),
    ],
)
def test_the_switch_says_what_it_could_not_do(verb: str, said: bytes) -> None:
    line = f"{KEY} {verb} db-a\n".encode()
    assert answers(stuck().switch, lambda port: say(line, port)) == said


def test_a_connection_is_closed_whatever_happens() -> None:
    async def breaks(line: bytes) -> bytes:
        raise RuntimeError("a mistake")

    assert answers(breaks, lambda port: say(b"status\n", port)) == b""


def test_the_stonith_plugin_hears_at_once_that_a_host_was_not_shot() -> None:
    plugin = CHECKOUT / "tools/lab/stonith/lj_lab"

    async def shoot(port: int) -> list[int]:
        ends = []
        for verb, host in (("reset", "db-a"), ("reset", "db-b"), ("off", "db-a")):
            run = await asyncio.create_subprocess_exec(
                *("bash", plugin, verb, host),
                env={**os.environ, "ipaddr": "127.0.0.1", "port": str(port), "key": KEY},
            )
            ends.append(await asyncio.wait_for(run.wait(), 20))
        return ends

    assert answers(stuck().switch, shoot) == [1, 0, 0]
