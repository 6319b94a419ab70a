"""``lj gearman submit``, ``worker`` and ``dmap`` as processes, against C's gearmand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.job_servers import JobServer, Start, asking
from tests.support.process import Running, spawn, wait_for

pytestmark = pytest.mark.interop

JOBS = """
import os, time
from pathlib import Path

def pid(job):
    return str(os.getpid())

def wait(job):
    Path(job.payload.decode() + ".inside").touch()
    while not Path(job.payload.decode() + ".go").exists():
        time.sleep(0.01)
    return "finished"

def parts(job):
    job.progress(1, 2)
    job.data("part ")
    job.warning("careful")
    return "end"

def broken(job):
    raise LookupError("no such picture")

def die(job):
    os._exit(9)

def double(item):
    return item * 2
"""

LJ = [str(Path(sys.executable).parent / "lj"), "gearman"]


@contextmanager
def working(server: JobServer, folder: Path, *words: str, workers: int = 1) -> Iterator[Running]:
    """``lj gearman worker`` with the functions above, ready when `workers` are there."""
    (folder / "jobs.py").write_text(JOBS)
    argv = [*LJ, "worker", "--server", server.address, "--path", str(folder), *words]

    def ready() -> bool:
        return workers in {who for _, _, who in server.status().values()}

    with spawn(argv, folder / "worker.log", ready=ready) as running:
        yield running


def run(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LJ, *words], input=stdin, capture_output=True, text=True, timeout=60, check=False
    )


def children(running: Running) -> set[int]:
    return {child.pid for child in psutil.Process(running.pid).children()}


def test_submit_prints_what_comes(job_server: Start, tmp_path: Path) -> None:
    server = job_server()
    with working(server, tmp_path, "jobs:parts", "fail=jobs:broken"):
        done = run("submit", "parts", "--server", server.address)
        assert (done.returncode, done.stdout) == (0, "part end")
        assert done.stderr == "1 of 2\ncareful\n"
        failed = run("submit", "fail", "--server", server.address)
        assert failed.returncode == 1
        assert "Traceback" in failed.stderr
        assert failed.stderr.endswith("fail: LookupError: no such picture\n")
        late = run("submit", "nobody", "--server", server.address, "--timeout", "0.1")
        assert late.returncode == 1
        assert "no result within" in late.stderr
    server.kill()
    away = run("submit", "parts", "--server", server.address)
    assert away.returncode == 6
    assert server.address in away.stderr


def test_processes_share_the_work_and_are_replaced_after_max_jobs(
    job_server: Start, tmp_path: Path
) -> None:
    server = job_server()
    with working(server, tmp_path, "jobs:pid", "-n", "2", "--max-jobs", "3", workers=2) as parent:
        with asking(server) as client:
            tasks = client.task_set()
            for _ in range(30):
                tasks.add("pid")
            pids = [int(task.value()) for task in tasks.run(timeout_s=60)]
        counts = {pid: pids.count(pid) for pid in pids}
        assert max(counts.values()) <= 3
        assert len(counts) >= 10
        assert parent.terminate() == 0


def test_a_process_that_dies_is_replaced_and_its_job_done_again_until_refused(
    job_server: Start, tmp_path: Path
) -> None:
    server = job_server("/usr/sbin/gearmand", "-j", "2")
    with working(server, tmp_path, "jobs:die", "jobs:pid") as parent, asking(server) as client:
        first = client.do("pid", timeout_s=30)
        assert run("submit", "die", "--server", server.address).returncode == 1
        second = client.do("pid", timeout_s=30)
        assert first != second
        assert children(parent) == {int(second)}


def test_sigterm_lets_the_job_finish_and_takes_no_other(job_server: Start, tmp_path: Path) -> None:
    server = job_server()
    gate = tmp_path / "gate"
    with working(server, tmp_path, "jobs:wait") as parent, asking(server) as client:

        def term(task: object) -> None:
            wait_for((tmp_path / "gate.inside").exists, "the job to be in the function")
            os.kill(parent.pid, signal.SIGTERM)
            (tmp_path / "gate.go").touch()

        assert client.do("wait", str(gate), timeout_s=30, on_created=term) == b"finished"
        assert parent.process.wait(20) == 0


def test_when_the_parent_is_killed_its_children_end(job_server: Start, tmp_path: Path) -> None:
    server = job_server()
    with working(server, tmp_path, "jobs:pid", "-n", "2", workers=2) as parent:
        left = children(parent)
        assert len(left) == 2
        parent.kill()
        wait_for(lambda: not any(psutil.pid_exists(pid) for pid in left), "the children to end")


def test_dmap(job_server: Start, tmp_path: Path) -> None:
    server = job_server()
    at = ["--server", server.address]
    with working(server, tmp_path, "--dmap", "jobs", "-n", "2", workers=2):
        numbers = run("dmap", "jobs:double", "--json-items", "--chunk", "7", *at, "1", "[2]", '"a"')
        assert (numbers.returncode, numbers.stdout) == (0, '2\n[2, 2]\n"aa"\n')
        document = run("dmap", "jobs:double", "--json", *at, "ab", "cd")
        assert json.loads(document.stdout) == ["abab", "cdcd"]
        lines = "".join(f"{number}\n" for number in range(100))
        many = run("dmap", "jobs:double", "--chunk", "7", *at, stdin=lines)
        assert many.stdout.split() == [f'"{number}{number}"' for number in range(100)]
        refused = run("dmap", "os:system", *at, "true")
        assert refused.returncode == 1
        assert "--dmap os" in refused.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["worker"], 2),
        (["worker", "no_such_module:f"], 4),
        (["worker", "json:no_such_name"], 4),
        (["submit", "f", "--server", "a:b"], 2),
        (["dmap", "f", "item"], 2),
        (["dmap", "m:f", "--json-items", "{"], 2),
    ],
)
def test_usage(words: list[str], code: int) -> None:
    assert run(*words).returncode == code
