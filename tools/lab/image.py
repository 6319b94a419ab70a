"""The disk image that every virtual machine of a lab begins with.

Built by mmdebstrap from the apt sources of this machine, with every package that the
roles install, since a lab's hosts reach no package mirror.  It is kept under a name that
is made of what it is built from: another list of packages or other apt sources make another
image, and the same one is never built twice, however many newer packages a mirror has by then.
Needs root.

Who uses an image holds a lock on its folder: hosts of a running lab open its files at every
boot, so it is only removed when nobody does.  ``python -m tools.lab.image CACHE`` removes all
of those.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
SUITE = "bookworm"
SIZE_MB = 4096
"""Of the root file system; holes take no room."""
RECIPE = ("packages.txt", "customize.sh", "image.py")
"""Files, beside this one, that decide what the image holds."""
APT = Path("/etc/apt")
CREDENTIALS = re.compile(r"//[^/@\s]*@")
"""In an address."""
SCRATCH = ".building-"
"""What names begin with of what is no image yet, or no longer."""


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


def apt_sources() -> list[Path]:
    """This machine's own apt sources for Debian; none where it is another system's."""
    found = [APT / "sources.list", *sorted((APT / "sources.list.d").glob("*"))]
    return [
        path
        for path in found
        if path.suffix in {".list", ".sources"} and path.is_file() and "debian" in path.read_text()
    ]


def fingerprint(sources: Iterable[Path]) -> str:
    """Of what the image is built from: 16 hexadecimal digits.

    Args:
        sources: apt sources; credentials and comments in them decide nothing.
    """
    digest = hashlib.sha256()
    for name in RECIPE:
        digest.update((HERE / name).read_bytes())
    for source in sources:
        lines = (line.strip() for line in source.read_text().splitlines())
        kept = (CREDENTIALS.sub("//", line) for line in lines if line and line[0] != "#")
        digest.update("\n".join([source.suffix, *kept, ""]).encode())
    return digest.hexdigest()[:16]


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


def _locked(folder: Path, how: int) -> int:
    """A descriptor that holds a lock on an image, until all that have it open have closed it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, how)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _drop(cache: Path, but: Path | None = None) -> list[Path]:
    """Remove images, all or but one; the folders of those that are in use are returned."""
    used = []
    for folder in sorted(cache.iterdir()):
        if folder.is_dir() and folder != but:
            try:
                descriptor = _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                used.append(folder)
                continue
            try:
                gone = folder
                if not folder.name.startswith(SCRATCH):
                    # One that lacks a file must not be taken for an image.
                    gone = folder.rename(cache / f"{SCRATCH}{folder.name}")
                _run("rm", "-rf", "--one-file-system", gone)
            finally:
                os.close(descriptor)
    return used


def _build(folder: Path, scratch: Path, sources: list[Path]) -> None:
    if os.geteuid() != 0:
        raise ImageFailed("an image is built by root: run this as root")
    if not sources:
        raise ImageFailed(f"no Debian source in {APT}; the image is built from those")
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
        *sources,
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


@contextmanager
def image(cache: Path) -> Iterator[tuple[Image, int]]:
    """The image for the present recipe, built first where it is not in the cache.

    Takes some minutes the first time.

    Args:
        cache: folder of images; those in it that nobody uses are dropped when one is built.

    Yields:
        The image, and a descriptor: it stays as long as a process has that open, however
        long the block is.

    Raises:
        ImageFailed: it could not be built.
    """
    sources = apt_sources()
    built = cache / fingerprint(sources)
    cache.mkdir(parents=True, exist_ok=True)
    with _alone(cache / ".lock"):
        if not (built / "root.ext4").exists():
            for abandoned in (built, *cache.glob(f"{SCRATCH}*")):
                _run("rm", "-rf", "--one-file-system", abandoned)
            with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=cache) as scratch:
                folder = Path(scratch) / "image"
                folder.mkdir()
                _build(folder, Path(scratch), sources)
                folder.rename(built)
            _drop(cache, but=built)
        descriptor = _locked(built, fcntl.LOCK_SH)
    try:
        yield Image(built), descriptor
    finally:
        os.close(descriptor)


def clean(cache: Path) -> list[Path]:
    """Remove all images but those that are in use, whose folders are returned."""
    if not cache.is_dir():
        return []
    with _alone(cache / ".lock"):
        (cache / "accelerator").unlink(missing_ok=True)
        return _drop(cache)


if __name__ == "__main__":
    try:
        for each in clean(Path(sys.argv[1])):
            print(f"{each} stays: a lab runs from it, and is ended by `make lab-down`")
    except (ImageFailed, OSError) as error:
        sys.exit(f"lab: {error}")
