"""Start a lab's keeper, talk to it, end it."""

from __future__ import annotations

import contextlib
import json
import os
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
DYING_S = 30.0
"""How long a lab may take to end."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
NOTING = 'cat "/proc/$$/stat" "$0" >"$1.new" && mv "$1.new" "$1" && shift && exec "$@"'
"""A shell's program: ``BOOT_ID FILE COMMAND`` becomes the command, having noted in the file which
process of which boot it is: whatever interrupts ``up``, ``down`` knows what to end."""


class LabError(Exception):
    """A lab could not be started or asked; says what to do."""


def identity(stat: str) -> tuple[int, str]:
    """What tells a process from all others of a boot: its number, and the tick it was started at.

    Not the time of day, which follows from ticks and a clock that may be set.

    Args:
        stat: what ``/proc/PID/stat`` holds (proc(5)).
    """
    # The second word, a name in brackets, may hold anything.
    return int(stat.split(maxsplit=1)[0]), stat.rpartition(")")[2].split()[19]


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
    def note(self) -> Path:
        """Which process started the keeper, and ends with it."""
        return self.folder / "keeper.process"

    def starter(self) -> psutil.Process | None:
        """The process that started the keeper, or None where it has ended."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, psutil.NoSuchProcess):
            stat, boot, _ = self.note.read_text().split("\n")
            number, _ = identity(stat)
            process = psutil.Process(number)
            now = Path(f"/proc/{number}/stat").read_text()
            same = identity(now) == identity(stat) and boot == BOOT_ID.read_text().strip()
            if same and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None

    def keeper(self) -> psutil.Process | None:
        """The process that holds the lab, or None where none does any more."""
        with contextlib.suppress(psutil.NoSuchProcess):
            starter = self.starter()
            for child in starter.children() if starter is not None else ():
                if child.status() != psutil.STATUS_ZOMBIE:
                    return child
        return None

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
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_S)
            connection.connect(str(state.socket))
            connection.sendall(json.dumps(words).encode() + b"\n")
            line = connection.makefile().readline()
    except OSError as error:
        raise LabError(f"the lab's keeper does not answer: {error}; see {state.log}") from error
    if not line:
        raise LabError(f"the lab's keeper ended; see {state.log}")
    answer = json.loads(line)
    if "error" in answer:
        raise LabError(answer["error"])
    return answer["answer"]


def start(state: State, plan: Plan, cache: Path) -> None:
    """Start a lab; one that is there already with this folder is ended first.

    Returns when its machines have power; :func:`wait_for_hosts` waits until they are up.  When
    it raises, nothing of the lab runs; what it said is in its folder.

    Args:
        state: where it keeps what it has.
        plan: what it consists of.
        cache: folder of images.

    Raises:
        LabError: the keeper could not make it.
        ImageFailed: its image could not be built.
        MachineError: a machine's disks could not be made.
    """
    end(state)
    with image(cache) as (found, lock):
        emulates = any(host.kind == "vm" for host in plan.hosts)
        how = accelerator(found, cache) if emulates else "none"
        _prepare(state, plan, found, how)
        _run(state, plan, lock)


def _prepare(state: State, plan: Plan, found: Image, how: str) -> None:
    """Fill the state folder."""
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


def _words(state: State) -> list[str | Path]:
    """The command that starts the keeper, in namespaces that end with it, and waits for it."""
    return [
        *("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
        *(sys.executable, "-m", "tools.lab.keeper", state.folder),
    ]


def _run(state: State, plan: Plan, lock: int) -> None:
    """Start the keeper, and wait until it is ready.

    Args:
        state: what :func:`_prepare` has filled.
        plan: what the lab consists of.
        lock: a descriptor that the keeper has open, too, as long as it lives.
    """
    starter = None
    try:
        with state.log.open("ab") as log:
            starter = subprocess.Popen(
                ["sh", "-c", NOTING, BOOT_ID, state.note, *_words(state)],
                cwd=CHECKOUT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[lock],
            )
        deadline = time.monotonic() + ANSWER_S
        while not state.ready.exists():
            if starter.poll() is not None or time.monotonic() > deadline:
                raise LabError(f"the lab did not start:\n{_tail(state.log)}")
            time.sleep(0.05)
        keeper = state.keeper()
        if keeper is None:
            raise LabError(f"the lab ended at once:\n{_tail(state.log)}")
        state.ssh_config.write_text(seed.ssh_config(plan, state.folder, keeper.pid))
    except BaseException:
        _kill(state)
        if starter is not None and starter.poll() is None:  # it had not noted itself yet
            os.killpg(starter.pid, signal.SIGKILL)
            starter.wait()
        raise


def _kill(state: State) -> None:
    """Kill a lab's processes; returns when they are gone.

    Raises:
        LabError: one can't be killed.
    """
    starter, keeper = state.starter(), state.keeper()
    if starter is None:
        return
    found = [starter] if keeper is None else [keeper, starter]
    # It leads a group of its own, and may be starting the keeper in this moment.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(starter.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(found, timeout=DYING_S)
    if alive:
        numbers = ", ".join(str(each.pid) for each in alive)
        raise LabError(f"processes of the lab can't be killed: {numbers}")


def end(state: State) -> None:
    """End a lab and remove its folder; nothing happens where there is none.

    Raises:
        LabError: something of it can't be ended; the folder stays.
    """
    keeper = state.keeper()
    if keeper is not None:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
            keeper.send_signal(signal.SIGTERM)
            keeper.wait(DYING_S)
    _kill(state)
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
        BadPlan: there is no host of such a name.
        LabError: one is off, or not up by then; what its program or its console said is told.
    """
    plan = state.plan()
    deadline = time.monotonic() + seconds
    for host in [plan.host(name) for name in names] or plan.hosts:
        frame = state.frame(host)
        was_on = True
        while True:
            is_on = ask(state, "status", host.name)[host.name]["on"]
            if is_on:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    if ssh(state, host.name, "true", seconds=60).returncode == 0:
                        break
            elif not was_on:  # nor is it a container that boots anew
                raise LabError(f"{host.name} is off; {frame.log} ends:\n{_tail(frame.log)}")
            was_on = is_on
            if time.monotonic() > deadline:
                told = _tail(frame.console)
                raise LabError(f"{host.name} did not come up; its console:\n{told}")
            time.sleep(1)


def _tail(file: Path) -> str:
    """The end of what a program has said; nothing where it has said nothing."""
    return file.read_text(errors="replace")[-2000:] if file.exists() else ""
