"""What a run is going to do, as the victim tells the listener and the verifier later reads."""

from __future__ import annotations

import errno
import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from disk_checker.errors import TargetError
from disk_checker.stamp import MAX_BLOCK, SECTOR

WorkloadName = Literal["overwrite", "append", "innodb", "rename"]
SyncName = Literal["fsync", "fdatasync", "dsync", "sync_file_range", "none"]
TargetKind = Literal["file", "device", "folder"]

DURABLE: dict[str, bool] = {
    "fsync": True,
    "fdatasync": True,
    "dsync": True,
    "sync_file_range": False,
    "none": False,
}
"""Whether the operating system promises durability when the call returns."""

_UNITS = ("", "k", "M", "G", "T")
_SIZE = re.compile(r"(\d+)\s*([kmgt]?)(i?b)?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes of "512", "64M", "2G", "1 TiB"; units are powers of 1024.

    :raises TargetError: when the text is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise TargetError(f"{text!r} is not a size: write it as 512, 16k, 64M, 2G or 1T")
    return int(match[1]) << {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}[match[2].lower()]


def size_text(size: int) -> str:
    """Bytes as `parse_size` reads them, exactly, in the largest unit that allows it."""
    unit = 0
    while size and size % 1024 == 0 and unit < len(_UNITS) - 1:
        size >>= 10
        unit += 1
    return f"{size}{_UNITS[unit]}"


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


Text = Annotated[str, Field(max_length=4096)]


class Mount(_Message):
    """The file system that the target lies on."""

    source: Text = Field(description="device as mounted, e.g. /dev/sdb1")
    point: Text = Field(description="mount point")
    type: Text = Field(description="file system, e.g. ext4")
    options: Text = Field(description="mount options and super block options, comma separated")
    uuid: Text = Field(default="", description="the file system's UUID, where it has one")


class Plan(_Message):
    """One run on one target."""

    machine: Text = Field(description="/etc/machine-id, else the host's name")
    hostname: Text
    boot: Text = Field(description="/proc/sys/kernel/random/boot_id when the run began")
    target: Text = Field(description="absolute path of the file, device or folder")
    kind: TargetKind
    size: int = Field(ge=SECTOR, le=1 << 60, description="bytes that may be written")
    block_size: int = Field(ge=SECTOR, le=MAX_BLOCK, multiple_of=SECTOR, description="bytes")
    workload: WorkloadName = "overwrite"
    sync: SyncName = "fsync"
    direct: bool = Field(default=False, description="O_DIRECT")
    threads: int = Field(default=1, ge=1, le=256)
    depth: int = Field(default=1, ge=1, le=1024, description="writes of a thread per sync")
    filled: bool = Field(default=False, description="the run begins with one write per block")
    prior: Literal["empty", "ours", "unknown"] = Field(
        default="empty", description="what the target held before the run"
    )
    inode: int = Field(default=0, ge=0, lt=1 << 64, description="of a file; 0: not known")
    prior_run: int = Field(default=0, ge=0, lt=(1 << 64) - 1, description="newest run found in it")
    mount: Mount | None = None
    facts: dict[str, object] = Field(default_factory=dict, description="see hostfacts")

    @property
    def cut_short(self) -> OSError:
        """What a write means that wrote less than a block: a file system without room, or, of a
        device, whose end is known, an error."""
        number = errno.EIO if self.kind == "device" else errno.ENOSPC
        return OSError(number, "the write was cut short")

    @property
    def blocks(self) -> int:
        """Blocks of the target; a folder's are its slots."""
        return self.size // self.block_size
