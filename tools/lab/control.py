"""Start a lab's keeper, talk to it, end it."""

from __future__ import annotations

import contextlib
import json
import pickle
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tools.lab import seed
from tools.lab.accelerator import accelerator
from tools.lab.image import Image, image
from tools.lab.machine import Frame
from tools.lab.plan import Host, Plan
from tools.lab.rack import drop, prepare

CHECKOUT = Path(__file__).parents[2]
ANSWER_S = 60.0
BOOT_S = 600.0
"""How long hosts may take to boot: by tcg on a busy machine, minutes."""


class LabError(Exception):
    """A lab could not be started or asked; says what to do."""


@dataclass(frozen=True)
class State:
    """The state folder of one lab: all that it has outside its namespaces."""

    folder: Path

    @property
    def socket(self) -> Path:
        """Where its keeper listens."""
        return self.folder / "control"

    @property
    def ready(self) -> Path:
        """Is there when the networks are made and the machines are on."""
        return self.folder / "ready"

    @property
    def log(self) -> Path:
        """What its keeper says."""
        return self.folder / "keeper.log"

    @property
    def keys(self) -> Path:
        """Folder of the ssh keys."""
        return self.folder / "keys"

    @property
    def power_key(self) -> Path:
        """The key of the power switch."""
        return self.folder / "power.key"

    @property
    def ssh_config(self) -> Path:
        """For ``ssh -F``."""
        return self.folder / "ssh_config"

    @property
    def _process(self) -> Path:
        return self.folder / "keeper.pid"

    def keeper(self) -> psutil.Process | None:
        """The process that holds the lab, or None where none does any more."""
        with contextlib.suppress(FileNotFoundError, psutil.NoSuchProcess):
            number, started = json.loads(self._process.read_text())
            process = psutil.Process(number)
            if process.create_time() == started and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None

    def note_keeper(self, process: psutil.Process) -> None:
        """Remember the process that holds the lab."""
        self._process.write_text(json.dumps([process.pid, process.create_time()]))

    def note_plan(self, plan: Plan, found: Image, how: str) -> None:
        """Remember what the lab consists of, for its keeper."""
        (self.folder / "plan").write_bytes(pickle.dumps((plan, found, how)))

    def _noted(self) -> tuple[Plan, Image, str]:
        try:
            data = (self.folder / "plan").read_bytes()
        except FileNotFoundError:
            raise LabError(f"no lab runs with {self.folder}; start it with `up`") from None
        noted: tuple[Plan, Image, str] = pickle.loads(data)  # noqa: S301 - our own
        return noted

    def plan(self) -> Plan:
        """What the lab consists of.

        Raises:
            LabError: there is none.
        """
        return self._noted()[0]

    def frame(self, host: Host) -> Frame:
        """Where a host's files are."""
        _, found, how = self._noted()
        return Frame(found, self.folder / host.name, how)


def ask(state: State, *words: str) -> Any:
    """Have the keeper carry something out; returns its answer.

    Raises:
        LabError: it can't be done, or there is no lab.
    """
    if state.keeper() is None:
        raise LabError(f"no lab runs with {state.folder}; start it with `up`")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_S)
        connection.connect(str(state.socket))
        connection.sendall(json.dumps(words).encode() + b"\n")
        line = connection.makefile().readline()
    if not line:
        raise LabError(f"the lab's keeper ended; see {state.log}")
    answer = json.loads(line)
    if "error" in answer:
        raise LabError(answer["error"])
    return answer["answer"]


def start(state: State, plan: Plan, cache: Path) -> None:
    """Start a lab; one that is there already with this folder is ended first.

    Returns when its machines have power; :func:`wait_for_hosts` waits until they are up.

    Args:
        state: where it keeps what it has.
        plan: what it consists of.
        cache: folder of images.

    Raises:
        LabError: the keeper could not make it.
        ImageFailed: its image could not be built.
    """
    end(state)
    found = image(cache)
    emulates = any(host.kind == "vm" for host in plan.hosts)
    how = accelerator(found, cache) if emulates else "none"
    state.folder.mkdir(parents=True, mode=0o700)
    state.keys.mkdir(mode=0o700)
    seed.make_keys(state.keys)
    state.power_key.write_text(secrets.token_hex(16) + "\n")
    state.power_key.chmod(0o600)
    public = (state.keys / "host.pub").read_text()
    (state.folder / "known_hosts").write_text(f"lab {public}")
    state.note_plan(plan, found, how)
    for host in plan.hosts:
        prepare(plan, host, state.frame(host), seed.seed(host, plan, state.keys))
    with state.log.open("ab") as log:
        outer = subprocess.Popen(
            [
                *("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
                *(sys.executable, "-m", "tools.lab.keeper", state.folder),
            ],
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + ANSWER_S
    noted = False
    while not state.ready.exists():
        if outer.poll() is not None or time.monotonic() > deadline:
            raise LabError(f"the lab did not start:\n{state.log.read_text()[-2000:]}")
        if not noted and (inner := psutil.Process(outer.pid).children()):
            state.note_keeper(inner[0])
            state.ssh_config.write_text(seed.ssh_config(plan, state.folder, inner[0].pid))
            noted = True
        time.sleep(0.05)


def end(state: State) -> None:
    """End a lab and remove its folder; nothing happens where there is none."""
    keeper = state.keeper()
    if keeper is not None:
        keeper.send_signal(signal.SIGTERM)
        try:
            keeper.wait(30)
        except psutil.TimeoutExpired:
            keeper.kill()
            keeper.wait(30)
    if state.folder.exists():
        with contextlib.suppress(LabError):  # a start that was cut off
            for host in state.plan().hosts:
                drop(host, state.frame(host))
        shutil.rmtree(state.folder)


def ssh(
    state: State, host: str, *words: str, seconds: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run a command on a host, as root.

    Args:
        state: the lab.
        host: its name.
        words: the command, as a shell there reads it.
        seconds: until it is given up.
    """
    return subprocess.run(
        ["ssh", "-F", state.ssh_config, host, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )


def inside(state: State, words: Sequence[str]) -> list[str]:
    """The words that run a command of this machine in the lab's network."""
    keeper = state.keeper()
    if keeper is None:
        raise LabError(f"no lab runs with {state.folder}; start it with `up`")
    return ["nsenter", "--target", str(keeper.pid), "--net", *words]


def wait_for_hosts(state: State, names: Sequence[str] = (), seconds: float = BOOT_S) -> None:
    """Wait until hosts have booted: sshd lets somebody in.

    Args:
        state: the lab.
        names: which hosts; none: all.
        seconds: how long.

    Raises:
        LabError: one is not up by then; the end of its console is told.
    """
    deadline = time.monotonic() + seconds
    for host in state.plan().hosts:
        if names and host.name not in names:
            continue
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                if ssh(state, host.name, "true", seconds=60).returncode == 0:
                    break
            if time.monotonic() > deadline:
                console = state.frame(host).console.read_text(errors="replace")
                raise LabError(f"{host.name} did not come up; its console:\n{console[-2000:]}")
            time.sleep(1)
