"""What a lab's keeper answers, with machines that are none."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.unit.lab.test_plan import pair
from tools.lab.keeper import Keeper
from tools.lab.machine import MachineError

pytestmark = pytest.mark.unit
KEY = "k3y"


class Pretended:
    """A machine that remembers what was done to it."""

    def __init__(self) -> None:
        self.is_on = True
        self.cut_links: list[str] = []

    def status(self) -> dict[str, Any]:
        return {"on": self.is_on, "cut": self.cut_links}

    async def on(self) -> None:
        self.is_on = True

    async def pull(self) -> None:
        self.is_on = False

    async def reset(self) -> None:
        self.is_on = True

    async def press(self) -> None:
        raise MachineError("db-a is off")

    async def cut(self, network: str) -> None:
        self.cut_links.append(network)


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
