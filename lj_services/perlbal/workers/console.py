"""The console of all workers: a line goes to each, and one answer comes back.

A line that only shows is answered by all workers at once.  Any other is carried out by the
first one; if that refuses it, the others are not asked; if not, it is written down for workers
that come later.  While a worker starts, changes wait, so that it misses none.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lj_services.perlbal.commands.process import how_to_shut_down
from lj_services.perlbal.errors import CommandError
from lj_services.perlbal.language import Command, Context, parse_line
from lj_services.perlbal.workers.channel import Message
from lj_services.perlbal.workers.merging import READERS, merge
from lj_services.perlbal.workers.process import Worker

if TYPE_CHECKING:
    from lj_services.perlbal.workers.master import Master

log = logging.getLogger(__name__)


class WorkersConsole:
    """What consoles' connections speak to.

    Args:
        master: whose workers it is about.
    """

    def __init__(self, master: Master) -> None:
        self.connections: set[Any] = set()
        self._master = master

    @property
    def now(self) -> float:
        """The loop's time, in seconds."""
        return asyncio.get_running_loop().time()

    async def answer(self, line: str, context: Context) -> list[str]:
        """Carry out a line; returns what is answered."""
        try:
            command = parse_line(line, context)
            if command is None:
                return []
            return await self._carry_out(command, context)
        except CommandError as error:
            return [f"ERROR: {error}"]
        except (ConnectionError, TimeoutError):
            return ["ERROR: a worker has not answered; try again"]

    async def _carry_out(self, command: Command, context: Context) -> list[str]:
        if command.name == "shutdown":
            self._master.shut_down(*how_to_shut_down(command))
            command.ok()
            return command.lines
        if command.name in ("restart", "workers"):
            command.no_arguments()
            if command.name == "workers":
                return self._workers()
            await self._master.restart()
            command.ok()
            return command.lines
        workers = self._master.ready
        if not workers:
            raise CommandError("no worker is running at the moment; try again")
        if command.name in READERS:
            answers = await self._ask_all(workers, command)
            if not answers:
                raise CommandError("no worker has answered; try again")
            return merge(command.text, [answer["lines"] for answer in answers])
        async with self._master.changing:
            return await self._change(self._master.ready, command, context)

    async def _change(
        self, workers: Sequence[Worker], command: Command, context: Context
    ) -> list[str]:
        meant = context.last_created
        first = await self._ask(workers[0], command)
        if not first["well"]:
            return list(first["lines"])
        self._master.journal.add(command, meant)
        others = await self._ask_all(workers[1:], command)
        context.last_created, context.verbose = first["meant"], first["verbose"]
        if not all(answer["well"] for answer in others):
            log.error("not all workers have done what one did: %s", command.original)
        else:
            self._master.listen_only(first["listens"])
        return merge(command.text, [answer["lines"] for answer in (first, *others)])

    async def _ask_all(self, workers: Sequence[Worker], command: Command) -> list[Message]:
        """The answers of those that give one; who dies meanwhile is replaced."""
        answers = await asyncio.gather(
            *(self._ask(each, command) for each in workers), return_exceptions=True
        )
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(
                answer, (ConnectionError, TimeoutError)
            ):
                raise answer
        return [answer for answer in answers if not isinstance(answer, BaseException)]

    async def _ask(self, worker: Worker, command: Command) -> Message:
        context = command.context
        return await worker.ask(
            {
                "do": "run",
                "line": command.original,
                "meant": context.last_created,
                "verbose": context.verbose,
            }
        )

    def _workers(self) -> list[str]:
        """WORKERS: which processes there are."""
        lines = [f"master {os.getpid()}"]
        for worker in self._master.all:
            state = "draining" if worker.generation != self._master.generation else "starting"
            age_s = int(time.time()) - worker.started
            state = "ready" if worker in self._master.ready else state
            lines.append(f"worker {worker.number} {worker.pid} {state} {age_s}s")
        return [*lines, f"died {self._master.died}", "."]
