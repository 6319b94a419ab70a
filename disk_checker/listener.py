"""`disk-checker listen`: the daemon on the machine that keeps its power.

One coroutine per connection.  Whatever arrived while the last fsync ran is one group: it
is checked, appended to the run's journal, fsynced once (in a thread, so that others are
served meanwhile) and answered with one number per kind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from disk_checker import protocol
from disk_checker.errors import DiskCheckerError, LedgerError, ProtocolError, Refused
from disk_checker.fold import STATE_SIZE, Fold
from disk_checker.ledger import MAX_IN_FLIGHT, Journal, Ledger, no_record, run_name
from disk_checker.plan import Plan
from disk_checker.protocol import Frame, FrameReader, Kind

log = logging.getLogger("disk_checker.listener")

MAX_CONNECTIONS = 1000
MAX_RANGE = protocol.MAX_PAYLOAD // STATE_SIZE
IDLE_S = 3600.0
"""A verifier that says nothing for so long is cut off; a victim beats ten times a second."""

SILENCE_S = 10.0
"""A victim that is silent for so long is gone: its run is over, its file free for the next."""

HUSH_S = 2.0
"""Who is silent for so long had no power already when the connection broke: a host that is back
soon resets it, a tunnel closes it."""


class _Victim:
    """A connection that writes: checks its messages and gathers what to append."""

    def __init__(self, run: int, plan: Plan, journal: Journal) -> None:
        self.run, self.plan, self.journal = run, plan, journal
        self.granted = 0
        self.acked = 0
        self._parts: list[bytes] = []
        self._kinds: set[Kind] = set()

    def take(self, frame: Frame) -> None:
        if frame.kind is Kind.INTENTS:
            first, blocks = protocol.decode_intents(frame)
            if first != self.granted + 1:
                raise ProtocolError(f"write {first} was announced, {self.granted + 1} is next")
            if max(blocks) >= self.plan.blocks:
                raise ProtocolError("a block beyond the target's end was announced")
            self.granted += len(blocks)
            if self.granted - self.acked > MAX_IN_FLIGHT:
                raise ProtocolError(f"more than {MAX_IN_FLIGHT} writes without acknowledgement")
        elif frame.kind is Kind.DONE:
            flat = protocol.decode_done(frame)
            if flat and not 0 < min(flat[::2]) <= max(flat[::2]) <= self.granted:
                raise ProtocolError("a write was acknowledged that was not granted")
            self.acked += len(flat) // 2
        elif frame.kind is Kind.NOTE:
            protocol.decode_json(frame)
        else:
            raise ProtocolError(f"{frame.kind.name} is not for a run under way")
        self._parts.append(protocol.encode(frame.kind, frame.payload))
        self._kinds.add(frame.kind)

    async def settle(self) -> bytes:
        """Put the group on disk; what to answer."""
        if not self._parts:
            return b""
        data, kinds = b"".join(self._parts), self._kinds
        self._parts, self._kinds = [], set()
        granted, acked = self.granted, self.acked
        await asyncio.to_thread(self.journal.append, data)
        answer = b""
        if Kind.INTENTS in kinds:
            answer += protocol.encode_number(Kind.GRANTED, granted)
        if Kind.DONE in kinds:
            answer += protocol.encode_number(Kind.RECORDED, acked)
        if Kind.NOTE in kinds:
            answer += protocol.encode(Kind.NOTED)
        return answer


class Listener:
    """Serves one ledger on one address."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._writing: dict[tuple[str, str], int] = {}
        self._unnoted: dict[int, str] = {}
        """How runs ended whose journals had no room for a note of it."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen; the address that it became (port 0 takes a free one)."""
        self._server = await asyncio.start_server(self._accept, host, port, limit=1 << 20)
        name = self._server.sockets[0].getsockname()
        return str(name[0]), int(name[1])

    async def close(self) -> None:
        """Stop listening, end the connections; what was answered is on disk anyway."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        peer = writer.get_extra_info("peername")
        try:
            if len(self._tasks) > MAX_CONNECTIONS:
                raise Refused(
                    f"This listener has {MAX_CONNECTIONS} connections, and takes no more: end some "
                    "writers, or start another listener with its own --state."
                )
            await self._serve(reader, writer)
        except DiskCheckerError as error:
            log.warning("%s: refused: %s", peer, error)
            with contextlib.suppress(OSError, TimeoutError):
                writer.write(protocol.encode_json(Kind.REFUSED, {"why": str(error)}))
                await asyncio.wait_for(writer.drain(), SILENCE_S)
        except TimeoutError:
            log.info("%s: silent for too long", peer)
        except (OSError, asyncio.CancelledError) as error:
            log.info("%s: connection lost: %s", peer, error)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames = FrameReader()
        victim: _Victim | None = None
        fold: Fold | None = None
        how, clock = "", asyncio.get_running_loop().time
        heard = clock()
        try:
            while True:
                silence = IDLE_S if victim is None else SILENCE_S
                data = await asyncio.wait_for(reader.read(1 << 18), silence)
                if not data:
                    how = "closed" if clock() - heard < HUSH_S else "silent"
                    return
                heard = clock()
                for frame in frames.feed(data):
                    if victim is not None:
                        victim.take(frame)
                    elif frame.kind is Kind.OPEN:
                        victim = self._open(frame)
                        writer.write(protocol.encode_json(Kind.OPENED, {"run": victim.run}))
                    elif frame.kind is Kind.ASK:
                        if fold is not None:
                            fold.close()
                        fold = await self._ask(frame, writer)
                    elif frame.kind is Kind.RANGE and fold is not None:
                        first, count = protocol.decode_range(frame)
                        if count > MAX_RANGE or first + count > fold.plan.blocks:
                            raise ProtocolError("a range beyond the target's end")
                        writer.write(protocol.encode(Kind.STATES, fold.states(first, count)))
                        await writer.drain()
                    else:
                        await self._other(frame, writer)
                if victim is not None:
                    writer.write(await victim.settle())
                await writer.drain()
        except (OSError, DiskCheckerError) as error:  # TimeoutError is an OSError
            hushed = isinstance(error, TimeoutError) or clock() - heard >= HUSH_S
            how = "silent" if hushed else "closed"
            how = "refused" if isinstance(error, DiskCheckerError) else how
            raise
        finally:
            try:
                if victim is not None:
                    await self._over(victim, how)
            finally:
                if fold is not None:
                    fold.close()

    async def _over(self, victim: _Victim, how: str) -> None:
        """A run ended; "" because this listener ends, which the next one will note."""
        try:
            if how:
                try:
                    await asyncio.to_thread(victim.journal.end, how)
                except LedgerError:  # no room: the next listener will note that it ended
                    self._unnoted[victim.run] = how
        finally:
            victim.journal.close()
            self._writing.pop((victim.plan.machine, victim.plan.target), None)
            log.info("run %s: over; %d writes acknowledged", run_name(victim.run), victim.acked)

    def _open(self, frame: Frame) -> _Victim:
        value = protocol.decode_json(frame)
        if value.pop("version", None) != protocol.VERSION:
            raise Refused("this listener is of another version; use the same one on both sides")
        try:
            plan = Plan.model_validate(value)
        except ValidationError as error:
            raise ProtocolError(f"not a plan: {error}") from None
        key = (plan.machine, plan.target)
        if key in self._writing:
            raise Refused(
                f"Run {run_name(self._writing[key])} is writing to {plan.target} on "
                f"{plan.hostname} right now: stop that one first (if its power went, wait until it "
                f"has been silent for {SILENCE_S:.0f} s)."
            )
        run, journal = self._ledger.open_run(plan)
        self._writing[key] = run
        log.info(
            "run %s: %s on %s: %s with %s, %d threads",
            *(run_name(run), plan.target, plan.hostname),
            *(plan.workload, plan.sync, plan.threads),
        )
        return _Victim(run, plan, journal)

    async def _ask(self, frame: Frame, writer: asyncio.StreamWriter) -> Fold:
        value = protocol.decode_json(frame)
        run = value.get("run")
        if not isinstance(run, int):
            run = self._ledger.find(str(value.get("machine")), str(value.get("target")))
        fold = await asyncio.to_thread(self._ledger.fold, run)
        fold.totals.ended = fold.totals.ended or self._unnoted.get(run, "")
        record: dict[str, Any] = {
            "run": run,
            "plan": fold.plan.model_dump(mode="json"),
            "totals": fold.totals.as_json(),
            "writing": run in self._writing.values(),
        }
        writer.write(protocol.encode_json(Kind.RECORD, record))
        await writer.drain()
        return fold

    async def _other(self, frame: Frame, writer: asyncio.StreamWriter) -> None:
        """What anybody may send about a finished or running run."""
        value = protocol.decode_json(frame)
        run = value.pop("run", None)
        if frame.kind not in (Kind.NOTE, Kind.RESULT) or not isinstance(run, int):
            raise ProtocolError(f"{frame.kind.name} makes no sense here")
        if run not in self._ledger.plans:
            raise no_record(run)
        if frame.kind is Kind.NOTE:
            # Appending is atomic per write, so a note may join a run under way.
            journal = Journal(self._ledger.path(run))
            try:
                await asyncio.to_thread(journal.append, protocol.encode_json(Kind.NOTE, value))
            finally:
                journal.close()
            writer.write(protocol.encode(Kind.NOTED))
        else:
            report = {**value, "run": run_name(run)}
            await asyncio.to_thread(self._ledger.keep_report, run, report)
            writer.write(protocol.encode(Kind.KEPT))


async def serve(ledger: Ledger, host: str, port: int, ready: Callable[[str, int], None]) -> None:
    """Listen until SIGTERM or SIGINT.

    :param ready: called once with the address.
    :raises OSError: when the address cannot be had.
    """
    listener = Listener(ledger)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    address = await listener.start(host, port)
    ready(*address)
    await stop.wait()
    await listener.close()
