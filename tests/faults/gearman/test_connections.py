"""Connections by the thousand, hosts that die, and the figures of it all."""

from __future__ import annotations

import socket
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from lj_services.daemon import HostPort
from lj_services.gearman.connection import Connection
from lj_services.gearman.protocol import PacketType as T
from lj_services.gearman.protocol import request
from tests.support.gearman import GearmanServer, Start
from tests.support.process import free_port, wait_for

pytestmark = pytest.mark.faults

ESTABLISHED = "01"
KEEP_ALIVE_TIMER = "02"
TICKS_PER_S = 100


def keep_alive_s(local_port: int, remote_port: int) -> float | None:
    """In how many seconds the kernel probes the other end of a connection; None: it doesn't.

    Source: proc_net_tcp of the kernel's documentation.
    """
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, _, timer, *_ = line.split()
        ports = int(local.rpartition(":")[2], 16), int(remote.rpartition(":")[2], 16)
        if ports == (local_port, remote_port) and state == ESTABLISHED:
            kind, _, ticks = timer.partition(":")
            return int(ticks, 16) / TICKS_PER_S if kind == KEEP_ALIVE_TIMER else None
    return None


def test_a_host_that_dies_is_noticed_by_the_server(gearman_server: Start) -> None:
    server = gearman_server()
    with server.connect() as worker:
        worker.send(T.CAN_DO, b"up")
        worker.settle()
        port = worker.socket.getsockname()[1]
        # Until the last answer is acknowledged another timer runs.
        wait_for(lambda: keep_alive_s(server.port, port) is not None, "a keep-alive timer")
        due = keep_alive_s(server.port, port)
        assert due is not None
        assert due <= 60
        assert keep_alive_s(port, server.port) is None  # the test's own end has none


def test_a_host_that_dies_is_noticed_by_clients_and_workers(gearman_server: Start) -> None:
    connection = Connection(HostPort("127.0.0.1", gearman_server().port), 10)
    try:
        assert connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert connection.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 60
    finally:
        connection.close()


def come_and_go(server: GearmanServer, times: int) -> None:
    """So many connections: workers, sleepers, clients that wait, and half packets."""
    packets = (
        request(T.CAN_DO, b"up") + request(T.PRE_SLEEP),
        request(T.SUBMIT_JOB, b"nobody does it", b"", bytes(1000)),
        request(T.SUBMIT_JOB, b"nobody does it", b"shared", bytes(1000)),
        request(T.SUBMIT_JOB, b"up", b"", bytes(1000))[:500],
        b"",
    )
    settled = request(T.ECHO_REQ, b"")
    for number in range(times):
        peer = socket.create_connection(("127.0.0.1", server.port), 20)
        said = packets[number % len(packets)]
        whole = number % len(packets) != 3
        peer.sendall(said + settled if whole else said)
        if whole:
            assert peer.recv(100)
        peer.close()


def test_ten_thousand_connections_come_and_go(gearman_server: Start) -> None:
    server = gearman_server()
    process = psutil.Process(server.running.pid)
    come_and_go(server, 1_000)
    before, files = process.memory_info().rss, process.num_fds()
    come_and_go(server, 10_000)

    def alone() -> bool:
        return server.ask(b"workers").count(b"\n") == 2

    wait_for(alone, "all to be missed")
    assert process.memory_info().rss - before < 4 << 20
    wait_for(lambda: process.num_fds() <= files, "their files to be closed")
    assert server.ask(b"show jobs") == b".\n"
    assert b"up\t0\t0\t0\n" in server.ask(b"status")


def test_metrics_tell_what_happened_to_each_function(gearman_server: Start) -> None:
    metrics = free_port()
    server = gearman_server(f"metrics_listen=127.0.0.1:{metrics}", "max_queue=4")
    with ExitStack() as stack:
        client, worker, lost = (stack.enter_context(server.connect()) for _ in range(3))
        for _ in range(2):
            client.call(T.SUBMIT_JOB, b"up", b"k", b"xyz", then=T.JOB_CREATED)
        client.call(T.SUBMIT_JOB_HIGH_BG, b"up", b"", b"", then=T.JOB_CREATED)
        client.call(T.SUBMIT_JOB_LOW_BG, b"up", b"", b"12", then=T.JOB_CREATED)
        client.call(T.SUBMIT_JOB_EPOCH, b"up", b"", b"9999999999", b"", then=T.JOB_CREATED)
        client.call(T.SUBMIT_JOB, b"up", b"", b"", then=T.ERROR)
        lost.send(T.CAN_DO, b"up")
        lost.call(T.GRAB_JOB, then=T.JOB_ASSIGN)
        worker.send(T.CAN_DO, b"up")
        worker.settle()
        lost.socket.close()
        wait_for(lambda: b"up\t4\t0\t1\n" in server.ask(b"status"), "the worker to be missed")
        for ending, data in ((T.WORK_COMPLETE, (b"",)), (T.WORK_FAIL, ())):
            handle = worker.call(T.GRAB_JOB, then=T.JOB_ASSIGN)[0]
            worker.send(ending, handle, *data)
        worker.call(T.GRAB_JOB, then=T.JOB_ASSIGN)
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=10) as page:
            families = list(text_string_to_metric_families(page.read().decode()))
    samples = {
        (sample.name.removeprefix("lj_gearman_"), sample.labels.get("priority")): sample.value
        for family in families
        for sample in family.samples
        if sample.labels.get("function") == "up"
    }
    assert samples.pop(("waited_seconds_sum", None)) > 0
    assert samples.pop(("ran_seconds_sum", None)) >= 0
    assert {key: value for key, value in samples.items() if value} == {
        ("queued", "scheduled"): 1,
        ("running", None): 1,
        ("workers", None): 1,
        ("submitted_total", None): 5,
        ("coalesced_total", None): 1,
        ("refused_total", None): 1,
        ("completed_total", None): 1,
        ("failed_total", None): 1,
        ("requeued_total", None): 1,
        ("waited_seconds_count", None): 4,
        ("ran_seconds_count", None): 2,
    }
    assert samples["queued", "high"] == samples["dropped_total", None] == 0
