"""The checker on dm-flakey with drop_writes, in a virtual machine, whose kernel has it.

    python -m tests.support.disk_flakey IMAGE

IMAGE is a folder that `make lab-up` has built: var/cache/lab/...  Ends with 1 if a verdict
was wrong.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from tools.lab.accelerator import accelerator
from tools.lab.image import Image

SCRIPT = Path(__file__).with_suffix(".sh")
# What `disk-checker` imports; as compiled for this Python, whose version the guest's must have.
NEEDED = (
    *("click", "pydantic", "pydantic_core", "annotated_types", "typing_extensions.py"),
    *("typing_inspection", "rich", "markdown_it", "mdurl", "pygments", "numpy", "numpy.libs"),
)
EXPECTED = {"honest": "0", "lying": "1"}
INIT = 'init=/bin/sh -- -c "mount -o ro /dev/vdb /mnt && exec sh /mnt/run"'
WITHIN_S = 1200


def _tree(folder: Path) -> None:
    """What the guest has at /mnt."""
    site = Path(sysconfig.get_path("purelib"))
    for name in NEEDED:
        if (site / name).is_dir():
            shutil.copytree(site / name, folder / name)
        elif (site / name).exists():
            shutil.copy(site / name, folder)
    import disk_checker

    shutil.copytree(Path(disk_checker.__file__).parent, folder / "disk_checker")
    shutil.copy(SCRIPT, folder / "run")


def main(image: Image) -> int:
    """Boot, run the rounds, and look at their exit codes."""
    with tempfile.TemporaryDirectory(prefix="disk-flakey-") as name:
        folder = Path(name)
        tree = folder / "tree"
        tree.mkdir()
        _tree(tree)
        subprocess.run(
            ["mke2fs", "-q", "-t", "ext4", "-d", tree, folder / "kit.img", "400M"], check=True
        )
        with (folder / "disk.img").open("wb") as file:
            file.truncate(64 << 20)
        drives = [(image.root, "on"), (folder / "kit.img", "on"), (folder / "disk.img", "off")]
        words: list[str | Path] = [
            *("qemu-system-x86_64", "-accel", accelerator(image, folder), "-cpu", "max"),
            *("-m", "768", "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"),
            *("-kernel", image.kernel, "-initrd", image.initrd, "-append"),
            f"root=/dev/vda rw quiet no_timer_check mitigations=off console=ttyS0 panic=-1 {INIT}",
        ]
        for path, snapshot in drives:
            words += ["-drive", f"file={path},format=raw,if=virtio,snapshot={snapshot}"]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, timeout=WITHIN_S)
    print(done.stdout)
    rounds = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("ROUND ")]
    return 0 if rounds == [[name, code] for name, code in EXPECTED.items()] else 1


if __name__ == "__main__":
    sys.exit(main(Image(Path(sys.argv[1]))))
