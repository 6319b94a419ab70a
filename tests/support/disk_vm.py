"""A virtual machine of the lab's image that runs the disk checker: its kernel, its disks.

Process 1 of the guest is a script of ours, and /mnt has what the checker imports; nothing else is
started, so a boot takes seconds of kernel and no more.
"""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import disk_checker
from tools.lab.accelerator import accelerator
from tools.lab.image import Image

# What `disk-checker` imports; as compiled for this Python, whose version the guest's must have.
NEEDED = (
    *("click", "pydantic", "pydantic_core", "annotated_types", "typing_extensions.py"),
    *("typing_inspection", "rich", "markdown_it", "mdurl", "pygments", "numpy", "numpy.libs"),
)
KERNEL_WORDS = (
    "root=/dev/vda rw quiet no_timer_check mitigations=off norandmaps console=ttyS0 panic=-1"
)
WITHIN_S = 1200
"""Seconds that a guest may take for all it does."""


class Guest:
    """How to start such a machine.

    :param image: built by a lab.
    :param folder: for the disk that the guest has at /mnt; writable.
    :param script: the guest's process 1, for its /bin/sh; begins with /dev/vdb at /mnt.
    """

    def __init__(self, image: Image, folder: Path, script: Path) -> None:
        self._image = image
        self._kit = folder / "kit.img"
        self._accelerator = accelerator(image, folder)
        tree = folder / "tree"
        tree.mkdir()
        site = Path(sysconfig.get_path("purelib"))
        for name in NEEDED:
            if (site / name).is_dir():
                shutil.copytree(site / name, tree / name)
            elif (site / name).exists():
                shutil.copy(site / name, tree)
        shutil.copytree(Path(disk_checker.__file__).parent, tree / "disk_checker")
        shutil.copy(script, tree / "run")
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, self._kit, "400M"], check=True)
        shutil.rmtree(tree)

    def words(self, disk: Path | str, *arguments: str, more: Sequence[str] = ()) -> list[str]:
        """The command that runs the machine once; its console is standard output.

        :param disk: a raw image's path or qemu's name of an NBD export: /dev/vdc.
        :param arguments: the script's.
        :param more: of qemu's own words.
        """
        script = " ".join(["exec", "sh", "/mnt/run", *arguments])
        start = f'init=/bin/sh -- -c "mount -o ro /dev/vdb /mnt && {script}"'
        words = ["qemu-system-x86_64", "-accel", self._accelerator, "-cpu", "max", "-m", "768"]
        words += ["-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"]
        words += ["-kernel", str(self._image.kernel), "-initrd", str(self._image.initrd)]
        words += ["-append", f"{KERNEL_WORDS} {start}"]
        drives = [(self._image.root, "on"), (self._kit, "on"), (disk, "off")]
        for file, snapshot in drives:
            words += ["-drive", f"file={file},format=raw,if=virtio,snapshot={snapshot}"]
        return [*words, *more]
