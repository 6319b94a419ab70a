"""Killed workers and clients, nonsense, and readers that don't read: the server goes on."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys

import psutil
import pytest

from lj_services.gearman.protocol import HEADER, request
from lj_services.gearman.protocol import PacketType as T
from tests.support.gearman import GearmanServer, Start, Talk
from tests.support.process import wait_for

pytestmark = pytest.mark.faults

HOLDER = """
import socket, sys, time
from lj_services.gearman.protocol import PacketType as T, request
peer = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
for kind, *args in eval(sys.argv[2]):
    peer.sendall(request(T[kind], *args))
peer.recv(1)
print("there", flush=True)
time.sleep(600)
"""


def holder(server: GearmanServer, *packets: tuple[object, ...]) -> subprocess.Popen[bytes]:
    """A process that sends packets, is answered, and then does nothing; to be killed."""
    argv = [sys.executable, "-c", HOLDER, str(server.port), repr(list(packets))]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"there\n"
    return process


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


@pytest.fixture
def server(gearman_server: Start) -> GearmanServer:
    return gearman_server()


def works(server: GearmanServer) -> None:
    """A job from call to result."""
    with server.connect() as client, server.connect() as worker:
        worker.send(T.CAN_DO, b"works")
        (handle,) = client.call(T.SUBMIT_JOB, b"works", b"", b"in", then=T.JOB_CREATED)
        assert worker.call(T.GRAB_JOB, then=T.JOB_ASSIGN) == (handle, b"works", b"in")
        worker.send(T.WORK_COMPLETE, handle, b"out")
        client.expect(T.WORK_COMPLETE, handle, b"out")


def test_a_worker_is_killed_with_a_job(server: GearmanServer) -> None:
    with server.connect() as client, server.connect() as second:
        (handle,) = client.call(T.SUBMIT_JOB, b"up", b"", b"x", then=T.JOB_CREATED)
        first = holder(server, ("CAN_DO", b"up"), ("GRAB_JOB",))
        second.send(T.CAN_DO, b"up")
        second.send(T.PRE_SLEEP)
        second.settle()
        assert server.ask(b"status") == b"up\t1\t1\t2\n.\n"
        kill(first)
        second.expect(T.NOOP)
        assert second.call(T.GRAB_JOB, then=T.JOB_ASSIGN) == (handle, b"up", b"x")
        assert server.ask(b"show jobs") == handle + b"\t1\t0\t0\n.\n"
        second.send(T.WORK_COMPLETE, handle, b"done")
        client.expect(T.WORK_COMPLETE, handle, b"done")


def test_a_client_is_killed_while_it_waits(server: GearmanServer) -> None:
    client = holder(server, ("SUBMIT_JOB", b"up", b"", b"x"))
    assert server.ask(b"status") == b"up\t1\t0\t0\n.\n"
    kill(client)
    wait_for(lambda: server.ask(b"status") == b"up\t0\t0\t0\n.\n", "the job to be dropped")


def test_a_client_is_killed_while_its_job_runs(server: GearmanServer) -> None:
    with server.connect() as worker:
        worker.send(T.CAN_DO, b"up")
        client = holder(server, ("SUBMIT_JOB", b"up", b"", b"x"))
        handle = worker.call(T.GRAB_JOB, then=T.JOB_ASSIGN)[0]
        kill(client)
        unwanted = handle + b"\t0\t1\t0\n.\n"
        wait_for(lambda: server.ask(b"show jobs") == unwanted, "the client to be missed")
        worker.send(T.WORK_COMPLETE, handle, b"for nobody")
        worker.settle()
        assert server.ask(b"status") == b"up\t0\t0\t1\n.\n"


def test_a_background_job_outlives_the_client_that_joined_it(server: GearmanServer) -> None:
    with server.connect() as first, server.connect() as worker:
        (handle,) = first.call(T.SUBMIT_JOB_BG, b"up", b"k", b"x", then=T.JOB_CREATED)
        kill(holder(server, ("SUBMIT_JOB", b"up", b"k", b"y")))
        alone = (b"k", b"1", b"0", b"0", b"0", b"0")

        def left() -> bool:
            return first.call(T.GET_STATUS_UNIQUE, b"k", then=T.STATUS_RES_UNIQUE) == alone

        wait_for(left, "the client to be missed")
        worker.send(T.CAN_DO, b"up")
        assert worker.call(T.GRAB_JOB, then=T.JOB_ASSIGN) == (handle, b"up", b"x")


def raw(number: int, body: bytes = b"", magic: bytes = b"\0REQ") -> bytes:
    return HEADER.pack(magic, number, len(body)) + body


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (raw(T.ECHO_REQ, b"x", magic=b"\0RES"), b"INVALID_MAGIC"),
        (b"\0" * 12, b"INVALID_MAGIC"),
        (HEADER.pack(b"\0REQ", T.ECHO_REQ, 0xFFFFFFFF), b"PACKET_TOO_LARGE"),
        (b"x" * 1_000_000, b"LINE_TOO_LONG"),
        (b"x" * 1_000_000 + b"\n", b"LINE_TOO_LONG"),
    ],
)
def test_what_can_not_be_read_ends_the_connection(
    server: GearmanServer, data: bytes, code: bytes
) -> None:
    with server.connect() as talk:
        # Whoever is cut off may not get all of it out.
        talk.socket.settimeout(10)
        try:
            talk.socket.sendall(data)
            talk.expect(T.ERROR, code)
        except (ConnectionResetError, BrokenPipeError):
            assert len(data) > 1000
        else:
            assert talk.closed
    works(server)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (raw(0), b"INVALID_COMMAND"),
        (raw(5), b"INVALID_COMMAND"),
        (raw(999, b"body"), b"INVALID_COMMAND"),
        (raw(T.JOB_CREATED, b"H:a:1"), b"INVALID_COMMAND"),
        (raw(T.SUBMIT_JOB, b"up\0key"), b"INVALID_ARGUMENTS"),
        (raw(T.WORK_STATUS, b"H:a:1"), b"INVALID_ARGUMENTS"),
        (raw(T.GRAB_JOB, b"x"), b"INVALID_ARGUMENTS"),
    ],
)
def test_a_bad_packet_is_answered_and_the_connection_goes_on(
    server: GearmanServer, data: bytes, code: bytes
) -> None:
    with server.connect() as talk:
        talk.socket.sendall(data)
        talk.expect(T.ERROR, code)
        talk.settle()


def test_nonsense_leaves_no_memory_behind(server: GearmanServer) -> None:
    """The same nonsense again and again, while another client's jobs go on."""
    wrong = (raw(999, b"body") + raw(T.SUBMIT_JOB, b"up\0key")) * 100

    def nonsense() -> None:
        for data in (
            b"x" * 1_000_000,  # a line that does not end
            HEADER.pack(b"\0REQ", T.ECHO_REQ, 0xFFFFFFFF),
            HEADER.pack(b"\0REQ", T.ECHO_REQ, 60_000_000) + b"x" * 100_000,  # and no more
            b"\0RES" + bytes(100_000),
        ):
            with server.connect() as talk, contextlib.suppress(OSError):
                talk.socket.sendall(data)
        with server.connect() as talk:
            talk.socket.sendall(wrong + request(T.WORK_COMPLETE, b"H:not:1", b"x"))
            for _ in range(201):
                talk.expect(T.ERROR)
        works(server)

    memory = psutil.Process(server.running.pid).memory_info
    for _ in range(20):
        nonsense()
    before = memory().rss
    for _ in range(100):
        nonsense()
    assert memory().rss - before < 4 << 20
    wait_for(lambda: server.ask(b"workers").count(b"\n") == 2, "all others to be gone")


def test_text_and_packets_on_one_connection(server: GearmanServer) -> None:
    with server.connect() as talk:
        assert talk.ask(b"status") == b".\n"
        talk.settle()
        assert talk.ask(b"version").startswith(b"OK lj-")


def waited_for(worker: Talk) -> bool:
    """Whether somebody still waits for the job with the key k."""
    told = worker.call(T.GET_STATUS_UNIQUE, b"k", then=T.STATUS_RES_UNIQUE)
    return told[-1] != b"0"


def send_up_to(to: socket.socket, data: bytes, limit: int) -> None:
    """Send `data` again and again, `limit` bytes in all."""
    sent = 0
    while sent < limit:
        sent += to.send(data)


def test_a_client_that_does_not_read_is_cut_off(gearman_server: Start) -> None:
    server = gearman_server("max_output=1m")
    with server.connect() as client, server.connect() as worker:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        worker.send(T.CAN_DO, b"up")
        client.send(T.SUBMIT_JOB, b"up", b"k", b"x")
        client.expect(T.JOB_CREATED)
        handle = worker.call(T.GRAB_JOB, then=T.JOB_ASSIGN)[0]
        sent = 0
        while waited_for(worker):
            worker.send(T.WORK_DATA, handle, bytes(100_000))
            sent += 100_000
            assert sent < 1 << 30
        assert "cut off" in server.running.output
    works(server)


def test_a_client_that_asks_and_does_not_read_is_not_asked_further(
    gearman_server: Start,
) -> None:
    server = gearman_server("max_output=1m")
    with server.connect() as greedy:
        greedy.socket.setblocking(False)
        flood = b"create function f\nstatus\n" * 4000
        with pytest.raises(BlockingIOError):
            send_up_to(greedy.socket, flood, 1 << 30)
        works(server)
        assert "cut off" not in server.running.output


def test_a_full_result_reaches_a_client_that_reads(gearman_server: Start) -> None:
    server = gearman_server("max_output=1m", "max_packet=32m")
    big = bytes(range(256)) * (20 << 12)
    with server.connect() as client, server.connect() as worker:
        worker.send(T.CAN_DO, b"up")
        (handle,) = client.call(T.SUBMIT_JOB, b"up", b"", big, then=T.JOB_CREATED)
        assert worker.call(T.GRAB_JOB, then=T.JOB_ASSIGN)[2] == big
        worker.send(T.WORK_COMPLETE, handle, big)
        assert client.expect(T.WORK_COMPLETE, handle)[1] == big


def test_large_data_between_small(server: GearmanServer) -> None:
    """What is large goes through in one piece, is a key like any data, and keeps its place."""
    large = bytes(range(256)) * (2 << 12)
    with server.connect() as client, server.connect() as worker:
        names = [b"one", b"two", b"three"]
        for name in names:
            worker.send(T.CAN_DO, name)
        client.socket.sendall(
            request(T.SUBMIT_JOB, b"one", b"", b"1")
            + request(T.SUBMIT_JOB, b"two", b"-", large)
            + request(T.SUBMIT_JOB, b"two", b"-", large)
            + request(T.SUBMIT_JOB, b"three", b"", b"3")
        )
        handles = [client.expect(T.JOB_CREATED)[0] for _ in range(4)]
        assert handles[1] == handles[2]
        worker.socket.sendall(request(T.GRAB_JOB) + request(T.GRAB_JOB_UNIQ) + request(T.GRAB_JOB))
        worker.expect(T.JOB_ASSIGN, handles[0], b"one", b"1")
        worker.expect(T.JOB_ASSIGN_UNIQ, handles[1], b"two", b"-", large)
        worker.expect(T.JOB_ASSIGN, handles[3], b"three", b"3")
        for handle, data in ((handles[0], b"x"), (handles[1], large), (handles[3], b"y")):
            worker.send(T.WORK_DATA, handle, data)
            worker.send(T.WORK_COMPLETE, handle, data)
        assert client.expect(T.WORK_DATA, handles[0], b"x")
        assert client.expect(T.WORK_COMPLETE, handles[0], b"x")
        for kind in (T.WORK_DATA, T.WORK_DATA, T.WORK_COMPLETE, T.WORK_COMPLETE):
            client.expect(kind, handles[1], large)
        client.expect(T.WORK_DATA, handles[3], b"y")
        client.expect(T.WORK_COMPLETE, handles[3], b"y")


def test_sigterm_waits_for_the_jobs_that_run(server: GearmanServer) -> None:
    with server.connect() as client, server.connect() as worker:
        worker.send(T.CAN_DO, b"up")
        (handle,) = client.call(T.SUBMIT_JOB, b"up", b"", b"x", then=T.JOB_CREATED)
        worker.call(T.GRAB_JOB, then=T.JOB_ASSIGN)
        server.running.process.send_signal(signal.SIGTERM)

        def refused() -> bool:
            client.send(T.SUBMIT_JOB_BG, b"up", b"", b"y")
            return client.read().type is T.ERROR

        wait_for(refused, "the server to drain")
        worker.send(T.WORK_COMPLETE, handle, b"done")
        client.expect(T.WORK_COMPLETE, handle, b"done")
        assert server.running.process.wait(20) == 0


@pytest.mark.parametrize("word", ["", " graceful"])
def test_shutdown_by_command(gearman_server: Start, word: str) -> None:
    server = gearman_server("shutdown_command=true")
    with server.connect() as worker:
        worker.send(T.CAN_DO, b"up")
        worker.call(T.SUBMIT_JOB_BG, b"up", b"", b"x", then=T.JOB_CREATED)
        handle = worker.call(T.GRAB_JOB, then=T.JOB_ASSIGN)[0]
        assert server.ask(b"shutdown" + word.encode()) == b"OK\r\n"
        if word:
            worker.send(T.WORK_COMPLETE, handle, b"")
        assert server.running.process.wait(20) == 0


def test_shutdown_is_off_by_default(server: GearmanServer) -> None:
    assert server.ask(b"shutdown").startswith(b"ERR NOT_ALLOWED")
    works(server)
