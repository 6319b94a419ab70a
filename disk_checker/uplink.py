"""The victim's line to the listener, without threads: the writer pumps it.

Writers never wait for the network in the steady state: their next writes are announced
while the present ones are made, and acknowledgements are handed over without waiting.
:meth:`Uplink.pump` sends all that gathered and takes what came.  An acknowledgement that
was still here when the power went was never made: the record then claims less than the
disk promised, never more.
"""

from __future__ import annotations

import contextlib
import ipaddress
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from disk_checker import protocol
from disk_checker.errors import ListenerGone, ProtocolError, Refused
from disk_checker.plan import Plan
from disk_checker.protocol import Frame, FrameReader, Kind

TICK_S = 0.002
BEAT_S = 0.1
ANSWER_S = 10.0
"""A listener that owes an answer for so long is gone."""

_NO_MORE = (
    "; nothing more was written.  Look at the listener; when it is back `verify` says what is "
    "there of this run, and a cut needs a new one."
)

_MOST = 10_000


def parse_address(text: str) -> tuple[str, int]:
    """("host", port) of "host:port", "[::1]:5400" or "host" (port 5400, as it always was)."""
    host, colon, port = text.rpartition(":")
    if not colon or _is_ipv6(text):
        host, port = text, "5400"
    if ":" in host and not _is_ipv6(host.strip("[]")):
        host = ""
    if not host or not port.isdigit() or not int(port) < 65536:
        raise Refused(
            f"{text!r} is not HOST:PORT (a port is a number below 65536): write it as "
            "10.0.0.9:5400, db1:5400 or [fe80::1]:5400"
        )
    return host.strip("[]"), int(port)


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def connect(address: str) -> socket.socket:
    """A connection to a listener.

    :raises ListenerGone: when there is none; the text says what to check.
    """
    try:
        line = socket.create_connection(parse_address(address), timeout=10)
    except (OSError, UnicodeError) as error:  # a name that no host can have
        why = getattr(error, "strerror", None) or error
        raise ListenerGone(
            f"No listener at {address} ({why}): start `disk-checker listen` on the machine "
            "that keeps its power, and let the port through its firewall."
        ) from None
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return line


def refusal(frame: Frame) -> Refused:
    """The listener's own words."""
    return Refused(str(protocol.decode_json(frame).get("why")))


def gone(address: str, error: OSError | None = None) -> ListenerGone:
    """A listener that was there does not answer."""
    why = "it closed the connection" if error is None else str(error)
    return ListenerGone(
        f"The listener at {address} went away ({why}): look whether it runs (its standard error "
        "says why not), start it again with the same --state, and repeat this."
    )


def _cut(frames: FrameReader, data: bytes, address: str) -> list[Frame]:
    """The frames of what was received.

    :raises ProtocolError: with the address, where something else listens.
    """
    try:
        return list(frames.feed(data))
    except ProtocolError as error:
        raise ProtocolError(
            f"What answers at {address} is no listener of disk-checker ({error}): look at the "
            "port that `disk-checker listen` says."
        ) from None


class Call:
    """A plain question-and-answer connection: verifiers, notes."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._line = connect(address)
        self._line.settimeout(600)
        self._frames = FrameReader()
        self._arrived: deque[Frame] = deque()

    def __enter__(self) -> Call:
        return self

    def __exit__(self, *_: object) -> None:
        self._line.close()

    def send(self, data: bytes) -> None:
        try:
            self._line.sendall(data)
        except OSError as error:
            raise gone(self._address, error) from None

    def receive(self, kind: Kind) -> Frame:
        """The next answer, which must be of this kind."""
        while not self._arrived:
            try:
                data = self._line.recv(1 << 20)
            except OSError as error:
                raise gone(self._address, error) from None
            if not data:
                raise gone(self._address)
            self._arrived.extend(_cut(self._frames, data, self._address))
        frame = self._arrived.popleft()
        if frame.kind is Kind.REFUSED:
            raise refusal(frame)
        if frame.kind is not kind:
            raise ProtocolError(f"{frame.kind.name} came instead of {kind.name}")
        return frame


class Uplink:
    """A run's connection.

    ``fault`` is set when the listener is lost or refuses; ``granted`` is the highest write
    whose intent is on its disk.

    :param address: the listener's.
    :param plan: what will be written.
    :raises ListenerGone: no listener.
    :raises Refused: the listener's reason.
    """

    def __init__(self, address: str, plan: Plan) -> None:
        self._line = connect(address)
        self._frames = FrameReader()
        self._out = bytearray()
        self._done: list[int] = []
        self._next = 1
        self.granted = 0
        self._unanswered_notes = 0
        self._sent = 0.0
        self._beaten = time.monotonic()
        self._owed_since: float | None = None
        self.fault: Exception | None = None
        try:
            self._line.sendall(
                protocol.encode_json(
                    Kind.OPEN, {"version": protocol.VERSION, **plan.model_dump(mode="json")}
                )
            )
            opened = self._first(address)
            if opened.kind is Kind.REFUSED:
                raise refusal(opened)
        except OSError as error:
            self._line.close()
            raise gone(address, error) from None
        except Exception:
            self._line.close()
            raise
        self.run = int(protocol.decode_json(opened)["run"])
        self._line.setblocking(False)

    def _first(self, address: str) -> Frame:
        while True:
            data = self._line.recv(65536)
            if not data:
                raise gone(address)
            for frame in _cut(self._frames, data, address):
                return frame

    def fileno(self) -> int:
        """To wait on: readable when answers came."""
        return self._line.fileno()

    def intend(self, blocks: Sequence[int]) -> int:
        """Announce writes to these blocks; the seq of the first, the others follow it."""
        first = self._next
        self._next += len(blocks)
        self._out += protocol.encode_intents(first, blocks)
        return first

    def done(self, pairs: Sequence[int]) -> None:
        """Acknowledge writes: seq, time in µs, seq, time ..."""
        self._done.extend(pairs)

    def note(self, value: dict[str, Any]) -> None:
        """Tell an error, a finding, the end; :meth:`close` waits for its answer."""
        self._flush_done()
        self._out += protocol.encode_json(Kind.NOTE, value)
        self._unanswered_notes += 1

    def pump(self) -> None:
        """Send what gathered, take what came, beat when there is nothing; never waits.

        Sends at most every two milliseconds: each message costs the listener a sync.
        """
        if self.fault is not None:
            return
        try:
            self._receive()
            now = time.monotonic()
            if now - self._sent >= TICK_S:
                self._sent = now
                self._send(now)
        except (Refused, ListenerGone) as error:
            self.fault = error
        except (OSError, ProtocolError) as error:
            self.fault = ListenerGone(f"The listener went away ({error}){_NO_MORE}")

    def attend(self, work: Callable[[], None]) -> None:
        """Do something that takes long, in a thread, and keep the line alive meanwhile."""
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(work)
            while not future.done():
                self.pump()
                time.sleep(0.01)
        future.result()

    def close(self, timeout_s: float = ANSWER_S) -> bool:
        """Send what is left, wait for the answers; whether all of it is recorded."""
        deadline = time.monotonic() + timeout_s
        while self.fault is None and time.monotonic() < deadline:
            self.pump()
            if not (self._done or self._out or self._unanswered_notes):
                break
            select.select([self._line], [], [], TICK_S)
        settled = self.fault is None and not (self._done or self._out or self._unanswered_notes)
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)
        self._line.close()
        return settled

    def _flush_done(self) -> None:
        done = self._done
        for at in range(0, len(done), 2 * _MOST):
            self._out += protocol.encode_done(done[at : at + 2 * _MOST])
        done.clear()

    def _send(self, now: float) -> None:
        self._flush_done()
        if not self._out and now - self._beaten > BEAT_S:
            self._out += protocol.encode_done([])
        if self._out:
            self._beaten = now
            if self._owed_since is None:
                self._owed_since = now
            with contextlib.suppress(BlockingIOError):
                del self._out[: self._line.send(self._out)]
        if self._owed_since is not None and now - self._owed_since > ANSWER_S:
            raise ListenerGone(f"The listener has been silent for {ANSWER_S:.0f} s{_NO_MORE}")

    def _receive(self) -> None:
        try:
            data = self._line.recv(65536)
        except BlockingIOError:
            return
        if not data:
            raise ListenerGone(f"The listener closed the connection{_NO_MORE}")
        for frame in self._frames.feed(data):
            if frame.kind is Kind.GRANTED:
                self.granted = protocol.decode_number(frame)
            elif frame.kind is Kind.NOTED:
                self._unanswered_notes -= 1
            elif frame.kind is Kind.REFUSED:
                raise refusal(frame)
        self._owed_since = None
