"""One box, converged by the molecule scenario `onebox`, and what may change on it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.support.box import CHECKOUT, Box, Run
from tests.support.browser import complaints, publish, sign_up
from tests.support.journal_site import keep
from tests.support.process import wait_for

pytestmark = [pytest.mark.roles, pytest.mark.timeout(900)]
SITE = "playbooks/site.yml"


def test_the_scenario_verifies(box: Box) -> None:
    assert re.search(r"\d+ passed", box.molecule("verify"))


def test_a_second_run_changes_nothing(box: Box) -> None:
    pids = box.pids()
    box.molecule("idempotence")
    assert set(pids) == {
        *("gearman-worker", "gearmand", "gofer", "journal"),
        *("memcached", "mover-coordinator", "mover-host", "mover-worker", "perlbal"),
    }
    assert box.pids() == pids


def test_a_check_of_a_converged_box_is_clean(box: Box) -> None:
    run = box.play(SITE, "--check", "--diff")
    assert run.exit_code == 0, run.output
    assert run.changed_tasks == []


def test_users_are_moved_by_the_worker_as_the_coordinator_says(box: Box) -> None:
    box.lj("users", "create", "mover", "--cluster", "1")
    box.lj("moves", "pause", "dst:2", "--why", "a test")
    asked = box.lj("users", "move", "mover", "2")
    (waiting,) = box.lj("moves", "list")
    assert (waiting["move"], waiting["why"]) == (asked["move"], "dst:2 is paused: a test")
    box.lj("moves", "resume", "dst:2")
    wait_for(lambda: box.lj("users", "show", "mover")["cluster"] == 2, "the move")


@pytest.mark.browser
def test_posts_in_a_browser_while_the_user_moves_to_and_fro(
    box: Box, browser: Browser, tmp_path: Path
) -> None:
    """Whatever was published is there afterwards, once, and no page failed meanwhile."""
    context = browser.new_context(
        base_url=f"http://127.0.0.1:{box.ports['perlbal_port']}",
        viewport={"width": 1080, "height": 900},
    )
    page = context.new_page()
    wrong = complaints(page)
    sign_up(page, "nomad")
    home = box.lj("users", "show", "nomad")["cluster"]
    moves: list[dict[str, Any]] = []
    published: dict[str, str] = {}

    def move_to_and_fro() -> None:
        for to in (3 - home, home) * 2:
            moves.append(box.lj("users", "move", "nomad", str(to), "--wait"))

    with ThreadPoolExecutor(1) as mover:
        moving = mover.submit(move_to_and_fro)
        while not moving.done():
            subject = f"From the road, day {len(published) + 1}"
            published[publish(page, subject, "Still here.")] = subject
        moving.result()
    assert [move["to"] for move in moves] == [3 - home, home] * 2
    assert {move["switched"] is not None for move in moves} == {True}
    assert len(published) > len(moves)  # each address was another one, too
    for address, subject in published.items():
        page.goto(address)
        expect(page.get_by_role("heading", name=subject, exact=True)).to_be_visible()
    page.goto("/~nomad?debug=1")
    page.screenshot(path=tmp_path / "moved.png", full_page=True)
    assert keep(tmp_path / "moved.png", "journal-moved.png").stat().st_size > 5_000
    assert wrong == []
    context.close()


@contextmanager
def people(box: Box) -> Iterator[list[str]]:
    """Two who ask for the site for the length of the block; gives what went wrong.

    Each of them rests for 50 ms after an answer: an address that refuses for longer than that is
    noticed, and the machine is left to the playbook.
    """
    failed: list[str] = []
    ended = threading.Event()
    url = f"http://127.0.0.1:{box.ports['perlbal_port']}/"

    def use_it() -> int:
        asked = 0
        while not ended.wait(0.05):
            asked += 1
            try:
                with urllib.request.urlopen(url, timeout=60) as got:
                    got.read()
            except OSError as error:
                failed.append(str(error))
        return asked

    with ThreadPoolExecutor(2) as threads:
        using = [threads.submit(use_it) for _ in range(2)]
        try:
            yield failed
        finally:
            ended.set()
        assert min(use.result() for use in using) > 0


def balancer(box: Box, *words: str) -> list[str]:
    """What the balancer's console answers."""
    server = f"--server=127.0.0.1:{box.ports['perlbal_console_port']}"
    return box.command("perlbal", "console", server, *words).stdout.splitlines()


ENGINES = {"gearmand_engine": "gearmand", "memcached_engine": "memcached"}
SETTINGS: dict[str, Any] = {
    **ENGINES,
    "journal_log_format": "json",
    "journal_settings": {"page_size": 19},
    "mover_rules": {"grace_s": 7200},
    # All clusters are on one disk.
    "mover_settings": {"record_s": 1, "default.src.busy": 1, "default.dst.busy": 1},
}


@dataclass(frozen=True)
class Step:
    """A run of the playbook on the box, and what it did to the services.

    Attributes:
        run: what the playbook said.
        kept: services whose processes are the same as before.
        failed: what went wrong for people meanwhile.
    """

    run: Run
    kept: set[str]
    failed: list[str]


def step(box: Box, variables: dict[str, Any]) -> Step:
    """Run the whole playbook while people use the site."""
    before = box.pids()
    with people(box) as failed:
        run = box.play(SITE, **variables)
    assert run.exit_code == 0, run.output
    after = box.pids()
    assert after.keys() == before.keys()
    return Step(run, {name for name, pid in after.items() if before[name] == pid}, failed)


@pytest.fixture(scope="module")
def engines(box: Box) -> Step:
    """Debian's servers have taken the place of the kit's own."""
    return step(box, ENGINES)


@pytest.fixture(scope="module")
def settings(box: Box, engines: Step) -> Step:
    """Then settings of the site, and rules for moves, have changed."""
    return step(box, SETTINGS)


def test_debians_job_server_can_be_run_instead(box: Box, engines: Step) -> None:
    with socket.create_connection(("127.0.0.1", box.ports["gearmand_port"]), 10) as connected:
        connected.sendall(b"version\n")
        assert connected.recv(100).startswith(b"OK 1.")


def test_the_real_memcached_can_be_run_instead(box: Box, engines: Step) -> None:
    with socket.create_connection(("127.0.0.1", box.ports["memcached_port"]), 10) as connected:
        connected.sendall(b"stats settings\r\n")
        answer = b""
        while not answer.endswith(b"END\r\n"):
            answer += connected.recv(65_536)
    assert b"STAT slab_automove" in answer  # which the kit's own has not
    again = box.play(SITE, "--check", "--diff", "--tags=memcached,gearmand", **ENGINES)
    assert again.exit_code == 0, again.output
    assert again.changed_tasks == []


def test_only_what_changed_is_restarted(box: Box, engines: Step, settings: Step) -> None:
    # Workers have found the new job server by themselves.
    assert set(box.pids()) - engines.kept == {"gearmand", "memcached"}
    assert engines.failed == []
    # The site and who moves users read what changed then; the balancer hands over to nobody.
    assert settings.kept >= {"gearmand", "gearman-worker", "memcached", "perlbal"}
    assert not settings.kept & {"journal", "mover-coordinator", "mover-worker"}


def test_a_node_is_drained_while_it_restarts_and_nobody_notices(settings: Step) -> None:
    """There is no other node here: what is asked meanwhile waits in the balancer."""
    tasks = settings.run.changed_tasks
    assert "perlbal : Take the node out of the pool" in tasks
    assert tasks.index("perlbal : Take the node out of the pool") < (
        tasks.index("perlbal : Have the node among them")
    )
    assert settings.failed == []


def test_rules_for_moves_are_followed_and_disks_are_watched(box: Box, settings: Step) -> None:
    assert "[mover]\ngrace_s = 7200\n" in (box.root / "etc/site.toml").read_text()
    # Nobody has surveyed anything: it is their host that tells how large the disks are.
    wait_for(lambda: box.command("balance", "show").returncode == 0, "the host's figures")
    assert [cluster["disk"] > 0 for cluster in box.lj("balance", "show")] == [True, True]


def test_a_node_whose_restart_fails_is_in_the_pool_again(box: Box) -> None:
    node = f"127.0.0.1:{box.ports['journal_port']}"
    wrong = {"journal_settings": {"page_size": "many"}, "service_start_timeout_s": 8}
    run = box.play(SITE, "--tags=journal", **wrong)
    assert run.exit_code != 0, run.output
    assert "perlbal : Take the node out of the pool" in run.changed_tasks
    assert [line.split()[0] for line in balancer(box, "show", "pool", "webs")] == [node]
    run = box.play(SITE, "--tags=journal")
    assert run.exit_code == 0, run.output


def test_a_changed_configuration_is_handed_over_to_and_a_wrong_one_is_not(box: Box) -> None:
    before, workers = box.pids(), balancer(box, "workers")
    run = box.play(SITE, "--tags=perlbal", perlbal_parameters={"queue_max_size": "lots"})
    assert run.exit_code != 0
    assert "restart refused, the old workers go on" in run.output
    assert "Expecting integer value for parameter" in run.output
    assert [line.split()[:3] for line in balancer(box, "workers")] == [
        line.split()[:3] for line in workers
    ]
    with people(box) as failed:
        run = box.play(SITE, "--tags=perlbal", perlbal_parameters={"queue_max_size": 777})
    assert run.exit_code == 0, run.output
    assert "service : Have it hand over to what is new" in run.changed_tasks
    assert "SET queue_max_size = 777" in {line.strip() for line in balancer(box, "dumpconfig")}
    assert box.pids()["perlbal"] == before["perlbal"]
    assert failed == []


def test_a_killed_service_comes_back(box: Box) -> None:
    before = box.pids()
    os.kill(before["journal"], signal.SIGKILL)
    wait_for(
        lambda: box.pids().get("journal", before["journal"]) != before["journal"],
        "supervisor to start it again",
    )
    assert box.pids()["memcached"] == before["memcached"]


def test_an_upgrade_is_a_new_release_and_the_old_one_stays(box: Box, tmp_path: Path) -> None:
    """Also the way to hosts elsewhere: the wheels are carried in one file."""
    before = (box.root / "runtime/current").readlink()
    for name in ("lj_services", "disk_checker"):
        shutil.copytree(CHECKOUT / name, tmp_path / name)
    for name in ("pyproject.toml", "constraints.txt", "README.md"):
        shutil.copy(CHECKOUT / name, tmp_path)
    (tmp_path / "lj_services/upgraded.py").write_text("")
    balancing = box.pids()["perlbal"]
    with people(box) as failed:
        run = box.play(
            SITE,
            runtime_source_dir=str(tmp_path),
            runtime_wheels_carried=True,
            lj_control_dir=str(tmp_path / "control"),
        )
    assert run.exit_code == 0, run.output
    after = (box.root / "runtime/current").readlink()
    releases = box.root / "runtime/releases"
    assert sorted(path.name for path in releases.iterdir()) == sorted([before.name, after.name])
    assert list(releases.glob(f"{after.name}/lib/*/site-packages/lj_services/upgraded.py"))
    command = Path(f"/proc/{box.pids()['journal']}/cmdline").read_bytes()
    assert f"{box.root}/runtime/releases/{after.name}/".encode() in command
    # The balancer has handed over to processes of the new release, and nobody was refused.
    assert box.pids()["perlbal"] == balancing
    pids = [line.split()[2] for line in balancer(box, "workers") if line.startswith("worker")]
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids]
    assert commands
    assert all(f"/releases/{after.name}/".encode() in each for each in commands)
    assert failed == []
