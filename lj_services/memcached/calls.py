"""A client's calls: what is sent for a list of keys, and what the replies mean.

Reading and writing differ in how replies belong to keys.  The answer to a get names
its keys, leaves out those that aren't there, and is looked up by key.  The answers to
n commands that write are n replies in the same order.  Either is checked before it
is believed: a value that nobody asked for, a reply of the wrong kind or one too many
mean that the connection is out of step.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from lj_services.memcached.dispatch import Dispatcher
from lj_services.memcached.errors import (
    CommandRefused,
    Fault,
    ProtocolError,
    ServerUnreachable,
    UnreadableValue,
)
from lj_services.memcached.keys import Placed
from lj_services.memcached.protocol.reply_parser import Failure, Number, Reply, Status, Value
from lj_services.memcached.rings import Server
from lj_services.memcached.serializer import Compression, Serializer
from lj_services.memcached.trace import Answer, Outcome, Trace, current_trace

log = logging.getLogger(__name__)

_GET_LINE: Final = 8000
"""Keys for one get command, in bytes; more go into further commands of the same request."""

_DONE: Final = frozenset((Status.STORED, Status.DELETED, Status.TOUCHED))


class Calls:
    """Asks servers on behalf of one client, and keeps its faults from the caller."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        serializer: Serializer,
        compression: Compression,
        raise_faults: bool,
    ) -> None:
        self._dispatcher = dispatcher
        self._servers = dispatcher.ring.servers
        self._serializer = serializer
        self._compression = compression
        self._raise_faults = raise_faults

    def read(
        self,
        operation: str,
        keys: list[Any],
        placed: list[Placed],
        encode: Callable[[list[bytes]], bytes],
    ) -> dict[Any, tuple[Any, int | None]]:
        """Values and cas numbers by the caller's keys.

        Args:
            operation: for the trace.
            keys: the caller's keys, each once.
            placed: the same keys, as they are sent.
            encode: wire keys -> the bytes of one command.
        """
        answers: list[tuple[int, Server, Value | None]] = []
        faults: list[Fault] = []

        def build(positions: list[int]) -> tuple[bytes, int]:
            wires = [placed[position].wire for position in positions]
            if sum(map(len, wires)) + len(wires) <= _GET_LINE:
                return encode(wires), 1
            lines = _lines(wires)
            return b"".join(map(encode, lines)), len(lines)

        def accept(index: int, positions: list[int], replies: list[Reply]) -> None:
            server = self._servers[index]
            values: dict[bytes, Value] = {}
            for reply in replies:
                if type(reply) is Value:
                    values[reply.key] = reply
                elif isinstance(reply, Failure):
                    faults.append(_refused(server, reply))
                elif reply is not Status.END:
                    raise ProtocolError(f"{server} answered get with {reply!r:.80}")
            if not values.keys() <= {placed[position].wire for position in positions}:
                raise ProtocolError(f"{server} answered with values that were not asked for")
            answers.extend(
                (position, server, values.get(placed[position].wire)) for position in positions
            )

        def refuse(index: int | None, positions: list[int], fault: Fault) -> None:
            faults.append(fault)
            self._trace_faults(operation, index, [placed[position] for position in positions])

        self._dispatcher.ask(placed, build, accept, refuse, repeatable=True)
        trace = self._trace()
        found: dict[Any, tuple[Any, int | None]] = {}
        for position, server, value in answers:
            outcome: Outcome = "miss"
            if value is not None:
                try:
                    data, flags = self._compression.unpack(value.data, value.flags)
                    found[keys[position]] = self._serializer.loads(data, flags), value.cas
                    outcome = "hit"
                except UnreadableValue as fault:
                    faults.append(UnreadableValue(f"{keys[position]!r} on {server}: {fault}"))
                    outcome = "fault"
            if trace is not None:
                trace.answers.append(Answer(operation, placed[position].shown, server, outcome))
        self._report(faults)
        return found

    def write(
        self,
        operation: str,
        placed: list[Placed],
        requests: list[bytes],
        allowed: frozenset[Status],
        *,
        repeatable: bool,
        numbers: bool = False,
    ) -> list[Reply | None]:
        """The reply to each of `requests`; None where there was a fault.

        Args:
            operation: for the trace.
            placed: the keys, one for each request.
            requests: a command each.
            allowed: replies that make sense; with `numbers`, so does any number.
            repeatable: sending it twice does the same as sending it once.
        """
        results: list[Reply | None] = [None] * len(requests)
        trace = self._trace()
        faults: list[Fault] = []

        def build(positions: list[int]) -> tuple[bytes, int]:
            if len(positions) == 1:
                return requests[positions[0]], 1
            return b"".join([requests[position] for position in positions]), len(positions)

        def accept(index: int, positions: list[int], replies: list[Reply]) -> None:
            server = self._servers[index]
            if len(replies) != len(positions):
                raise ProtocolError(f"{server} answered {operation} with {replies[0]!r:.80}")
            for reply in replies:
                if reply not in allowed and not isinstance(reply, Failure):
                    if numbers and isinstance(reply, Number):
                        continue
                    raise ProtocolError(f"{server} answered {operation} with {reply!r:.80}")
            for position, reply in zip(positions, replies, strict=True):
                outcome: Outcome = "refused"
                if isinstance(reply, Failure):
                    faults.append(_refused(server, reply))
                    outcome = "fault"
                else:
                    results[position] = reply
                    if reply in _DONE or isinstance(reply, Number):
                        outcome = "done"
                if trace is not None:
                    trace.answers.append(Answer(operation, placed[position].shown, server, outcome))

        def refuse(index: int | None, positions: list[int], fault: Fault) -> None:
            faults.append(fault)
            self._trace_faults(operation, index, [placed[position] for position in positions])

        self._dispatcher.ask(placed, build, accept, refuse, repeatable=repeatable)
        self._report(faults)
        return results

    def ask_all(self, request: bytes) -> dict[Server, list[Reply]]:
        """The replies of all servers that answer to a command with one closing reply."""
        answers: dict[Server, list[Reply]] = {}
        faults: list[Fault] = []

        def accept(index: int, _positions: list[int], replies: list[Reply]) -> None:
            if isinstance(replies[-1], Failure):
                faults.append(_refused(self._servers[index], replies[-1]))
            else:
                answers[self._servers[index]] = replies

        def refuse(_index: int | None, _positions: list[int], fault: Fault) -> None:
            faults.append(fault)

        self._dispatcher.ask_all(request, accept, refuse)
        self._report(faults)
        return {server: answers[server] for server in self._servers if server in answers}

    def _report(self, faults: list[Fault]) -> None:
        if not faults:
            return
        if self._raise_faults:
            raise faults[0]
        # One line for all keys of a call; for a server that is away none, since `health` said
        # so once, when it was left out, and every page would say it again.
        told = Counter((isinstance(fault, ServerUnreachable), str(fault)) for fault in faults)
        for (away, text), misses in told.items():
            level = logging.DEBUG if away else logging.INFO
            log.log(level, "memcached fault, taken as a miss (%d of them): %s", misses, text)

    def _trace(self) -> Trace | None:
        trace = current_trace.get()
        return trace if trace is not None and trace.owner is self else None

    def _trace_faults(self, operation: str, index: int | None, keys: list[Placed]) -> None:
        if (trace := self._trace()) is not None:
            server = None if index is None else self._servers[index]
            trace.answers += (Answer(operation, key.shown, server, "fault") for key in keys)


def _lines(wires: list[bytes]) -> list[list[bytes]]:
    """Split keys over commands whose lines have a bearable length."""
    lines: list[list[bytes]] = [[]]
    room = _GET_LINE
    for wire in wires:
        room -= len(wire) + 1
        if room < 0 and lines[-1]:
            lines.append([])
            room = _GET_LINE - len(wire) - 1
        lines[-1].append(wire)
    return lines


def _refused(server: Server, failure: Failure) -> CommandRefused:
    text = failure.text.decode(errors="replace")
    return CommandRefused(f"{server} refused: {failure.kind} {text}".rstrip())
