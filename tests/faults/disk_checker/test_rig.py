"""Power-pulls of disks that nobody here wrote: nbdkit's cache, honest, lying, and none.

nbdkit is the witness that the checker does not only agree with our own liar.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.disk_rig import Checker, Rig
from tests.support.liar_disk import LiarDisk

pytestmark = pytest.mark.faults

LONG = os.environ.get("DISK_CHECKER_LONG") == "1"
CYCLES = 20 if LONG else 1

WAYS = [
    (["--sync", "fdatasync", "--threads", "4"], "writeback"),
    (["--direct", "--depth", "8", "--block-size", "4k"], "writethrough"),
    (["--workload", "append", "--sync", "fdatasync"], "writeback"),
    (["--workload", "innodb", "--threads", "4"], "writeback"),
    (["--sync", "dsync", "--block-size", "4k"], "writeback"),
    (["--block-size", "256k", "--read-back", "5"], "writeback"),
    (["--block-size", "512", "--depth", "4"], "writeback"),
]


def pull(
    rig: Rig,
    checker: Checker,
    target: Path | str,
    *words: str,
    size: str = "16M",
    acked: int = 200,
    keep: float = 0.0,
) -> dict[str, Any]:
    """Write for some time, cut the disk, bring it back, verify."""
    writing = checker.create(target, size, *words)
    checker.wait_acked(writing, acked)
    writing.freeze()
    rig.cut(keep)
    writing.kill()
    writing.finish()
    device = rig.restart()
    if isinstance(target, str):
        return checker.verify(device, "--run", writing.run)
    return checker.verify(target, "--device", device)


def prepared(rig: Rig, checker: Checker, fs: str, mode: str, options: str = "") -> Path | str:
    """A target on an honest disk, filled; then the disk as the test wants it."""
    device = rig.power_on()
    if fs == "raw":
        return rig.restart(mode) if mode != "writeback" else device
    rig.make_fs(fs)
    target = rig.mount() / "target"
    filling = checker.create(target, "16M", "--fill", "--seconds", "0.2")
    code, said = filling.finish()
    assert code == 0, said
    rig.unmount()
    if mode != "writeback":
        rig.restart(mode)
    rig.mount(options)
    return target


def image_size(fs: str) -> int:
    return (310 if fs == "xfs" else 48) << 20


@pytest.mark.parametrize("fs", ["ext4", "xfs", "raw"])
def test_an_honest_cache_is_honest(tmp_path: Path, fs: str) -> None:
    for number in range(CYCLES):
        folder = tmp_path / str(number)
        folder.mkdir()
        with Rig(folder, image_size(fs)) as rig, Checker(folder) as checker:
            report = pull(rig, checker, prepared(rig, checker, fs, "writeback"))
        assert report["verdict"] == "honest", report


@pytest.mark.parametrize("fs", ["ext4", "xfs", "raw"])
def test_a_cache_that_ignores_flushes_lies(tmp_path: Path, fs: str) -> None:
    for number in range(CYCLES):
        folder = tmp_path / str(number)
        folder.mkdir()
        with Rig(folder, image_size(fs)) as rig, Checker(folder) as checker:
            report = pull(rig, checker, prepared(rig, checker, fs, "unsafe"))
        assert report["verdict"] == "lying", report
        assert report["faults"]["lost"]["count"] > 10
        assert report["faults"]["lost"]["honest_probability"] < 1e-12


@pytest.mark.parametrize(
    ("words", "mode"),
    WAYS if LONG else WAYS[:4],
    ids=lambda value: "-".join(value).replace("--", "") if isinstance(value, list) else value,
)
def test_every_way_of_syncing_is_honest_on_an_honest_disk(
    tmp_path: Path, words: list[str], mode: str
) -> None:
    with Rig(tmp_path, 48 << 20) as rig, Checker(tmp_path) as checker:
        rig.power_on(mode)
        rig.make_fs("ext4")
        target = rig.mount() / "fresh"
        report = pull(rig, checker, target, *words, size="16M", acked=120)
    assert report["faults"] == {}, report
    assert report["verdict"] == "honest", report


def test_renames_survive_on_an_honest_disk_and_not_on_a_liar(tmp_path: Path) -> None:
    for mode, verdict in (("writeback", "honest"), ("unsafe", "lying")):
        folder = tmp_path / mode
        folder.mkdir()
        with Rig(folder, 48 << 20) as rig, Checker(folder) as checker:
            rig.power_on()
            rig.make_fs("ext4")
            target = rig.mount() / "slots"
            # The slots exist before the disk lies, as in a spool that is in use.
            writing = checker.create(target, "256k", "--workload", "rename", "--block-size", "4k",
                                     "--fill", "--seconds", "0.3")  # fmt: skip
            assert writing.finish()[0] == 0
            rig.unmount()
            rig.restart(mode)
            rig.mount()
            report = pull(rig, checker, target, "--workload", "rename", "--block-size", "4k",
                          size="256k", acked=120)  # fmt: skip
        assert report["verdict"] == verdict, report
        if mode == "unsafe":
            assert "stale_metadata" in report["faults"], report


def test_a_device_in_use_is_refused_even_with_force(tmp_path: Path) -> None:
    with Rig(tmp_path, 48 << 20) as rig, Checker(tmp_path) as checker:
        device = rig.power_on()
        rig.make_fs("ext4")
        code, said = checker.create(device, "16M").finish()
        assert code == 3
        assert "holds data that disk-checker did not write" in said
        rig.mount()
        code, said = checker.create(device, "16M", "--force").finish()
        assert code == 3
        assert "in use (mounted" in said
        code, said = checker.create(rig.mount_point / "big", "60M").finish()
        assert code == 3
        assert "has room for" in said


def test_a_file_that_is_gone_is_a_verdict(tmp_path: Path) -> None:
    with Rig(tmp_path, 48 << 20) as rig, Checker(tmp_path) as checker:
        rig.power_on()
        rig.make_fs("ext4")
        rig.restart("unsafe")
        report = pull(rig, checker, rig.mount() / "new")
    assert "missing" in report["faults"], report
    assert report["exit_code"] == 1


def test_a_file_system_that_no_longer_mounts_is_a_verdict(tmp_path: Path) -> None:
    """A liar that keeps a random half: the kernel refuses what is left of the journal."""
    liar = LiarDisk(48 << 20, 1)
    with Rig(tmp_path, liar=liar) as rig, Checker(tmp_path) as checker:
        target = prepared(rig, checker, "ext4", "writeback")
        writing = checker.create(target, "16M")
        checker.wait_acked(writing, 120)
        writing.freeze()
        rig.cut()
        writing.kill()
        writing.finish()
        # What an interrupted write of the super block and its backups leaves behind.
        liar.stable[0 : 1 << 16] = bytes(1 << 16)
        report = checker.verify(target, "--device", rig.restart())
    assert report["verdict"] == "lying", report
    assert "unmountable" in report["faults"]
    assert "no longer mounts" in report["headline"]


def test_no_barriers_are_found_on_an_honest_disk(tmp_path: Path) -> None:
    with Rig(tmp_path, 48 << 20) as rig, Checker(tmp_path) as checker:
        target = prepared(rig, checker, "ext4", "writeback", "nobarrier")
        report = pull(rig, checker, target)
    assert report["verdict"] == "lying", report
    assert "barrier" in report["plan"]["facts"]["mount"]["options"]


@pytest.mark.parametrize("sync", ["none", "sync_file_range"])
def test_methods_that_promise_nothing_are_caught(tmp_path: Path, sync: str) -> None:
    with Rig(tmp_path, 48 << 20) as rig, Checker(tmp_path) as checker:
        target = prepared(rig, checker, "ext4", "writeback")
        report = pull(rig, checker, target, "--sync", sync)
    assert report["verdict"] == "not-durable", report
    assert report["exit_code"] == 1
