"""The file, folder or device that is written: writes, syncs, reads.

Every worker opens the target for itself.  That is what makes an error of a sync
reliable: Linux reports a failed write-back once per open file description, so with a
shared one worker A could be told of worker B's loss and B be told that all is well.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import re
from pathlib import Path
from typing import Protocol

from disk_checker.plan import Plan, SyncName

_SYNC_FILE_RANGE_ALL = 7  # WAIT_BEFORE | WRITE | WAIT_AFTER
_PAGE = mmap.PAGESIZE
OWN_NAME = re.compile(r"slot-[0-9]{8}|new-([0-9]{1,3}|probe)")
"""What a run of the rename workload leaves in its folder."""


class Handle(Protocol):
    """One worker's way to the target."""

    def write(self, block: int, buffer: memoryview) -> None:
        """Write one block; OSError as the system raises it."""

    def sync(self) -> None:
        """Ask that everything written by this handle is durable; OSError likewise."""

    def read(self, block: int) -> bytes:
        """The block as the disk has it, not the page cache; may be short."""

    def close(self) -> None: ...


def real_path(path: Path) -> Path:
    """Where a path leads, by whatever name it is given; what it leads to need not exist."""
    return Path(os.path.realpath(path))


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
        self._plan = plan
        self._sync = Syncer(plan.sync)
        direct = os.O_DIRECT if plan.direct else 0
        self.file = os.open(path, os.O_RDWR | os.O_CLOEXEC | direct | self._sync.flags)
        self.reader, self.reads_direct = open_reader(path)
        self.buffer = mmap.mmap(-1, (-(-self._size // _PAGE) + 1) * _PAGE)

    def write(self, block: int, buffer: memoryview) -> None:
        if os.pwrite(self.file, buffer, block * self._size) != self._size:
            raise self._plan.cut_short

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
        self._plan = plan
        self._syncer = Syncer(plan.sync)
        self._direct = os.O_DIRECT if plan.direct else 0
        self._new = path / f"new-{name}"
        self._folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def write(self, block: int, buffer: memoryview) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | self._direct | self._syncer.flags
        file = os.open(self._new, flags, 0o600)
        try:
            if os.write(file, buffer) != self._size:
                raise self._plan.cut_short
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
            for path in self.path.iterdir():
                if OWN_NAME.fullmatch(path.name):
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
