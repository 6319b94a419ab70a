"""Power-pulls without hardware: a disk in user space under a real file system.

    nbdkit (or our liar) -> nbdfuse -> loop device -> ext4, xfs, or raw

Killing the NBD server with SIGKILL is the cut: its volatile cache is gone.  Needs root,
/dev/fuse and loop devices.  Everything is taken down again, whatever happened.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from disk_checker.errors import ProtocolError
from disk_checker.protocol import FrameReader, Kind, decode_done
from tests.support.disk_programs import CHECKER, Program, Start, Started
from tests.support.liar_disk import LiarDisk, NbdServer
from tests.support.process import wait_for

BUSY_S = 60.0


def command(*words: str | Path) -> str:
    """Run a program that must succeed; its output."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, words))}: {done.stdout}{done.stderr}"
    return done.stdout


def is_mounted(path: Path) -> bool:
    """Also of a mount whose server is dead, where stat fails and os.path.ismount says no."""
    return any(
        line.split()[1] == str(path) for line in Path("/proc/self/mounts").read_text().splitlines()
    )


def acked(state: Path, run: str) -> int:
    """Acknowledgements of a run that are in a listener's journal by now."""
    frames, count = FrameReader(), 0
    with contextlib.suppress(ProtocolError):
        for frame in frames.feed((state / f"{run}.journal").read_bytes()):
            if frame.kind is Kind.DONE:
                count += len(decode_done(frame)) // 2
    return count


class Rig:
    """One disk and what stands on it; a context manager.

    :param backing: an image file for nbdkit, or a :class:`LiarDisk`.
    """

    def __init__(self, folder: Path, size: int = 64 << 20, liar: LiarDisk | None = None) -> None:
        self.folder = folder
        self.liar = liar
        self.image = folder / "disk.img"
        self.mount_point = folder / "mnt"
        self.device = ""
        self.mounted = False
        self._socket = folder / "nbd.sock"
        self._fuse = folder / "fuse"
        self._server: NbdServer | None = None
        self._nbdkit: subprocess.Popen[bytes] | None = None
        self._nbdfuse: subprocess.Popen[bytes] | None = None
        for path in (self.mount_point, self._fuse, folder / "volatile"):
            path.mkdir(exist_ok=True)
        if liar is None:
            with self.image.open("wb") as file:
                file.truncate(size)

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        self.take_down()

    def power_on(self, mode: str = "writeback") -> str:
        """Start the disk and its loop device.

        :param mode: nbdkit's cache mode: writeback (honest), unsafe (lies), writethrough.
        :returns: the loop device.
        """
        self._socket.unlink(missing_ok=True)
        if self.liar is not None:
            self._server = NbdServer(self.liar, self._socket)
        else:
            self._nbdkit = subprocess.Popen(
                [
                    *("nbdkit", "-f", "-U", self._socket, "--filter=cache", "file", self.image),
                    *(f"cache={mode}", "cache-min-block-size=4096"),
                ],
                env={**os.environ, "TMPDIR": str(self.folder / "volatile")},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            wait_for(self._socket.exists, "nbdkit's socket", every_s=0.005)
        self._nbdfuse = subprocess.Popen(
            ["nbdfuse", self._fuse, "--unix", self._socket],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        export = self._fuse / "nbd"
        wait_for(lambda: is_mounted(self._fuse) and export.exists(), "nbdfuse", every_s=0.005)
        self.device = command("losetup", "-f", "--show", export).strip()
        return self.device

    def make_fs(self, kind: str) -> None:
        if kind == "ext4":
            command("mkfs.ext4", "-q", "-F", "-E", "nodiscard", "-J", "size=4", self.device)
        else:
            command("mkfs.xfs", "-q", "-f", "-K", self.device)

    def mount(self, options: str = "") -> Path:
        words = ["-o", options] if options else []
        command("mount", *words, self.device, self.mount_point)
        self.mounted = True
        return self.mount_point

    def unmount(self) -> None:
        command("umount", self.mount_point)
        self.mounted = False

    def cut(self, keep: float = 0.0) -> None:
        """SIGKILL the disk; nothing that was volatile survives (a liar's share may)."""
        if self._nbdkit is not None:
            self._nbdkit.kill()
            self._nbdkit.wait()
            self._nbdkit = None
        if self._server is not None:
            assert self.liar is not None
            self.liar.cut(keep)
            self._server.close()
            self._server = None

    def take_down(self) -> None:
        """Remove mount, loop device, FUSE mount and processes; in any state."""
        if is_mounted(self.mount_point):
            self._insist("umount", self.mount_point)
        self.mounted = False
        if self.device:
            self._insist("losetup", "-d", self.device)
            self.device = ""
        self.cut()
        if is_mounted(self._fuse):
            self._insist("umount", "-l", self._fuse)
        if self._nbdfuse is not None:
            try:
                self._nbdfuse.wait(5)
            except subprocess.TimeoutExpired:
                self._nbdfuse.kill()
                self._nbdfuse.wait()
            self._nbdfuse = None

    @staticmethod
    def _insist(*words: str | Path) -> None:
        """A busy mount or device becomes free when a killed writer is quite gone.

        That is when the kernel has ended the write or sync that it was in.
        """
        until = time.monotonic() + BUSY_S
        while True:
            run = subprocess.run([str(w) for w in words], capture_output=True, text=True)
            if run.returncode == 0:
                return
            if time.monotonic() > until:
                raise AssertionError(f"{' '.join(map(str, words))}: {run.stderr.strip()}")
            time.sleep(0.05)

    def restart(self, mode: str = "writeback") -> str:
        """The power comes back; mounted again only by who wants it."""
        self.take_down()
        if self.liar is not None:
            self.liar.power_on()
        return self.power_on(mode)


class Checker:
    """The command, against one listener.

    :param start: how it is started.
    """

    def __init__(self, folder: Path, start: Start = Started) -> None:
        self.state = folder / "state"
        self._folder, self._start, self._count = folder, start, 0
        self._process = subprocess.Popen(
            [CHECKER, "listen", "--listen", "127.0.0.1:0", "--state", self.state],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        assert "listening on" in said, said
        self.address = said.split("listening on ")[1].split(",")[0]

    def __enter__(self) -> Checker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _say(self, name: str) -> Path:
        self._count += 1
        return self._folder / f"{name}-{self._count}"

    def create(self, target: Path | str, size: str, *words: str) -> Writing:
        out = self._say("create")
        words = ("create", self.address, str(target), size, *words)
        return Writing(self._start(words, out, out), out)

    def acked(self, run: str) -> int:
        """Acknowledgements of a run that are on the listener's disk by now."""
        return acked(self.state, run)

    def wait_acked(self, writing: Writing, count: int) -> None:
        """Let a run write until so many writes are acknowledged, or it ended."""
        wait_for(
            lambda: self.acked(writing.run) >= count or writing.process.poll() is not None,
            f"{count} acknowledged writes",
            timeout_s=120,
            every_s=0.02,
        )

    def verify(self, target: Path | str, *words: str) -> dict[str, Any]:
        """The report as JSON; its exit code is checked to be the process's."""
        out, err = self._say("verify"), self._say("errors")
        words = ("verify", self.address, str(target), "--same-boot", "--json", *words)
        code = self._start(words, out, err).wait(120)
        said, errors = out.read_text(), err.read_text()
        assert code in (0, 1, 2), f"{code}: {said}{errors}"
        assert said.startswith("{"), f"{code}: {said}{errors}"
        report: dict[str, Any] = json.loads(said)
        assert report["exit_code"] == code
        return report


class Writing:
    """A `disk-checker create` under way.

    ``run`` is its run's id; empty: it was refused, and `finish` has its words.
    """

    def __init__(self, process: Program, out: Path) -> None:
        self.process = process
        self._out = out
        wait_for(
            lambda: "\n" in self._said() or process.poll() is not None,
            "the writer's first line",
            timeout_s=120,
            every_s=0.005,
        )
        first = self._said().partition("\n")[0]
        self.run = first.split()[-1] if first.startswith("disk-checker: run ") else ""

    def _said(self) -> str:
        return self._out.read_text() if self._out.exists() else ""

    def freeze(self) -> None:
        """Stop it and its workers where they are, as a power cut does; the disk follows.

        Only when it has stopped: else it could still tell the listener of the disk's errors.
        """
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGSTOP)
            state = Path(f"/proc/{self.process.pid}/stat")
            wait_for(
                lambda: state.read_text().rpartition(")")[2].split()[0] in "TZ",
                "the writer to stop",
                every_s=0.002,
            )

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)

    def finish(self, timeout_s: float = 120) -> tuple[int, str]:
        """Exit code and output."""
        code = self.process.wait(timeout_s)
        return code, self._said()
