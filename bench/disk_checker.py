"""disk-checker beside a loop in C, fio, pg_test_fsync and dd, on the same disks.

Writes: all of them write blocks at random places and fsync each.  The checker's listener, which in
earnest is another machine, runs on this one too and shares its processors.  Three disks: a file
where temporary files go; and, as root, a loop device over memory, whose sync costs little and
which therefore shows what the programs cost, and one with the pace of a real disk, where programs
wait for it and not for the processors.

Reads: the checker's verification beside dd, which only reads; both past the page cache.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import lj_services
from bench._slow_disk import READ_MB_S, WRITE_MS, available, detach, slow_disk
from bench.harness import Comparison, Contender, Load, Subject

TITLE = "Disk checker"

CHECKER = Path(sys.executable).with_name("disk-checker")
BLOCK = 16 << 10
SIZE = 256 << 20
MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Site:
    """Where the runs take place: a scratch folder, its targets, and what measures."""

    folder: Path
    targets: dict[str, Path]
    listener: str = ""


def _run(*words: str | Path) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, words))}: {done.stdout}{done.stderr}")
    return done.stdout


@contextmanager
def disks() -> Iterator[Site]:
    """A file on the disk and, as root, two more disks; all of one size."""
    with tempfile.TemporaryDirectory(prefix="bench-disk-") as name, ExitStack() as stack:
        folder = Path(name)
        targets = {"file": folder / "target"}
        if os.geteuid() == 0 and MEMORY.is_dir():
            image = MEMORY / f"{folder.name}.img"
            stack.callback(image.unlink)
            image.write_bytes(bytes(SIZE))
            stack.callback(detach, image)
            targets["memory"] = Path(_run("losetup", "-f", "--show", image).strip())
        if available():
            targets["slow"] = stack.enter_context(slow_disk(folder, SIZE))
        with targets["file"].open("wb") as file:
            for _ in range(SIZE >> 20):
                file.write(bytes(1 << 20))
            file.flush()
            os.fsync(file.fileno())
        yield Site(folder, targets)


@contextmanager
def ours() -> Iterator[Subject]:
    """The checker with its listener."""
    with disks() as site, tempfile.TemporaryDirectory(dir=MEMORY) as state:
        listener = subprocess.Popen(
            [CHECKER, "listen", "--listen", "127.0.0.1:0", "--state", state],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            assert listener.stdout is not None
            said = listener.stdout.readline()
            address = said.split("listening on ")[1].split(",")[0]
            yield Subject(Site(site.folder, site.targets, address))
        finally:
            listener.terminate()
            listener.communicate()


@contextmanager
def c_loop() -> Iterator[Subject]:
    """The loop, compiled now."""
    with disks() as site:
        source = Path(__file__).with_name("sync_loop.c")
        _run("cc", "-O2", "-Wall", "-pthread", "-o", site.folder / "sync_loop", source)
        yield Subject(site)


@contextmanager
def plain() -> Iterator[Subject]:
    """The disks alone, for programs that are installed."""
    with disks() as site:
        yield Subject(site)


def write(subject: Subject, *, disk: str, threads: int, seconds: float, block: int) -> float:
    """Synced writes a second, of whoever the subject belongs to."""
    site: Site = subject.value
    target = site.targets[disk]
    if site.listener:
        words = ["--threads", str(threads), "--block-size", str(block), "--seconds", str(seconds)]
        said = _run(CHECKER, "create", site.listener, target, str(SIZE), "--force", *words)
        match = re.search(r"stopped; (\d+) writes acknowledged", said)
        assert match is not None, said
        return int(match[1]) / seconds
    loop = site.folder / "sync_loop"
    if loop.exists():
        return float(_run(loop, target, str(SIZE), str(block), str(threads), str(seconds)))
    return fio(target, threads, seconds, block)


def fio(target: Path, threads: int, seconds: float, block: int) -> float:
    """The same of fio: random writes, each followed by an fsync."""
    report = json.loads(
        _run(
            *("fio", "--name=bench", f"--filename={target}", f"--size={SIZE}", f"--bs={block}"),
            *("--rw=randwrite", "--fsync=1", "--thread", f"--numjobs={threads}"),
            *("--group_reporting", "--time_based", f"--runtime={seconds}", "--norandommap"),
            *("--output-format=json", "--allow_file_create=0"),
        )
    )
    return float(report["jobs"][0]["write"]["iops"])


def pg_test_fsync(subject: Subject, *, seconds: float) -> float:
    """PostgreSQL's figure for fsync: 8 KiB, one thread, always the same place."""
    site: Site = subject.value
    if site.listener:
        return write(subject, disk="file", threads=1, seconds=seconds, block=8192)
    program = shutil.which("pg_test_fsync") or next(
        map(str, Path("/usr/lib/postgresql").glob("*/bin/pg_test_fsync")), "pg_test_fsync"
    )
    # Its own file, beside the target.
    said = _run(program, "-f", site.folder / "pg", "-s", str(max(1, round(seconds))))
    match = re.search(r"^\s+fsync\s+([\d.]+) ops/sec", said, re.MULTILINE)
    assert match is not None, said
    return float(match[1])


def read(subject: Subject, *, disk: str, block: int) -> float:
    """MB/s of a verification, or of dd."""
    site: Site = subject.value
    target = site.targets[disk]
    if not site.listener:
        words = ["of=/dev/null", "bs=4M", "iflag=direct"]
        done = subprocess.run(["dd", f"if={target}", *words], capture_output=True, text=True)
        match = re.search(r"(\d+) bytes .* copied, ([\d.e-]+) s", done.stderr)
        assert match is not None, done.stderr
        return int(match[1]) / 1e6 / float(match[2])
    _fill(site, target, block)
    done = subprocess.run(
        [CHECKER, "verify", site.listener, target, "--same-boot", "--json"],
        capture_output=True,
        text=True,
    )
    report = json.loads(done.stdout)
    assert report["faults"] == {}, report["headline"]
    return float(report["bytes_read"]) / 1e6 / float(report["seconds"])


def _fill(site: Site, target: Path, block: int) -> None:
    """Every block written by the checker, once for all rounds of a block size."""
    mark = site.folder / f"filled-{target.name}"
    if mark.exists() and mark.read_text() == str(block):
        return
    words = ["--fill", "--sync", "none", "--block-size", str(block), "--threads", "4", "--force"]
    writing = subprocess.Popen(
        [CHECKER, "create", site.listener, target, str(SIZE), *words],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writing.stdout is not None
    for line in writing.stdout:
        acked = re.search(r"(\d+) writes acknowledged of", line)
        if acked is not None and int(acked[1]) >= SIZE // block:
            writing.terminate()
            break
    writing.communicate()
    os.sync()
    mark.write_text(str(block))


def comparisons(quick: bool) -> Iterator[Comparison]:
    """See the module's docstring."""
    seconds = 1.0 if quick else 3.0
    checker = Contender("disk-checker", lj_services.__version__, ours)
    names = {
        "file": "a file",
        "memory": "a disk of memory",
        "slow": f"a disk of {WRITE_MS} ms a write, {READ_MB_S} MB/s",
    }
    kinds = ["file", *["memory"] * (os.geteuid() == 0), *["slow"] * available()]

    def writes(on: list[str], block: int = BLOCK) -> list[Load]:
        return [
            Load(
                f"{names[disk]}, {threads} thread{'s' if threads > 1 else ''}",
                "synced writes/s",
                partial(write, disk=disk, threads=threads, seconds=seconds, block=block),
            )
            for disk in on
            for threads in (1, 16)
        ]

    yield Comparison(
        "Synced writes: a loop of pwrite and fsync in C",
        ours=checker,
        peer=Contender("sync_loop.c", _run("cc", "-dumpversion").strip(), c_loop),
        loads=writes(kinds),
        goal="within 10 % of the loop at 1 and at 16 threads",
        notes=[
            "Blocks of 16 KiB at random places of 256 MiB. The checker's listener runs on the same "
            "processors; in earnest it is another machine."
        ],
    )
    if shutil.which("fio"):
        version = _run("fio", "--version").strip().removeprefix("fio-")
        yield Comparison(
            "Synced writes: fio",
            ours=checker,
            peer=Contender("fio", version, plain),
            loads=writes(["file"]),
        )
    program = next(Path("/usr/lib/postgresql").glob("*/bin/pg_test_fsync"), None)
    if program is not None:
        version = _run(program, "--version").split()[-1].rstrip(")")
        yield Comparison(
            "Synced writes: pg_test_fsync",
            ours=checker,
            peer=Contender("pg_test_fsync", version, plain),
            loads=[
                Load(
                    "a file, 8 KiB, 1 thread",
                    "synced writes/s",
                    partial(pg_test_fsync, seconds=seconds),
                )
            ],
            notes=["pg_test_fsync writes the same block again and again, the checker random ones."],
        )
    yield Comparison(
        "Verification: the disk's sequential speed by dd",
        ours=checker,
        peer=Contender("dd", _run("dd", "--version").split()[2], plain),
        loads=[
            Load(
                f"{names[disk]}, blocks of {block >> 10} KiB",
                "MB/s",
                partial(read, disk=disk, block=block),
            )
            for disk in kinds
            for block in (4 << 10, BLOCK)
            if (disk, block) != ("slow", 4 << 10)
        ],
        goal="at least 0.8 of the disk's speed",
        notes=["256 MiB; dd reads with O_DIRECT, 4 MiB at a time, and looks at nothing."],
    )
