"""What the target lies on: file system, mount options, layers of devices, caches, RAID.

Everything here only reads: /sys, /proc, and tools that are installed (hdparm, sdparm,
the RAID cards' own).  A fact that cannot be had is left out.

Sources: the kernel's Documentation/ABI/stable/sysfs-block and
Documentation/block/writeback_cache_control.rst.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
from pathlib import Path
from typing import Any

from disk_checker import host

SYS = Path("/sys")
DEV = Path("/dev")

RAID_TOOLS: dict[str, tuple[tuple[str, ...], ...]] = {
    "megaraid_sas": (
        ("storcli64", "/call/vall", "show", "all"),
        ("storcli64", "/call/cv", "show"),
        ("storcli64", "/call/bbu", "show"),
        ("perccli64", "/call/vall", "show", "all"),
        ("megacli", "-LDInfo", "-Lall", "-aAll"),
    ),
    "hpsa": (("ssacli", "ctrl", "all", "show", "detail"),),
    "smartpqi": (("ssacli", "ctrl", "all", "show", "detail"),),
    "aacraid": (("arcconf", "getconfig", "1"),),
    "arcmsr": (("areca-cli", "sys", "info"),),
    "3w-9xxx": (("tw-cli", "/c0", "show", "all"),),
    "3w-sas": (("tw-cli", "/c0", "show", "all"),),
}
"""Per kernel driver: what shows a card's cache, battery and disk cache settings."""

_TELLING = re.compile(r"cache|bbu|battery|capacitor|cachevault|write.?back|write.?through", re.I)


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text().strip()
    return ""


def device_of(path: Path) -> str:
    """The kernel's name of the block device under a path ("" for none, e.g. tmpfs)."""
    while not path.exists():
        path = path.parent
    state = path.stat()
    number = state.st_rdev if stat.S_ISBLK(state.st_mode) else state.st_dev
    link = SYS / "dev/block" / f"{os.major(number)}:{os.minor(number)}"
    return link.resolve().name if link.exists() else ""


def links_to(*names: str) -> list[str]:
    """Other names of devices that outlive a reboot: by-id, by-uuid, LVM's, md's."""
    folders = [*DEV.glob("disk/by-*"), DEV / "mapper", DEV / "md"]
    links = (link for folder in folders if folder.is_dir() for link in folder.iterdir())
    return sorted(str(link) for link in links if link.is_symlink() and link.resolve().name in names)


def layers(name: str, seen: frozenset[str] = frozenset()) -> list[dict[str, Any]]:
    """A device and all that it stands on, from the top down."""
    if not name or name in seen:
        return []
    node = SYS / "class/block" / name
    if not node.exists():
        return []
    real = node.resolve()
    disk = real.parent if (real / "partition").exists() else real
    layer: dict[str, Any] = {"device": f"/dev/{name}"}
    if disk != real:
        layer["disk"] = f"/dev/{disk.name}"
    if links := links_to(name, disk.name):
        layer["links"] = links
    for key, file in (
        ("write_cache", "queue/write_cache"),
        ("fua", "queue/fua"),
        ("rotational", "queue/rotational"),
        ("logical_block_size", "queue/logical_block_size"),
        ("physical_block_size", "queue/physical_block_size"),
        ("vendor", "device/vendor"),
        ("model", "device/model"),
        ("firmware", "device/rev"),
        ("raid_level", "md/level"),
        ("raid_journal", "md/consistency_policy"),
        ("mapping", "dm/name"),
        ("mapping_type", "dm/uuid"),
        ("backing_file", "loop/backing_file"),
    ):
        if text := _read(disk / file):
            layer[key] = text
    driver = disk / "device/driver"
    if driver.exists():
        layer["driver"] = driver.resolve().name
    if "driver" in layer and os.geteuid() == 0:
        layer |= _asked(f"/dev/{disk.name}")
    found = [layer]
    below = sorted(entry.name for entry in (disk / "slaves").glob("*")) or sorted(
        entry.name for entry in (real / "slaves").glob("*")
    )
    for lower in below:
        found += layers(lower, seen | {name})
    if backing := layer.get("backing_file"):
        with contextlib.suppress(OSError):
            found += layers(device_of(Path(backing)), seen | {name})
    return found


def _asked(device: str) -> dict[str, str]:
    """What the disk itself says of its write cache."""
    answers = {}
    if shutil.which("hdparm"):
        code, said = host.run_tool("hdparm", "-W", device)
        if code == 0 and (match := re.search(r"write-caching\s*=\s*(.+)", said)):
            answers["hdparm"] = match[1].strip()
    if shutil.which("sdparm"):
        code, said = host.run_tool("sdparm", "--quiet", "--get=WCE", device)
        if code == 0 and (match := re.search(r"WCE\s+(\d)", said)):
            answers["sdparm_wce"] = match[1]
    return answers


def raid_cards() -> list[dict[str, Any]]:
    """RAID cards by their PCI class or driver, and what their tools say of their caches."""
    cards: dict[str, dict[str, Any]] = {}
    for device in sorted((SYS / "bus/pci/devices").glob("*")):
        driver = device / "driver"
        name = driver.resolve().name if driver.exists() else ""
        if not _read(device / "class").startswith("0x0104") and name not in RAID_TOOLS:
            continue
        card = cards.setdefault(name or device.name, {"driver": name, "address": device.name})
        for command in RAID_TOOLS.get(name, ()):
            if shutil.which(command[0]):
                _, said = host.run_tool(*command, timeout_s=30)
                lines = [line.strip() for line in said.splitlines() if _TELLING.search(line)]
                card[" ".join(command)] = lines[:20]
    return list(cards.values())


def gather(path: Path) -> dict[str, Any]:
    """All facts about a target, as JSON."""
    path = path.absolute()
    facts: dict[str, Any] = {"kernel": os.uname().release}
    with contextlib.suppress(OSError):
        if not path.is_block_device() and (mount := host.mount_of(path)):
            facts["mount"] = mount.model_dump()
        facts["layers"] = layers(device_of(path))
    cards = raid_cards()
    if cards:
        facts["raid_cards"] = cards
    return facts
