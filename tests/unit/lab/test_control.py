"""A lab's processes are known until they have ended, whatever happens meanwhile."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.process import wait_for
from tests.unit.lab.test_plan import pair
from tools.lab import control
from tools.lab.image import Image
from tools.lab.plan import BadPlan

pytestmark = pytest.mark.unit
KEEPER = 'sleep 1000 & [ -z "$0" ] || touch "$0"; wait'
"""Stands for what makes namespaces, its child for the keeper; a file says that it is ready."""


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[control.State]:
    """Of a lab that starts nothing but processes that wait."""

    @contextmanager
    def image(_: Path) -> Iterator[tuple[Image, int]]:
        (tmp_path / "root.ext4").write_bytes(bytes(1 << 20))
        with (tmp_path / "root.ext4").open() as file:
            yield Image(tmp_path), file.fileno()

    monkeypatch.setattr(control, "image", image)
    monkeypatch.setattr(control, "accelerator", lambda *_: "tcg")
    monkeypatch.setattr(control, "_words", lambda its: ["sh", "-c", KEEPER, its.ready])
    found = control.State(tmp_path / "lab")
    yield found
    control.end(found)


def start(state: control.State) -> psutil.Process:
    """The keeper of a lab."""
    control.start(state, pair(), state.folder)
    keeper = state.keeper()
    assert keeper is not None
    return keeper


def lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def members(group: int) -> list[int]:
    """Processes of a process group."""
    found = []
    for number in psutil.pids():
        with suppress(ProcessLookupError):
            if os.getpgid(number) == group:
                found.append(number)
    return found


def test_a_lab_is_ended_by_whoever_knows_its_folder(state: control.State) -> None:
    keeper = start(state)
    assert keeper.name() == "sleep"
    assert f"--target {keeper.pid} --net" in state.ssh_config.read_text()
    control.end(control.State(state.folder))
    assert not lives(keeper)
    assert not state.folder.exists()


def test_a_lab_is_known_when_the_clock_was_set(
    state: control.State, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = start(state)
    booted = psutil.boot_time()
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: booted + 3600)
    monkeypatch.setattr(psutil, "boot_time", lambda: booted + 3600)
    assert state.keeper() == keeper
    control.end(state)
    assert not lives(keeper)


@pytest.mark.parametrize("which", ["boot", "start"])
def test_another_process_with_its_number_is_not_the_lab_s(state: control.State, which: str) -> None:
    keeper = start(state)
    noted = state.note.read_text()
    stat, boot, _ = noted.split("\n")
    _, tick = control.identity(stat)
    was = {"boot": noted.replace(boot, "x" * len(boot)), "start": noted.replace(f" {tick} ", " 1 ")}
    state.note.write_text(was[which])
    assert state.keeper() is None
    state.note.write_text(noted)
    assert state.keeper() == keeper


def test_a_process_is_told_by_its_number_and_the_tick_it_was_started_at() -> None:
    zeros = " ".join("0" for _ in range(17))
    told = f"4711 (a) b (c d)) S 1 {zeros} 90210 0 0"
    assert control.identity(told) == (4711, "90210")


def interrupt() -> Callable[[float], None]:
    """Somebody presses Ctrl-C, once."""
    pressed: list[float] = []
    sleep = time.sleep

    def interrupted(seconds: float) -> None:
        pressed.append(seconds)
        if len(pressed) == 1:
            raise KeyboardInterrupt
        sleep(seconds)

    return interrupted


@pytest.mark.parametrize(
    ("what", "patched", "error"),
    [
        ("ANSWER_S", 0.2, control.LabError),
        ("time.sleep", interrupt(), KeyboardInterrupt),
    ],
)
def test_nothing_runs_of_a_start_that_came_to_nothing(
    state: control.State,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    patched: Any,
    error: type[BaseException],
) -> None:
    begun: list[psutil.Process] = []
    begin: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen

    def watched(words: Any, **how: Any) -> subprocess.Popen[bytes]:
        process = begin(words, **how)
        if "start_new_session" in how:
            begun.append(psutil.Process(process.pid))
        return process

    monkeypatch.setattr(control, "_words", lambda _: ["sh", "-c", KEEPER, ""])
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", watched)
        patch.setattr(f"tools.lab.control.{what}", patched)
        with pytest.raises(error):
            control.start(state, pair(), state.folder)
    assert len(begun) == 1
    assert not lives(begun[0])
    wait_for(lambda: members(begun[0].pid) == [], "what was killed to be gone")
    assert state.keeper() is None


class Asked:
    """Stands for the keeper and its hosts: whether they are on, and what ssh ends with."""

    def __init__(self, *on: bool, ssh: int = 0) -> None:
        self.on, self.ssh, self.logins = list(on), ssh, 0

    def ask(self, _: control.State, verb: str, name: str) -> Any:
        assert verb == "status"
        return {name: {"on": self.on.pop(0) if len(self.on) > 1 else self.on[0]}}

    def log_in(self, *_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        self.logins += 1
        return subprocess.CompletedProcess([], self.ssh)


def waiting(
    asked: Asked, state: control.State, monkeypatch: pytest.MonkeyPatch, *names: str
) -> None:
    state.folder.mkdir()
    state.note_plan(pair(), Image(state.folder), "tcg")
    frame = state.frame(pair().hosts[0])
    frame.folder.mkdir()
    frame.log.write_text("qemu-system-x86_64: could not open disk image\n")
    monkeypatch.setattr(control, "ask", asked.ask)
    monkeypatch.setattr(control, "ssh", asked.log_in)
    monkeypatch.setattr(control.time, "sleep", lambda _: None)
    control.wait_for_hosts(state, names, seconds=5)


def test_a_host_that_is_off_is_not_waited_for(
    state: control.State, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(False)
    with pytest.raises(control.LabError, match=r"db-a is off.*\n.*could not open disk image"):
        waiting(asked, state, monkeypatch)
    assert asked.logins == 0


def test_a_host_may_be_off_for_a_moment(
    state: control.State, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(False, True)
    waiting(asked, state, monkeypatch, "db-b")
    assert asked.logins == 1


def test_a_host_that_does_not_come_up_is_told_with_its_console(
    state: control.State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control.time, "monotonic", iter(range(0, 100, 4)).__next__)
    with pytest.raises(control.LabError, match=r"db-a did not come up; its console:\n$"):
        waiting(Asked(True, ssh=255), state, monkeypatch)


def test_a_host_that_is_not_there_is_told(
    state: control.State, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadPlan, match="no host db-z in this lab; there are db-a, db-b"):
        waiting(Asked(True), state, monkeypatch, "db-a", "db-z")


def test_a_keeper_that_does_not_answer_is_told(state: control.State) -> None:
    start(state)
    with pytest.raises(control.LabError, match=r"does not answer: .*; see .*keeper\.log"):
        control.ask(state, "status")
