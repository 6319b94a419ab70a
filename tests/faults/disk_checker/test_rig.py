"""Power-pulls of disks that nobody here wrote: nbdkit's cache, honest, lying, and none.

nbdkit is the witness that the checker does not only agree with our own liar.  `make disk-cycles`
repeats what is here once.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.disk_cycles import KINDS, prepared, pull
from tests.support.disk_rig import Checker, Rig
from tests.support.liar_disk import LiarDisk

pytestmark = pytest.mark.faults

WAYS = [
    (["--sync", "fdatasync", "--threads", "4"], "writeback"),
    (["--direct", "--depth", "8", "--block-size", "4k"], "writethrough"),
    (["--workload", "append", "--sync", "fdatasync"], "writeback"),
    (["--workload", "innodb", "--threads", "4"], "writeback"),
    (["--sync", "dsync", "--block-size", "4k"], "writeback"),
    (["--block-size", "256k", "--read-back", "5"], "writeback"),
    (["--block-size", "512", "--depth", "4"], "writeback"),
]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("liar")])
def test_each_kind_of_disk_has_its_verdict(tmp_path: Path, kind: str) -> None:
    """Honest and lying caches, no barriers, methods that promise nothing."""
    folder = tmp_path / "disk"
    folder.mkdir()
    with Checker(tmp_path) as checker:
        report = KINDS[kind].cycle(folder, checker)
    assert KINDS[kind].right(report), report
    if kind.startswith("ignores"):
        assert report["faults"]["lost"]["honest_probability"] < 1e-12
    if kind == "nobarrier":
        assert "barrier" in report["plan"]["facts"]["mount"]["options"]


@pytest.mark.parametrize(
    ("words", "mode"),
    WAYS,
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
        target = prepared(rig, "ext4")
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
