"""The file, folder or device that is written: checks before, writes, syncs, reads.

Every worker opens the target for itself.  That is what makes an error of a sync
reliable: Linux reports a failed write-back once per open file description, so with a
shared one worker A could be told of worker B's loss and B be told that all is well.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

from disk_checker import host
from disk_checker.errors import TargetError
from disk_checker.plan import Plan, SyncName, TargetKind
from disk_checker.stamp import MAX_BLOCK, SECTOR, Kind, read_sector

_SYNC_FILE_RANGE_ALL = 7  # WAIT_BEFORE | WRITE | WAIT_AFTER
_PROBES = 256
_PAGE = mmap.PAGESIZE


class Handle(Protocol):
    """One worker's way to the target."""

    def write(self, block: int, buffer: memoryview) -> None:
        """Write one block; OSError as the system raises it."""

    def sync(self) -> None:
        """Ask that everything written by this handle is durable; OSError likewise."""

    def read(self, block: int) -> bytes:
        """The block as the disk has it, not the page cache; may be short."""

    def close(self) -> None: ...


def slot_name(block: int) -> str:
    """The file of a folder's slot."""
    return f"slot-{block:08d}"


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_reader(path: Path) -> tuple[int, bool]:
    """A descriptor for reading past the page cache; whether it is O_DIRECT."""
    with contextlib.suppress(OSError):
        return os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC), True
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC), False


def read_at(descriptor: int, direct: bool, buffer: mmap.mmap, offset: int) -> int:
    """Fill the buffer from the disk; bytes read.  Falls out of the page cache first."""
    if not direct:
        os.posix_fadvise(descriptor, offset, len(buffer), os.POSIX_FADV_DONTNEED)
    return os.preadv(descriptor, [buffer], offset)


class Syncer:
    """How a run syncs a descriptor."""

    def __init__(self, name: SyncName) -> None:
        self.name = name
        self.flags = os.O_DSYNC if name == "dsync" else 0
        if name == "sync_file_range":
            libc = ctypes.CDLL(None, use_errno=True)
            self._range = libc.sync_file_range
            self._range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]

    def __call__(self, descriptor: int) -> None:
        if self.name == "fsync":
            os.fsync(descriptor)
        elif self.name == "fdatasync":
            os.fdatasync(descriptor)
        elif self.name == "sync_file_range" and self._range(descriptor, 0, 0, _SYNC_FILE_RANGE_ALL):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


class FileHandle:
    """A regular file or a block device.

    ``file`` is what is written and synced; ``reader`` reads whole pages into ``buffer``.
    """

    def __init__(self, path: Path, plan: Plan) -> None:
        self._size = plan.block_size
        self._sync = Syncer(plan.sync)
        direct = os.O_DIRECT if plan.direct else 0
        self.file = os.open(path, os.O_RDWR | os.O_CLOEXEC | direct | self._sync.flags)
        self.reader, self.reads_direct = open_reader(path)
        self.buffer = mmap.mmap(-1, (-(-self._size // _PAGE) + 1) * _PAGE)

    def write(self, block: int, buffer: memoryview) -> None:
        if os.pwrite(self.file, buffer, block * self._size) != self._size:
            raise OSError(errno.ENOSPC, "the write was cut short")

    def sync(self) -> None:
        self._sync(self.file)

    def place(self, block: int) -> tuple[int, int]:
        """Where a block begins in ``buffer``, when that is read from which offset of the file."""
        skip = block * self._size % _PAGE
        return skip, block * self._size - skip

    def read(self, block: int) -> bytes:
        skip, offset = self.place(block)
        got = read_at(self.reader, self.reads_direct, self.buffer, offset)
        return self.buffer[skip : min(skip + self._size, got)]

    def close(self) -> None:
        os.close(self.file)
        os.close(self.reader)


class FolderHandle:
    """A folder of slots: write beside, sync, rename over, sync the folder."""

    def __init__(self, path: Path, plan: Plan, name: str) -> None:
        self._path = path
        self._size = plan.block_size
        self._syncer = Syncer(plan.sync)
        self._direct = os.O_DIRECT if plan.direct else 0
        self._new = path / f"new-{name}"
        self._folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def write(self, block: int, buffer: memoryview) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | self._direct | self._syncer.flags
        file = os.open(self._new, flags, 0o600)
        try:
            if os.write(file, buffer) != self._size:
                raise OSError(errno.ENOSPC, "the write was cut short")
            self._syncer(file)
        finally:
            os.close(file)
        self._new.rename(self._path / slot_name(block))

    def sync(self) -> None:
        # A folder has no data of its own: only fsync orders its names to disk.
        if self._syncer.name not in ("none", "sync_file_range"):
            os.fsync(self._folder)

    def read(self, block: int) -> bytes:
        reader, direct = open_reader(self._path / slot_name(block))
        buffer = mmap.mmap(-1, -(-self._size // _PAGE) * _PAGE)
        try:
            got = read_at(reader, direct, buffer, 0)
            return buffer[: min(got, self._size)]
        finally:
            os.close(reader)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._new.unlink()
        os.close(self._folder)


class Target:
    """What a plan writes to, locked against a second client while it exists."""

    def __init__(self, plan: Plan, lock: int, *, made: bool) -> None:
        self.plan = plan
        self.path = Path(plan.target)
        self._lock = lock
        self._made = made

    def prepare(self) -> None:
        """Bring the target into the state that the run starts from; durable on return."""
        plan = self.plan
        if plan.kind == "file":
            size = os.fstat(self._lock).st_size
            if plan.workload == "append" or size > plan.size:
                os.ftruncate(self._lock, 0)
            os.fsync(self._lock)
            sync_folder(self.path.parent)
        elif plan.kind == "folder":
            for path in self.path.glob("slot-*"):
                path.unlink()
            sync_folder(self.path)
            sync_folder(self.path.parent)

    def open(self, number: int) -> Handle:
        """A handle for one thread of the plan, by its number."""
        if self.plan.kind == "folder":
            return FolderHandle(self.path, self.plan, str(number))
        return FileHandle(self.path, self.plan)

    def abandon(self) -> None:
        """Close it before the run began: a file or folder that was made for it goes."""
        if self._made:
            remove = self.path.rmdir if self.plan.kind == "folder" else self.path.unlink
            remove()
        self.close()

    def close(self) -> None:
        os.close(self._lock)


def _look(path: Path, size: int) -> Literal["empty", "ours", "unknown"]:
    """What the first megabyte and samples of the rest hold."""
    ours = False
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        step = max(SECTOR, size // _PROBES // SECTOR * SECTOR)
        places = [*range(0, min(size, 1 << 20), SECTOR), *range(0, size, step)]
        for offset in places:
            data = os.pread(descriptor, SECTOR, offset)
            # A rest that is no whole sector is none of ours, unless it is zeros.
            kind = read_sector(data.ljust(SECTOR, b"\0")).kind
            if kind is Kind.FOREIGN:
                return "unknown"
            ours = ours or kind is Kind.STAMPED
    finally:
        os.close(descriptor)
    return "ours" if ours else "empty"


def _lock(path: Path, flags: int) -> int:
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise TargetError(
                f"{path} is in use (mounted, part of a RAID or LVM, or swap): unmount it or take "
                "another; writing to it would destroy what it serves."
            ) from None
        hint = ""
        if error.errno in (errno.EACCES, errno.EPERM):
            hint = "; run it as root, or take a target that you may write to"
        raise TargetError(f"{path}: {error.strerror}{hint}") from None
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
            raise TargetError(f"{path}: the rename workload needs a folder (or a new name for one)")
        return "folder"
    if stat.S_ISDIR(mode):
        raise TargetError(f"{path} is a folder: name a file in it, or use --workload rename")
    if stat.S_ISBLK(mode):
        return "device"
    if mode and not stat.S_ISREG(mode):
        raise TargetError(f"{path} is neither a file, a folder nor a block device")
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
    path = path.absolute().parent.resolve() / path.name
    if path.is_symlink():
        path = path.resolve()
    if not path.parent.is_dir():
        raise TargetError(f"{path.parent}: no such folder")
    devices = Path("/dev")  # itself, not what is mounted below it, as /dev/shm
    in_devices = path.is_relative_to(devices) and path.parent.stat().st_dev == devices.stat().st_dev
    if in_devices and not path.exists():
        raise TargetError(f"{path}: no such device; `lsblk` lists those that there are")
    if block_size % SECTOR or not SECTOR <= block_size <= MAX_BLOCK:
        raise TargetError(
            f"blocks of {block_size} bytes: must be a multiple of {SECTOR}, at most {MAX_BLOCK}"
        )
    asked, least = size, 8 * threads
    size -= size % block_size
    if size // block_size < least:
        raise TargetError(
            f"{asked} bytes are too small: {threads} threads with blocks of {block_size} bytes "
            f"need at least {least * block_size}"
        )
    kind = _kind_of(path, workload)
    existed = path.exists()
    if kind == "folder":
        if existed and not force:
            strange = [
                entry.name
                for entry in path.iterdir()
                if not entry.name.startswith(("slot-", "new-"))
            ]
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
        prior = _check(path, kind, size, lock, force)
        if direct and (block_size % SECTOR or not _direct_works(path, kind, block_size)):
            raise TargetError(f"{path}: no O_DIRECT with blocks of {block_size} bytes here")
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
            mount=None if kind == "device" else host.mount_of(path),
            facts=facts or {},
        )
    except BaseException:
        os.close(lock)
        if not existed and kind == "file":
            path.unlink()
        raise
    return Target(plan, lock, made=not existed)


def _check(
    path: Path, kind: TargetKind, size: int, lock: int, force: bool
) -> Literal["empty", "ours", "unknown"]:
    prior: Literal["empty", "ours", "unknown"] = "empty"
    if kind == "device":
        have = host.device_size(path)
        if size > have:
            raise TargetError(f"{path} has {have} bytes, {size} were asked for")
        prior = _look(path, size)
    elif kind == "file":
        state = os.fstat(lock)
        prior = _look(path, state.st_size)
        room = os.fstatvfs(lock)
        free = room.f_bavail * room.f_frsize + state.st_blocks * 512
        if size > free:
            raise TargetError(
                f"{path}: {size} bytes were asked for, the file system has room for {free}"
            )
    if prior == "unknown" and not force:
        raise TargetError(
            f"{path} holds data that disk-checker did not write; it would be destroyed. "
            "Take another target, or --force if that is what you want."
        )
    return prior


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
        buffers: Sequence[mmap.mmap] = [mmap.mmap(-1, max(block_size, _PAGE))]
        os.preadv(descriptor, [memoryview(buffers[0])[:block_size]], 0)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)
