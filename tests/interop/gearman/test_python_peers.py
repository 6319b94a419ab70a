"""Python clients and workers of others: gear, pygearman, python3-gearman; the same scenarios by
way of gearmand and of the kit's server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lj_services.gearman.worker import Job, JobFailed, Worker
from tests.support.job_servers import C_SERVER, OUR_SERVER, JobServer, Start, asking, at_work
from tests.support.process import spawn

pytestmark = pytest.mark.interop

SERVERS = pytest.mark.parametrize("program", [C_SERVER, OUR_SERVER], ids=["C", "ours"])

GEAR_WORKER = """
import sys, gear
worker = gear.Worker("gear-worker")
worker.addServer("127.0.0.1", int(sys.argv[1]))
worker.waitForServer()
worker.registerFunction("upper")
while True:
    job = worker.getJob()
    if job.arguments == b"fail":
        job.sendWorkFail()
    else:
        job.sendWorkStatus(1, 2)
        job.sendWorkData(b"part ")
        job.sendWorkComplete(job.arguments.upper())
"""

GEAR_CLIENT = """
import sys, threading, gear
ended = threading.Event()
class Client(gear.Client):
    def handleWorkComplete(self, packet):
        job = super().handleWorkComplete(packet)
        print("complete", b"".join(job.data).decode(), flush=True)
        ended.set()
        return job
    def handleWorkFail(self, packet):
        job = super().handleWorkFail(packet)
        print("fail", flush=True)
        ended.set()
        return job
client = Client()
client.addServer("127.0.0.1", int(sys.argv[1]))
client.waitForServer()
for data in (b"abc", b"fail"):
    ended.clear()
    client.submitJob(gear.Job("upper", data, unique=b"key " + data))
    assert ended.wait(20)
later = gear.Job("never", b"x", unique=b"k")
client.submitJob(later, background=True, precedence=gear.PRECEDENCE_HIGH)
asked = gear.StatusAdminRequest()
client.getConnection().sendAdminRequest(asked)
assert b"never\\t1\\t0\\t0" in asked.response, asked.response
cancel = gear.CancelJobAdminRequest(later.handle)
client.getConnection().sendAdminRequest(cancel)
assert cancel.response == b"OK\\r\\n", cancel.response
print("cancelled", flush=True)
client.shutdown()
"""

OLD_API = """
import importlib, sys
gearman = importlib.import_module(sys.argv[1])
servers = ["127.0.0.1:" + sys.argv[2]]
text = (lambda word: word.encode()) if sys.argv[1] == "gearman" else (lambda word: word)
"""
"""pygearman and python3-gearman are one API, of which the one speaks bytes and the other str."""

OLD_WORKER = """
worker = gearman.GearmanWorker(servers)
def upper(worker, job):
    if job.data == text("fail"):
        raise ValueError("no such picture")
    worker.send_job_status(job, 1, 2)
    return job.data.upper()
worker.register_task(text("upper"), upper)
worker.work(poll_timeout=1.0)
"""

OLD_CLIENT = """
client = gearman.GearmanClient(servers)
done = client.submit_job(text("upper"), text("abc"), poll_timeout=20)
assert (done.state, done.result) == (gearman.JOB_COMPLETE, text("ABC")), (done.state, done.result)
many = client.submit_multiple_jobs(
    [{"task": text("upper"), "data": text("n%d" % n), "unique": text("u%d" % n)}
     for n in range(20)], poll_timeout=20)
assert [one.result for one in many] == [text("N%d" % n) for n in range(20)]
failed = client.submit_job(text("upper"), text("fail"), poll_timeout=20)
assert failed.state == gearman.JOB_FAILED, failed.state
later = client.submit_job(text("never"), text("x"), background=True, wait_until_complete=False,
                          priority=gearman.PRIORITY_LOW, poll_timeout=20)
assert client.get_job_status(later, poll_timeout=20).status["known"]
admin = gearman.GearmanAdminClient(servers)
assert admin.ping_server() > 0
assert {"task": "never", "queued": 1, "running": 0, "workers": 0} in admin.get_status()
assert any("upper" in row["tasks"] for row in admin.get_workers())
print("all of it", flush=True)
"""


def upper(job: Job) -> bytes:
    if job.payload == b"fail":
        # An exception would reach these clients as a failure, to which gearmand adds a NUL that
        # two of them don't get over.
        raise JobFailed
    return job.payload.upper()


def run(script: str, *words: str) -> str:
    """What a script of somebody else's client says."""
    argv = [sys.executable, "-c", script, *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def offers_upper(server: JobServer) -> bool:
    return server.status().get("upper", (0, 0, 0))[2] == 1


WORKERS = pytest.mark.parametrize(
    ("script", "words"),
    [
        (GEAR_WORKER, ()),
        (OLD_API + OLD_WORKER, ("gearman",)),
        (OLD_API + OLD_WORKER, ("python3_gearman",)),
    ],
    ids=["gear", "pygearman", "python3-gearman"],
)
CLIENTS = pytest.mark.parametrize(
    ("script", "words", "said"),
    [
        (GEAR_CLIENT, (), {"complete ABC", "fail", "cancelled"}),
        (OLD_API + OLD_CLIENT, ("gearman",), {"all of it"}),
        (OLD_API + OLD_CLIENT, ("python3_gearman",), {"all of it"}),
    ],
    ids=["gear", "pygearman", "python3-gearman"],
)


@SERVERS
@CLIENTS
def test_their_clients_call_our_worker(
    job_server: Start, program: str, script: str, words: tuple[str, ...], said: set[str]
) -> None:
    server = job_server(program)
    worker = Worker([server.address])
    worker.register("upper", upper)
    with at_work(worker):
        assert set(run(script, *words, str(server.port)).splitlines()) == said


@SERVERS
@WORKERS
def test_our_client_calls_their_workers(
    job_server: Start, tmp_path: Path, program: str, script: str, words: tuple[str, ...]
) -> None:
    server = job_server(program)
    argv = [sys.executable, "-c", script, *words, str(server.port)]
    seen: list[tuple[int, ...]] = []
    with (
        spawn(argv, tmp_path / "worker.log", ready=lambda: offers_upper(server)),
        asking(server) as client,
    ):
        result = client.do("upper", b"abc", timeout_s=20, on_status=lambda _, *at: seen.append(at))
        assert result.removeprefix(b"part ") == b"ABC"
        assert seen == [(1, 2)]
        tasks = client.task_set()
        done = [tasks.add("upper", f"n{number}", unique=f"k{number}") for number in range(20)]
        tasks.run(timeout_s=20)
        assert all(task.result is not None for task in done)
