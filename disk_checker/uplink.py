"""The victim's line to the listener: blocking calls for many threads over one connection.

Writers never wait for the network in the steady state: each announces its next writes
while it makes the present ones, and hands over acknowledgements without waiting.  One
thread sends, every few milliseconds, all that gathered; another receives.  An
acknowledgement that was still here when the power went was never made: the record then
claims less than the disk promised, never more.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from disk_checker import protocol
from disk_checker.errors import ListenerGone, ProtocolError, Refused
from disk_checker.plan import Plan
from disk_checker.protocol import Frame, FrameReader, Kind

TICK_S = 0.002
BEAT_S = 0.1
ANSWER_S = 10.0
"""A listener that owes an answer for so long is gone."""

_MOST = 10_000


def parse_address(text: str) -> tuple[str, int]:
    """("host", port) of "host:port", "[::1]:5400" or "host" (port 5400, as it always was)."""
    host, colon, port = text.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):
        host, port = text, "5400"
    if not host or not port.isdigit() or not int(port) < 65536:
        raise Refused(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def connect(address: str) -> socket.socket:
    """A connection to a listener.

    :raises ListenerGone: when there is none; the text says what to check.
    """
    try:
        line = socket.create_connection(parse_address(address), timeout=10)
    except OSError as error:
        raise ListenerGone(
            f"No listener at {address} ({error.strerror or error}): start `disk-checker listen` "
            "on the machine that keeps its power, and let the port through its firewall."
        ) from None
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return line


def refusal(frame: Frame) -> Refused:
    """The listener's own words."""
    return Refused(str(protocol.decode_json(frame).get("why")))


class Call:
    """A plain question-and-answer connection: verifiers, notes."""

    def __init__(self, address: str) -> None:
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
            raise ListenerGone(f"The listener went away: {error}") from None

    def receive(self, kind: Kind) -> Frame:
        """The next answer, which must be of this kind."""
        while not self._arrived:
            try:
                data = self._line.recv(1 << 20)
            except OSError as error:
                raise ListenerGone(f"The listener went away: {error}") from None
            if not data:
                raise ListenerGone("The listener closed the connection.")
            self._arrived.extend(self._frames.feed(data))
        frame = self._arrived.popleft()
        if frame.kind is Kind.REFUSED:
            raise refusal(frame)
        if frame.kind is not kind:
            raise ProtocolError(f"{frame.kind.name} came instead of {kind.name}")
        return frame


class Uplink:
    """A run's connection.

    :param address: the listener's.
    :param plan: what will be written.
    :raises ListenerGone: no listener.
    :raises Refused: the listener's reason.
    """

    def __init__(self, address: str, plan: Plan) -> None:
        self._line = connect(address)
        self._frames = FrameReader()
        self._out: list[bytes] = []
        self._done: deque[int] = deque()
        self._lock = threading.Lock()
        self._changed = threading.Condition()
        self._wake = threading.Event()
        self._next = 1
        self.granted = 0
        self.recorded = 0
        self._notes = 0
        self._noted = 0
        self._owed_since: float | None = None
        self._closing = False
        self.fault: Exception | None = None
        try:
            self._line.sendall(
                protocol.encode_json(
                    Kind.OPEN, {"version": protocol.VERSION, **plan.model_dump(mode="json")}
                )
            )
            opened = self._first()
        except OSError as error:
            self._line.close()
            raise ListenerGone(f"The listener went away: {error}") from None
        except Exception:
            self._line.close()
            raise
        if opened.kind is Kind.REFUSED:
            self._line.close()
            raise refusal(opened)
        self.run = int(protocol.decode_json(opened)["run"])
        self._line.settimeout(None)
        self._threads = [
            threading.Thread(target=self._guard, args=(work,), daemon=True, name=f"uplink-{name}")
            for name, work in (("send", self._send), ("receive", self._receive))
        ]
        for thread in self._threads:
            thread.start()

    def _first(self) -> Frame:
        while True:
            data = self._line.recv(65536)
            if not data:
                raise ListenerGone("The listener closed the connection.")
            for frame in self._frames.feed(data):
                return frame

    # what writers call

    def intend(self, blocks: Sequence[int]) -> int:
        """Announce writes to these blocks; the seq of the first, the others follow it."""
        with self._lock:
            first = self._next
            self._next += len(blocks)
            self._out.append(protocol.encode_intents(first, blocks))
        self._wake.set()
        return first

    def wait_granted(self, seq: int) -> None:
        """Wait until the intent of this write is on the listener's disk.

        :raises ListenerGone: it never will be: don't write.
        """
        if self.granted >= seq and self.fault is None:
            return
        with self._changed:
            self._changed.wait_for(lambda: self.granted >= seq or self.fault is not None)
        if self.fault is not None:
            raise self.fault

    def done(self, pairs: Sequence[int]) -> None:
        """Acknowledge writes: seq, time in µs, seq, time ...; does not wait."""
        self._done.extend(pairs)

    def note(self, value: dict[str, Any]) -> None:
        """Tell an error, a finding, the end; :meth:`close` waits for its answer."""
        with self._lock:
            self._flush_done()
            self._out.append(protocol.encode_json(Kind.NOTE, value))
            self._notes += 1
        self._wake.set()

    def close(self, timeout_s: float = ANSWER_S) -> bool:
        """Send what is left, wait for the answers; whether all of it is recorded."""
        with self._changed:
            settled = self._changed.wait_for(
                lambda: (
                    self.fault is not None
                    or (not self._done and not self._out and self._noted >= self._notes)
                ),
                timeout_s,
            )
        self._closing = True
        self._wake.set()
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._line.close()
        return settled and self.fault is None

    # the two threads

    def _guard(self, work: Any) -> None:
        try:
            work()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if self._closing or self.fault is not None:
            return
        self.fault = (
            error
            if isinstance(error, Refused | ListenerGone)
            else ListenerGone(f"The listener went away ({error}); nothing more was written.")
        )
        with self._changed:
            self._changed.notify_all()

    def _flush_done(self) -> None:
        """Turn waiting acknowledgements into frames; the lock is held."""
        done = self._done
        while done:
            count = min(len(done) // 2, _MOST)
            self._out.append(protocol.encode_done([done.popleft() for _ in range(2 * count)]))

    def _send(self) -> None:
        beaten = time.monotonic()
        while not self._closing and self.fault is None:
            self._wake.wait(TICK_S)
            self._wake.clear()
            now = time.monotonic()
            with self._lock:
                self._flush_done()
                out, self._out = self._out, []
            if not out and now - beaten > BEAT_S:
                out = [protocol.encode_done([])]
            if out:
                beaten = now
                if self._owed_since is None:
                    self._owed_since = now
                self._line.sendall(b"".join(out))
            if self._owed_since is not None and now - self._owed_since > ANSWER_S:
                raise ListenerGone(f"The listener has been silent for {ANSWER_S:.0f} s.")

    def _receive(self) -> None:
        while True:
            data = self._line.recv(65536)
            if not data:
                raise ListenerGone("The listener closed the connection; nothing more was written.")
            for frame in self._frames.feed(data):
                if frame.kind is Kind.GRANTED:
                    self.granted = protocol.decode_number(frame)
                elif frame.kind is Kind.RECORDED:
                    self.recorded = protocol.decode_number(frame)
                elif frame.kind is Kind.NOTED:
                    self._noted += 1
                elif frame.kind is Kind.REFUSED:
                    raise refusal(frame)
            self._owed_since = None
            with self._changed:
                self._changed.notify_all()
