"""May this target be written to?  Checked and locked before anything is.

What holds data of others, is in use, too small or too large is refused with what to do; only a
missing file or folder is made.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from disk_checker import host
from disk_checker.errors import TargetError
from disk_checker.plan import Plan, SyncName, TargetKind, size_text
from disk_checker.stamp import MAX_BLOCK, SECTOR, Kind, read_sector
from disk_checker.target import OWN_NAME, Target, real_path

SYS_BLOCK = Path("/sys/block")
_PROBES = 256
_EXTENTS = 4096

Prior = Literal["empty", "ours", "unknown"]
"""What a target held before the run."""


def _look(file: int, size: int) -> tuple[Prior, int]:
    """What the first megabyte, samples of the rest and the heads of a file's parts hold.

    :returns: also the id of the newest run that was found there; 0: none.
    """
    newest = 0
    step = max(SECTOR, size // _PROBES // SECTOR * SECTOR)
    near, far = range(0, min(size, 1 << 20), SECTOR), range(0, size, step)
    for offset in (*near, *far, *_extents(file, size)):
        data = os.pread(file, SECTOR, offset)
        # A rest that is no whole sector is none of ours, unless it is zeros.
        sector = read_sector(data.ljust(SECTOR, b"\0"))
        if sector.kind is Kind.FOREIGN:
            return "unknown", 0
        if sector.kind is Kind.STAMPED:
            newest = max(newest, sector.run)
    return ("ours" if newest else "empty"), newest


def _extents(file: int, size: int) -> Iterator[int]:
    """Where the parts of a file with holes begin, in whole sectors."""
    at = 0
    with contextlib.suppress(OSError):  # no more data, or a device
        for _ in range(_EXTENTS):
            at = os.lseek(file, at, os.SEEK_DATA)
            if at >= size:
                return
            yield at // SECTOR * SECTOR
            at = os.lseek(file, at, os.SEEK_HOLE)


def _lock(path: Path, flags: int) -> int:
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise TargetError(
                f"{path} is in use (mounted, part of a RAID or LVM, or swap): unmount it or take "
                "another; writing to it would destroy what it serves."
            ) from None
        hint = "take another target"
        if error.errno in (errno.EACCES, errno.EPERM):
            hint = "run it as root, or take a target that you may write to"
        raise TargetError(f"{path}: {error.strerror}: {hint}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise TargetError(
            f"{path}: another disk-checker is writing to it; stop that one."
        ) from None
    return descriptor


def _kind_of(path: Path, workload: str) -> TargetKind:
    mode = path.stat().st_mode if path.exists() else 0
    if workload == "rename":
        if mode and not stat.S_ISDIR(mode):
            raise TargetError(
                f"{path} is no folder, and the rename workload needs one: give a folder, or a new "
                "name for one"
            )
        return "folder"
    if stat.S_ISDIR(mode):
        raise TargetError(f"{path} is a folder: name a file in it, or use --workload rename")
    if stat.S_ISBLK(mode):
        return "device"
    if mode and not stat.S_ISREG(mode):
        raise TargetError(
            f"{path} is neither a file, a folder nor a block device: name a file on the disk that "
            "is to be tested, or its device (`lsblk`)"
        )
    return "file"


def claim(
    path: Path,
    *,
    size: int,
    block_size: int,
    workload: Literal["overwrite", "append", "innodb", "rename"] = "overwrite",
    sync: SyncName = "fsync",
    direct: bool = False,
    threads: int = 1,
    depth: int = 1,
    filled: bool = False,
    force: bool = False,
    facts: dict[str, object] | None = None,
) -> Target:
    """Check that a target may be written, lock it, and say what the run will do.

    Nothing is written yet, except that a missing file or folder is made.

    :param size: bytes; ``force`` allows to overwrite data that is not ours.
    :raises TargetError: what is wrong and what to do.
    """
    path = real_path(path)
    if not path.parent.is_dir():
        raise TargetError(
            f"{path.parent}: no such folder: make it (`mkdir -p {path.parent}`), or mount the "
            "file system that it is on"
        )
    devices = Path("/dev")  # itself, not what is mounted below it, as /dev/shm
    in_devices = path.is_relative_to(devices) and path.parent.stat().st_dev == devices.stat().st_dev
    if in_devices and not path.exists():
        raise TargetError(f"{path}: no such device; `lsblk` lists those that there are")
    if block_size % SECTOR or not SECTOR <= block_size <= MAX_BLOCK:
        raise TargetError(
            f"blocks of {block_size} bytes: must be a multiple of {SECTOR}, at most {MAX_BLOCK}: "
            "say --block-size 4k, for example"
        )
    asked, least = size, 8 * threads
    size -= size % block_size
    if size // block_size < least:
        raise TargetError(
            f"{asked} bytes are too small: {threads} thread{'s' if threads > 1 else ''} with "
            f"blocks of {block_size} bytes need{'' if threads > 1 else 's'} at least "
            f"{size_text(least * block_size)}: say that or more as SIZE (64M, 2G; a number without "
            "a unit is bytes)"
        )
    kind = _kind_of(path, workload)
    existed = path.exists()
    if kind == "folder":
        if existed and not force:
            strange = sorted(
                entry.name for entry in path.iterdir() if not OWN_NAME.fullmatch(entry.name)
            )
            if strange:
                raise TargetError(
                    f"{path} holds other files ({strange[0]} ...): give an empty folder, "
                    "or --force to work beside them"
                )
        path.mkdir(exist_ok=True, mode=0o700)
        lock = _lock(path, os.O_RDONLY | os.O_DIRECTORY)
    elif kind == "device":
        lock = _lock(path, os.O_RDWR | os.O_EXCL)
    else:
        lock = _lock(path, os.O_RDWR | os.O_CREAT)
    try:
        prior, newest = _check(path, kind, size, lock, force)
        if direct and (block_size % SECTOR or not _direct_works(path, kind, block_size)):
            raise TargetError(
                f"{path}: no O_DIRECT with blocks of {block_size} bytes here: say --block-size 4k "
                "or larger, or leave --direct away"
            )
        plan = Plan(
            machine=host.machine(),
            hostname=os.uname().nodename,
            boot=host.boot(),
            target=str(path),
            kind=kind,
            size=size,
            block_size=block_size,
            workload=workload,
            sync=sync,
            direct=direct,
            threads=threads,
            depth=depth,
            filled=filled,
            prior=prior,
            prior_run=newest,
            inode=os.fstat(lock).st_ino if kind == "file" else 0,
            mount=None if kind == "device" else host.mount_of(path),
            facts=facts or {},
        )
    except BaseException:
        os.close(lock)
        if not existed and kind == "file":
            path.unlink()
        raise
    return Target(plan, lock, made=not existed)


def _check(path: Path, kind: TargetKind, size: int, lock: int, force: bool) -> tuple[Prior, int]:
    prior: Prior = "empty"
    newest = 0
    if kind == "device":
        have = host.device_size(path)
        if size > have:
            raise TargetError(
                f"{path} has {have} bytes, {size} were asked for: say at most {size_text(have)}"
            )
        prior, newest = _look(lock, size)
    elif kind == "file":
        state = os.fstat(lock)
        _check_loops(path)
        prior, newest = _look(lock, state.st_size)
        room = os.fstatvfs(lock)
        free = room.f_bavail * room.f_frsize + state.st_blocks * 512
        if size > free:
            raise TargetError(
                f"{path}: {size} bytes were asked for, the file system has room for {free}: say "
                f"{size_text(free >> 20 << 20)} or less as SIZE, or make room"
            )
    if prior == "unknown" and not force:
        raise TargetError(
            f"{path} holds data that disk-checker did not write; it would be destroyed. "
            "Take another target, or --force if that is what you want."
        )
    return prior, newest


def _check_loops(path: Path) -> None:
    """Refuse a file that is a device now: what is mounted of it would be destroyed.

    :raises TargetError: it is.
    """
    for file in SYS_BLOCK.glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if file.read_text().rstrip("\n") == str(path):
                raise TargetError(
                    f"{path} is in use as /dev/{file.parts[-3]}: take another target, or end that "
                    f"with `losetup -d /dev/{file.parts[-3]}`; writing to it would destroy what it "
                    "serves."
                )


def _direct_works(path: Path, kind: TargetKind, block_size: int) -> bool:
    """Whether this target takes O_DIRECT at this block size (a device's sectors may be larger)."""
    if kind == "folder":
        path = path / "new-probe"
    flags = os.O_RDWR | os.O_DIRECT | (os.O_CREAT if kind == "folder" else 0)
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError:
        return False
    try:
        if kind == "folder":
            path.unlink()
        buffers: Sequence[mmap.mmap] = [mmap.mmap(-1, max(block_size, mmap.PAGESIZE))]
        os.preadv(descriptor, [memoryview(buffers[0])[:block_size]], 0)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)
