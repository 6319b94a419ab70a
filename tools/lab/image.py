"""The disk image that every virtual machine of a lab begins with.

Built by mmdebstrap from the apt sources of this machine, with every package that the
roles install, since a lab's hosts reach no package mirror.  It is kept under a name that
is made of everything it was built from: another list of packages makes another image,
and the same one is never built twice.  Needs root.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
SUITE = "bookworm"
SIZE_MB = 4096
"""Of the root file system; holes take no room."""
RECIPE = ("packages.txt", "customize.sh", "image.py")
"""Files, beside this one, that decide what the image holds."""


class ImageFailed(Exception):
    """The image could not be built; says what mmdebstrap or mke2fs said."""


@dataclass(frozen=True)
class Image:
    """A built image: an ext4 file system, and the kernel and initrd to boot it with."""

    folder: Path

    @property
    def root(self) -> Path:
        """The root file system, a raw ext4 image that nobody writes to."""
        return self.folder / "root.ext4"

    @property
    def kernel(self) -> Path:
        """The kernel that qemu boots directly."""
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """Its initial file system."""
        return self.folder / "initrd"


def packages() -> list[str]:
    """The packages of the image, from packages.txt beside this file."""
    lines = (HERE / "packages.txt").read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def fingerprint() -> str:
    """Of everything that decides what is in the image: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in RECIPE:
        digest.update((HERE / name).read_bytes())
    return digest.hexdigest()[:16]


def apt_sources() -> list[Path]:
    """This machine's own apt sources for Debian.

    Raises:
        ImageFailed: there are none.
    """
    found = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    sources = [
        path
        for path in found
        if path.suffix in {".list", ".sources"} and path.is_file() and "debian" in path.read_text()
    ]
    if not sources:
        raise ImageFailed("no Debian source in /etc/apt; the image is built from those")
    return sources


def _run(*words: str | Path) -> None:
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        end = "\n".join((run.stderr or run.stdout).splitlines()[-15:])
        raise ImageFailed(f"{' '.join(map(str, words))[:200]} failed with {run.returncode}:\n{end}")


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock: of two that want an image, one builds and the other waits."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(folder: Path, scratch: Path) -> None:
    tree = scratch / "tree"
    # What it mounts and starts is gone with it, and it with us.
    _run(
        *("setpriv", "--pdeathsig", "KILL"),
        *("unshare", "--mount", "--pid", "--fork", "--kill-child"),
        "mmdebstrap",
        *("--mode=root", "--variant=minbase", "--format=directory"),
        *("--aptopt=APT::Install-Recommends false", "--aptopt=Acquire::Check-Valid-Until false"),
        *(f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in ("man", "doc", "locale")),
        f"--include={','.join(packages())}",
        f"--customize-hook={HERE / 'customize.sh'}",
        SUITE,
        tree,
        *apt_sources(),
    )
    # The links of /boot's parent name the newest kernel.
    shutil.copy(tree / "vmlinuz", folder / "vmlinuz")
    shutil.copy(tree / "initrd.img", folder / "initrd")
    _run(
        *("mke2fs", "-q", "-t", "ext4", "-L", "root", "-m", "0", "-E", "lazy_itable_init=1"),
        "-d",
        tree,
        folder / "root.ext4",
        f"{SIZE_MB}M",
    )


def image(cache: Path) -> Image:
    """The image for the present recipe, built first where it is not in the cache.

    Takes some minutes the first time.

    Args:
        cache: folder of images; older ones in it are dropped when one is built.

    Raises:
        ImageFailed: it could not be built.
    """
    name = fingerprint()
    built = cache / name
    cache.mkdir(parents=True, exist_ok=True)
    with _alone(cache / ".lock"):
        if (built / "root.ext4").exists():
            return Image(built)
        if os.geteuid() != 0:
            raise ImageFailed("an image is built by root: run this as root")
        for abandoned in cache.glob(".building-*"):
            _run("rm", "-rf", "--one-file-system", abandoned)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=cache) as scratch:
            folder = Path(scratch) / "image"
            folder.mkdir()
            _build(folder, Path(scratch))
            folder.rename(built)
        # A machine that runs from an older one keeps it open.
        for other in cache.iterdir():
            if other.is_dir() and other != built:
                shutil.rmtree(other)
    return Image(built)
