"""Remove old releases: ``prune.py RUNTIME_DIR KEEP look|remove``.

Prints what is (or would be) removed, one path a line.  What stays: the current
release, the newest of the others up to KEEP in all, and every release that a
process still runs from - a program that was started before an upgrade may yet
import a module that it has not needed so far.
"""

import shutil
import sys
from pathlib import Path


def in_use(release: Path) -> bool:
    """Whether the command line of any process names a file of the release."""
    needle = f"{release}/".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if needle in (process / "cmdline").read_bytes():
                return True
        except OSError:
            continue  # it has ended
    return False


def main(runtime_dir: str, keep: str, action: str) -> None:
    root = Path(runtime_dir)
    current = (root / "current").resolve()
    stamps = sorted(
        (root / "releases").glob("*/.complete"), key=lambda path: path.stat().st_mtime, reverse=True
    )
    others = [stamp.parent for stamp in stamps if stamp.parent.resolve() != current]
    for release in others[max(int(keep) - 1, 0) :]:
        if in_use(release):
            continue
        print(release)
        if action == "remove":
            # Without its stamp it is no release any more, should this be interrupted.
            (release / ".complete").unlink()
            shutil.rmtree(release)


if __name__ == "__main__":
    main(*sys.argv[1:])
