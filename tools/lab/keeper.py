"""The process that holds a lab; run as ``python -m tools.lab.keeper FOLDER`` by ``control``.

It is process 1 of a process namespace and alone in a network namespace, so everything
that it starts ends with it.  It answers in two places, in lines of text:

* the socket ``control`` in the state folder, for whoever has the lab: a request is a
  JSON list of words (``["pull", "db-a"]``, ``["cut", "db-a", "cluster1"]``,
  ``["status"]``, ``["status", "db-a"]``, ``["end"]``), the answer a JSON object with ``error``
  or ``answer``;
* a port at the lab's own address, for its hosts: the rack's power switch.  A request is
  ``KEY VERB HOST``, VERB one of status, on, off and reset; the answer begins with ``ok``
  or ``error``.  KEY is the content of ``power.key`` in the state folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tools.lab import network
from tools.lab.control import State
from tools.lab.machine import Machine, MachineError
from tools.lab.plan import GATEWAY, POWER_PORT, BadPlan, Plan
from tools.lab.rack import machine

LINE_LIMIT = 4096
VERBS = ("on", "pull", "press", "reset", "renew", "cut", "mend", "fail", "heal")
SWITCH_VERBS = ("status", "on", "off", "reset")
FAILURES = (BadPlan, MachineError, OSError, subprocess.SubprocessError, TypeError, ValueError)
"""What may come of carrying out a request; whoever asked is told."""


def reason(error: Exception) -> str:
    """What an error says, in a line."""
    return " ".join(str(error).split()) or type(error).__name__


class Keeper:
    """Carries out what is asked of a lab's machines, one thing at a time for each."""

    def __init__(self, plan: Plan, machines: dict[str, Machine], key: str) -> None:
        self._plan = plan
        self._machines = machines
        self._key = key
        self.ended = asyncio.Event()

    async def status(self, *names: str) -> dict[str, Any]:
        """Power, unplugged cables and failed disks of machines, of each when nothing is done to it.

        Args:
            names: which; none: all.

        Raises:
            BadPlan: there is no such machine.
        """
        found = {}
        for name in names or self._machines:
            self._plan.host(name)
            async with self._machines[name].lock:
                found[name] = self._machines[name].status()
        return found

    async def do(self, verb: str, *words: str) -> Any:
        """Carry out one request.

        Raises:
            BadPlan: there is no such machine.
            MachineError: it can't be done.
        """
        if verb == "status":
            return await self.status(*words)
        if verb == "end":
            self.ended.set()
            return "ended"
        if verb not in VERBS or not words:
            raise MachineError(f"cannot {' '.join((verb, *words))}")
        name, *rest = words
        self._plan.host(name)
        its = self._machines[name]
        async with its.lock:
            await getattr(its, verb)(*rest)
            return its.status()

    async def control(self, line: bytes) -> bytes:
        """Answer a request on the control socket."""
        try:
            answer = {"answer": await self.do(*json.loads(line))}
        except FAILURES as error:
            answer = {"error": reason(error)}
        return json.dumps(answer).encode() + b"\n"

    async def switch(self, line: bytes) -> bytes:
        """Answer a request to the power switch."""
        key, verb, name = (*line.decode(errors="replace").split(), "", "", "")[:3]
        if not hmac.compare_digest(key.encode(), self._key.encode()):
            return b"error: wrong key\n"
        if verb not in SWITCH_VERBS or name not in self._machines:
            return f"error: cannot {verb} {name}\n".encode()
        if verb != "status":
            # Said on the lab's own log: whoever reads it later wants to know who shot whom.
            print(f"power switch: {verb} {name}", file=sys.stderr, flush=True)
            try:
                await self.do("pull" if verb == "off" else verb, name)
            except FAILURES as error:
                return f"error: {reason(error)}\n".encode()
        return f"ok {'on' if self._machines[name].is_on else 'off'}\n".encode()


def one_line(
    answer: Callable[[bytes], Awaitable[bytes]],
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """A handler for connections that bring one line and take one away."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # Whoever it was is gone, said nothing, or too much.
            with contextlib.suppress(OSError, ValueError):
                line = await asyncio.wait_for(reader.readline(), 10)
                writer.write(await answer(line))
                await writer.drain()
        finally:
            writer.close()

    return handle


async def keep(state: State) -> None:
    """Hold a lab until it is told to end, or by a signal."""
    plan = state.plan()
    network.make(plan)
    machines = {host.name: machine(plan, host, state.frame(host)) for host in plan.hosts}
    keeper = Keeper(plan, machines, state.power_key.read_text().strip())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, keeper.ended.set)
    async with (
        await asyncio.start_unix_server(one_line(keeper.control), state.socket, limit=LINE_LIMIT),
        await asyncio.start_server(
            one_line(keeper.switch), str(GATEWAY.ip), POWER_PORT, limit=LINE_LIMIT
        ),
    ):
        for name in machines:
            await keeper.do("on", name)
        state.ready.touch()
        await keeper.ended.wait()
        for name in machines:
            await keeper.do("pull", name)


if __name__ == "__main__":
    asyncio.run(keep(State(Path(sys.argv[1]))))
