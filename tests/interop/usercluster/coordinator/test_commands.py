"""The commands as processes: ``lj mover coordinator``, ``lj mover worker``, ``lj mover host``."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from lj_services.database import Databases
from lj_services.usercluster.coordinator.conditions import Replicas, look
from tests.support.databases import settings_of
from tests.support.mariadb import MariaDB
from tests.support.process import accepts, free_port, spawn, wait_for

pytestmark = pytest.mark.interop

LJ = Path(sys.executable).with_name("lj")


def test_from_the_command_line(tmp_path: Path) -> None:
    port, metrics, worker_metrics = free_port(), free_port(), free_port()
    site = tmp_path / "site.toml"
    site.write_text(
        "".join(
            f'[database.roles.{role}]\nwriter = "sqlite:///{tmp_path}/{role}.db"\n'
            for role in ("global", "cluster1", "cluster2")
        )
        + "[users]\nmin_free = 0\nroute_ttl_s = 1\n[mover]\nmin_free = 0\ngrace_s = 1\n"
    )

    def lj(*words: str, code: int = 0) -> Any:
        done = subprocess.run([LJ, "--site", site, *words], capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout) if "--json" in words else done.stderr

    lj("db", "migrate")
    lj("users", "create", "bob", "--cluster", "1")
    lj("users", "create", "eve", "--cluster", "1")
    serve = ("mover", "coordinator", "--listen", f"127.0.0.1:{port}")
    with spawn(
        [LJ, "--site", site, *serve, "--set", f"metrics_listen=127.0.0.1:{metrics}"],
        tmp_path / "coordinator.log",
        ready=lambda: accepts(port),
    ) as coordinator:
        second = ("mover", "coordinator", "--listen", f"127.0.0.1:{free_port()}")
        assert "another coordinator holds the lock" in lj(*second, code=5)
        with (
            spawn(
                [
                    *(LJ, "--site", site, "mover", "worker"),
                    *("--metrics-listen", f"127.0.0.1:{worker_metrics}"),
                ],
                tmp_path / "worker.log",
                ready=lambda: "connected" in (tmp_path / "worker.log").read_text(),
            ) as worker,
            spawn(
                [LJ, "--site", site, "mover", "host", "2", "--data", tmp_path],
                tmp_path / "host.log",
                ready=lambda: True,
            ) as host,
        ):
            assert lj("moves", "pause", "dst:2", "--why", "new disk", "--json")["coordinator"]
            lj("users", "move", "bob", "2", "--json")
            (waiting,) = lj("moves", "list", "--json")
            assert (waiting["state"], waiting["why"]) == ("queued", "dst:2 is paused: new disk")
            lj("moves", "resume", "dst:2")
            assert lj("users", "move", "eve", "2", "--wait", "--json")["worker"] != ""
            wait_for(
                lambda: (
                    {move["state"] for move in lj("moves", "list", "--all", "--json")} == {"done"}
                ),
                "both moves and their purges",
                timeout_s=30,
            )
            with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics") as page:
                figures = page.read().decode()
            assert 'lj_mover_granted_total{kind="move"} 2.0' in figures
            assert "lj_mover_ruling 1.0" in figures
            page = urllib.request.urlopen(f"http://127.0.0.1:{worker_metrics}/health")
            with page:
                assert page.read() == b"ok\n"
            page = urllib.request.urlopen(f"http://127.0.0.1:{worker_metrics}/metrics")
            with page:
                figures = page.read().decode()
            for figure in (
                'lj_mover_worker_phases_total{state="switched"} 2.0',
                'lj_mover_worker_phases_total{state="done"} 2.0',
                'lj_mover_worker_runs_total{result="switched"} 2.0',
                'lj_mover_worker_runs_total{result="done"} 2.0',
                'lj_mover_worker_pause_seconds_count{result="switched"} 2.0',
                "lj_mover_worker_leases_lost_total 0.0",
                "lj_mover_worker_running 0.0",
            ):
                assert f"\n{figure}\n" in figures
            if "not known" not in host.output:  # a file system that the system counts
                lines = lj("mover", "ask", "show_rates", "--json")["lines"]
                (told,) = (line for line in lines if line.startswith("dst:2"))
                assert re.search(r"busy_now=[01]\.", told)
                with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics") as page:
                    assert 'lj_mover_disk_busy{cluster="2"} ' in page.read().decode()
            assert worker.terminate() == 0
            host.terminate()
        assert coordinator.terminate() == 0
    assert "Traceback" not in (tmp_path / "coordinator.log").read_text()
    assert "Traceback" not in (tmp_path / "worker.log").read_text()


def test_how_far_replicas_are_behind(mariadb_pair: tuple[MariaDB, MariaDB]) -> None:
    writer, replica = mariadb_pair
    with writer.database("lj_lag") as url:
        settings = settings_of(
            {"cluster1": url}, readers=[{"url": replica.url("lj_lag")}], max_lag_s=5
        )
        databases = Databases(settings)
        try:
            (server,) = databases.replicas("cluster1")
            wait_for(lambda: look(server).seconds == 0.0, "the replica to have caught up")
            replicas = Replicas(databases)
            replicas.start()
            wait_for(lambda: 1 in replicas.lags, "a first look")
            assert replicas.lags[1].why is None
            replica.query("STOP SLAVE")
            try:
                wait_for(
                    lambda: replicas.lags[1].why == "replication is stopped", "that to be noticed"
                )
            finally:
                replica.query("START SLAVE")
            wait_for(lambda: replicas.lags[1].why is None, "the replica to be back")
            replicas.stop()
        finally:
            databases.close()
