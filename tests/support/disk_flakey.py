"""The checker on dm-flakey with drop_writes, in a virtual machine, whose kernel has it.

    python -m tests.support.disk_flakey IMAGE

IMAGE is a folder that `make lab-up` has built: var/cache/lab/...  Ends with 1 if a verdict
was wrong.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.disk_vm import WITHIN_S, Guest
from tools.lab.image import Image

EXPECTED = {"honest": "0", "lying": "1"}


def main(image: Image) -> int:
    """Boot, run the rounds, and look at their exit codes."""
    with tempfile.TemporaryDirectory(prefix="disk-flakey-") as name:
        folder = Path(name)
        guest = Guest(image, folder, Path(__file__).with_suffix(".sh"))
        disk = folder / "disk.img"
        with disk.open("wb") as file:
            file.truncate(64 << 20)
        done = subprocess.run(
            guest.words(disk), stdout=subprocess.PIPE, text=True, timeout=WITHIN_S
        )
    print(done.stdout)
    rounds = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("ROUND ")]
    return 0 if rounds == [[name, code] for name, code in EXPECTED.items()] else 1


if __name__ == "__main__":
    sys.exit(main(Image(Path(sys.argv[1]))) if len(sys.argv) == 2 else __doc__)
