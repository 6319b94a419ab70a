"""Load for Gearman servers over the raw protocol: prepared packets, counted answers, one thread.

Clients count the results by their headers, and workers look at nothing but the handle of a
job, so that the generator takes a fraction of the time that any server takes.
"""

from __future__ import annotations

import select
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, closing

FUNCTION = b"bench"
PAYLOAD = b"p" * 32
RESULT = b"r" * 32
MAGIC = b"\0REQ"
PARTS = struct.Struct(">II")
READ = 1 << 18

CAN_DO, PRE_SLEEP, NOOP, SUBMIT, GRAB, NO_JOB, ASSIGN, COMPLETE, SUBMIT_BG = (
    *(1, 4, 6, 7, 9, 10, 11, 13, 18),
)


def packet(kind: int, *args: bytes) -> bytes:
    """A packet to the server."""
    body = b"\0".join(args)
    return MAGIC + PARTS.pack(kind, len(body)) + body


def mark(kind: int) -> bytes:
    """How a packet from the server begins."""
    return b"\0RES" + struct.pack(">I", kind)


CREATED_MARK = mark(8)
COMPLETE_MARK = mark(COMPLETE)
SUBMIT_PACKET = packet(SUBMIT, FUNCTION, b"", PAYLOAD)
GRAB_PACKET = packet(GRAB)
SLEEP_PACKET = packet(PRE_SLEEP)


def connect(port: int) -> socket.socket:
    """A connection that sends at once."""
    connected = socket.create_connection(("127.0.0.1", port), 30)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connected


class Counter:
    """Counts the packets of one kind in what arrives."""

    def __init__(self, marked: bytes) -> None:
        self._mark = marked
        self._rest = b""

    def count(self, data: bytes) -> int:
        """How many have begun in `data`, or ended their beginning there."""
        data = self._rest + data
        self._rest = data[-len(self._mark) + 1 :]
        return data.count(self._mark)


class Worker:
    """A worker that does what it is given at once, and sleeps when there is nothing."""

    def __init__(self, port: int, function: bytes = FUNCTION) -> None:
        self.socket = connect(port)
        self.socket.sendall(packet(CAN_DO, function) + GRAB_PACKET)
        self._rest = b""
        self.done = 0

    def __call__(self) -> None:
        """Answer what has arrived."""
        data = self._rest + received(self.socket)
        out: list[bytes] = []
        start, end = 0, len(data)
        while end - start >= 12:
            kind, length = PARTS.unpack_from(data, start + 4)
            after = start + 12 + length
            if after > end:
                break
            if kind == ASSIGN:
                handle = data[start + 12 : data.index(0, start + 12)]
                size = len(handle) + 1 + len(RESULT)
                out.append(MAGIC + PARTS.pack(COMPLETE, size) + handle + b"\0" + RESULT)
                out.append(GRAB_PACKET)
                self.done += 1
            elif kind == NO_JOB:
                out.append(SLEEP_PACKET)
            elif kind == NOOP:
                out.append(GRAB_PACKET)
            start = after
        self._rest = data[start:]
        if out:
            self.socket.sendall(b"".join(out))


class Client:
    """Keeps so many foreground jobs in flight on one connection."""

    def __init__(self, port: int, in_flight: int) -> None:
        self.socket = connect(port)
        self.socket.sendall(SUBMIT_PACKET * in_flight)
        self._counter = Counter(COMPLETE_MARK)
        self.done = 0

    def __call__(self) -> None:
        """Replace the jobs that are done."""
        count = self._counter.count(received(self.socket))
        if count:
            self.done += count
            self.socket.sendall(SUBMIT_PACKET * count)


def received(connected: socket.socket) -> bytes:
    """What has arrived; there is something."""
    data = connected.recv(READ)
    if not data:
        raise ConnectionError("the server closed the connection")
    return data


class Loop:
    """Calls whoever has something to read."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._members: dict[int, Callable[[], None]] = {}

    def close(self) -> None:
        """Look at nothing any more."""
        self._poll.close()

    def add(self, connected: socket.socket, call: Callable[[], None]) -> None:
        """`call` is called when `connected` can be read."""
        self._members[connected.fileno()] = call
        self._poll.register(connected.fileno(), select.EPOLLIN)

    def once(self, timeout_s: float) -> None:
        """Wait for input, up to `timeout_s`."""
        for number, _ in self._poll.poll(timeout_s):
            self._members[number]()

    def run(self, duration_s: float) -> None:
        """Go on for so long."""
        end = time.perf_counter() + duration_s
        while time.perf_counter() < end:
            self.once(1.0)


def foreground(
    port: int, *, in_flight: int, workers: int, clients: int = 1, duration_s: float
) -> float:
    """Foreground jobs a second, each client with `in_flight` of them."""
    with ExitStack() as stack:
        loop = stack.enter_context(closing(Loop()))
        for _ in range(workers):
            worker = Worker(port)
            stack.enter_context(worker.socket)
            loop.add(worker.socket, worker)
        callers = [Client(port, in_flight) for _ in range(clients)]
        for caller in callers:
            stack.enter_context(caller.socket)
            loop.add(caller.socket, caller)
        loop.run(0.2)
        before, started = sum(caller.done for caller in callers), time.perf_counter()
        loop.run(duration_s)
        return (sum(caller.done for caller in callers) - before) / (time.perf_counter() - started)


class Paced:
    """A client with one job at a time, that was due at a time of its own."""

    def __init__(self, port: int, free: deque[Paced], trips_s: list[float]) -> None:
        self.socket = connect(port)
        self._free = free
        self._trips_s = trips_s
        self._counter = Counter(COMPLETE_MARK)
        self._due = 0.0

    def submit(self, due: float) -> None:
        """Submit a job that should have been submitted at `due`."""
        self._due = due
        self.socket.sendall(SUBMIT_PACKET)

    def __call__(self) -> None:
        """The job may be done."""
        if self._counter.count(received(self.socket)):
            self._trips_s.append(time.perf_counter() - self._due)
            self._free.append(self)


def round_trip_ms(
    port: int, *, rate: float, share: float = 0.99, clients: int = 64, duration_s: float
) -> float:
    """How long `share` of the jobs take at most, at `rate` jobs a second and 4 workers, in ms.

    Counted from when a job was due, so that a server that is late is not spared the jobs
    that it keeps back.
    """
    trips_s: list[float] = []
    free: deque[Paced] = deque()
    with ExitStack() as stack:
        loop = stack.enter_context(closing(Loop()))
        for _ in range(4):
            worker = Worker(port)
            stack.enter_context(worker.socket)
            loop.add(worker.socket, worker)
        for _ in range(clients):
            client = Paced(port, free, trips_s)
            stack.enter_context(client.socket)
            loop.add(client.socket, client)
            free.append(client)
        started = due = time.perf_counter()
        while due < started + duration_s:
            now = time.perf_counter()
            while due <= now and free:
                free.popleft().submit(due)
                due += 1 / rate
            loop.once(max(0.0, due - now) if free else 1.0)
    trips_s.sort()
    return trips_s[int(len(trips_s) * share)] * 1000


def background(
    port: int,
    *,
    function: bytes = FUNCTION,
    clients: int = 1,
    window: int = 1000,
    jobs: int,
    unique: bool = False,
) -> float:
    """Background submissions a second that were acknowledged.

    Args:
        port: of the server.
        function: that is called; nobody does it.
        clients: connections.
        window: submissions of a connection that may wait for their acknowledgement.
        jobs: submissions in all.
        unique: whether each has a key of its own.
    """
    batch = max(1, window // 10)
    numbers = iter(range(1 << 60))

    def some(count: int) -> bytes:
        if not unique:
            return packet(SUBMIT_BG, function, b"", PAYLOAD) * count
        keys = (b"key-%012d" % next(numbers) for _ in range(count))
        return b"".join(packet(SUBMIT_BG, function, key, PAYLOAD) for key in keys)

    share = jobs // clients // batch * batch
    prepared = None if unique else some(batch)
    with ExitStack() as stack:
        loop = stack.enter_context(closing(Loop()))
        left = clients

        def start(connected: socket.socket) -> Callable[[], None]:
            counter = Counter(CREATED_MARK)
            sent = acknowledged = 0

            def more() -> None:
                nonlocal sent
                while sent < share and sent + batch - acknowledged <= window:
                    connected.sendall(prepared or some(batch))
                    sent += batch

            def read() -> None:
                nonlocal acknowledged, left
                acknowledged += counter.count(received(connected))
                more()
                if acknowledged == share:
                    left -= 1

            more()
            return read

        started = time.perf_counter()
        for _ in range(clients):
            connected = stack.enter_context(connect(port))
            loop.add(connected, start(connected))
        while left > 0:
            loop.once(1.0)
        return share * clients / (time.perf_counter() - started)


def ask(port: int, line: bytes, end: bytes = b"\n") -> bytes:
    """What an administrator's command is answered with."""
    with connect(port) as connected:
        connected.sendall(line + b"\n")
        answer = b""
        while not answer.endswith(end):
            answer += received(connected)
        return answer


def echo_beside_large_ms(port: int, *, size: int, times: int, share: float = 0.99) -> float:
    """How long `share` of the echoes take at most while large jobs are done, in ms.

    Args:
        port: of the server.
        size: bytes of each job's data, and of its result.
        times: jobs, one after the other.
        share: of the echoes.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, str(port), str(size), str(times)], stdout=subprocess.PIPE
    )
    trips_s = []
    echo = packet(16, b"x")
    with connect(port) as connected:
        while process.poll() is None:
            started = time.perf_counter()
            connected.sendall(echo)
            received(connected)
            trips_s.append(time.perf_counter() - started)
            time.sleep(0.002)
    if process.returncode:
        raise RuntimeError("the large jobs were not done")
    trips_s.sort()
    return trips_s[int(len(trips_s) * share)] * 1000


def do_large(port: int, size: int, times: int) -> None:
    """Submit large jobs, and do them, one after the other."""
    data = bytes(size)
    with connect(port) as client, connect(port) as worker:
        worker.sendall(packet(CAN_DO, b"large"))
        for _ in range(times):
            client.sendall(packet(SUBMIT, b"large", b"", data))
            read_packet(client)
            worker.sendall(GRAB_PACKET)
            handle = read_packet(worker).partition(b"\0")[0]
            worker.sendall(packet(COMPLETE, handle, data))
            read_packet(client)


def read_packet(connected: socket.socket) -> bytes:
    """The body of the next packet, from a connection that has nothing else to say."""
    data = bytearray()
    while len(data) < 12 or len(data) < 12 + PARTS.unpack_from(data, 4)[1]:
        data += received(connected)
    return bytes(data[12:])


if __name__ == "__main__":
    do_large(*map(int, sys.argv[1:]))
