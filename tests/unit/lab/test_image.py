"""A lab's image is kept while somebody uses it, and named for what it is built from."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.box import CHECKOUT
from tools.lab import image as module
from tools.lab.image import ImageFailed, clean, fingerprint, image, packages

pytestmark = pytest.mark.unit

LIST = """# The mirror.
deb http://mirror.example/debian bookworm main
"""
DEB822 = """Types: deb
URIs: http://mirror.example/debian
Suites: bookworm
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of images that are quickly built."""

    def build(folder: Path, *_: object) -> None:
        for name in ("root.ext4", "vmlinuz", "initrd"):
            (folder / name).write_text(name)

    monkeypatch.setattr(module, "_build", build)
    return tmp_path / "cache"


def another(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The recipe is another one from now on."""
    monkeypatch.setattr(module, "fingerprint", lambda _: name)


def images(cache: Path) -> set[str]:
    return {folder.name for folder in cache.iterdir() if folder.is_dir()}


def test_an_older_image_stays_as_long_as_somebody_uses_it(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    another(monkeypatch, "first")
    with image(cache) as (first, lock):
        lab = subprocess.Popen(["sleep", "infinity"], pass_fds=[lock])
    try:
        another(monkeypatch, "second")
        with image(cache) as (second, _):
            assert images(cache) == {"first", "second"}
        assert first.root.read_text() == "root.ext4"
        another(monkeypatch, "third")
        with image(cache):
            assert not second.folder.exists()
        assert images(cache) == {"first", "third"}
    finally:
        lab.kill()
        lab.wait()
    another(monkeypatch, "fourth")
    with image(cache) as (fourth, _):
        assert images(cache) == {"fourth"}
        assert fourth.kernel.exists()


def test_an_image_without_its_file_system_is_built_anew(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    another(monkeypatch, "one")
    with image(cache) as (one, _):
        pass
    one.root.unlink()
    (cache / ".building-abandoned").mkdir()
    with image(cache) as (again, _):
        assert again.root.exists()
    assert images(cache) == {"one"}


def test_clean_leaves_what_a_running_lab_boots_from(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make clean` in a checkout that holds nothing else."""
    (tmp_path / "tools").mkdir()
    shutil.copytree(CHECKOUT / "tools/lab", tmp_path / "tools/lab")
    shutil.copy(CHECKOUT / "Makefile", tmp_path)
    var = tmp_path / "other var"
    used = var / "cache/lab"
    cache = used
    for name in ("idle", "used"):
        another(monkeypatch, name)
        with image(cache) as (_, lock):
            held = os.dup(lock)
        if name == "idle":
            os.close(held)
    (var / "cache/pip").mkdir()
    (var / "etc").mkdir()

    def make_clean() -> str:
        words = ["make", "--no-print-directory", "clean", f"VAR={var}"]
        run = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        return run.stdout

    try:
        assert f"{cache / 'used'} stays: a lab runs from it" in make_clean()
        assert images(cache) == {"used"}
        assert (cache / "used/root.ext4").exists()
    finally:
        os.close(held)
    assert "stays" not in make_clean()
    assert not (cache / "used").exists()
    assert not (var / "cache/pip").exists()
    assert (var / "etc").is_dir()
    assert clean(tmp_path / "nowhere") == []


def test_the_image_is_named_for_what_it_is_built_from(tmp_path: Path) -> None:
    source = tmp_path / "debian.list"

    def named(text: str) -> str:
        source.write_text(text)
        return fingerprint([source])

    name = named(LIST)
    assert len(name) == 16
    assert name != fingerprint([])
    assert name == named(LIST.replace("# The mirror.", "\n# Ours.\n"))
    assert name == named(LIST.replace("//", "//somebody:secret@"))
    assert name != named(LIST.replace("bookworm", "trixie"))
    assert name != named(LIST.replace("mirror", "other"))
    assert named(DEB822) == named(DEB822.replace("//", "//somebody:secret@"))
    assert {"drbd-utils", "heartbeat", "linux-image-cloud-amd64"} <= set(packages())


def test_a_machine_without_debian_s_sources_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "APT", tmp_path / "apt")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(ImageFailed, match="no Debian source in"), image(tmp_path / "cache"):
        pass
    assert images(tmp_path / "cache") == set()
