"""Only what is certainly the run's own can be missing; another disk is refused, not judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from disk_checker import host, hostfacts
from disk_checker.errors import TargetError
from disk_checker.fold import Totals
from disk_checker.plan import Mount
from disk_checker.reach import reachable
from disk_checker.result import Result
from tests.support.memory_run import make_plan

pytestmark = pytest.mark.unit

OURS = "9f1c0b5e-0000-4000-8000-000000000001"
ANOTHER = "9f1c0b5e-0000-4000-8000-000000000002"


def result(path: Path, **plan: Any) -> Result:
    plan = {"machine": host.machine(), "target": str(path), "kind": "file", **plan}
    return Result(7, make_plan(**plan), Totals(acked=5))


def reach(path: Path, found: Result) -> bool:
    return reachable(path, found.plan, "", found)


def mount(point: Path, uuid: str = OURS) -> Mount:
    return Mount(source="/dev/null", point=str(point), type="ext4", options="rw", uuid=uuid)


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Mount]:
    """What this host has mounted; mount_of finds the first."""
    now: list[Mount] = []
    monkeypatch.setattr(host, "mounts", lambda: [("8:1", one) for one in now])
    monkeypatch.setattr(host, "mount_of", lambda _path: now[0] if now else None)
    return now


@pytest.mark.parametrize(
    ("uuid", "refused"), [(OURS, False), (ANOTHER, True), ("", False)], ids=["same", "other", "?"]
)
def test_another_file_system_in_the_place_is_not_judged(
    tmp_path: Path, mounted: list[Mount], uuid: str, *, refused: bool
) -> None:
    mounted.append(mount(tmp_path, uuid))
    path = tmp_path / "target"
    path.touch()
    found = result(path, mount=mount(tmp_path))
    if not refused:
        assert reach(path, found)
        return
    for _ in ("another file is there", "none is"):
        with pytest.raises(TargetError, match=rf"another file system now .*`blkid -U {OURS}`"):
            reach(path, found)
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("size", [0, 1 << 20], ids=["only its name", "another disk"])
def test_a_device_that_took_the_disks_name_is_not_mounted(
    tmp_path: Path, mounted: list[Mount], monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    def tool(*words: str, timeout_s: float = 0) -> tuple[int, str]:
        assert words[0] == "blkid", "nothing is mounted"
        return (2, "") if "-U" in words else (0, ANOTHER)

    monkeypatch.setattr(host, "run_tool", tool)
    monkeypatch.setattr(host, "device_size", lambda _path: size)
    monkeypatch.setattr(Path, "is_block_device", lambda _path: True)
    assert not mounted
    path = tmp_path / "target"
    why = (
        rf"holds another file system \(UUID {ANOTHER}\)"
        if size
        else "device /dev/null is not there"
    )
    with pytest.raises(TargetError, match=rf"{why}.*say --device NAME"):
        reach(path, result(path, mount=mount(tmp_path)))


@pytest.mark.parametrize(
    ("wrote", "now", "refused"),
    [
        (["wwn-1", "ata-1"], ["ata-1"], False),
        (["wwn-1"], ["wwn-2"], True),
        (["wwn-1"], [], False),
        ([], ["wwn-2"], False),
    ],
)
def test_another_disk_under_the_same_name_is_not_judged(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wrote: list[str],
    now: list[str],
    *,
    refused: bool,
) -> None:
    path = tmp_path / "sdc"
    path.touch()
    by_id = [f"/dev/disk/by-id/{name}" for name in now]
    monkeypatch.setattr(hostfacts, "links_to", lambda *_: [*by_id, "/dev/disk/by-path/same"])
    links = [f"/dev/disk/by-id/{name}" for name in wrote] + ["/dev/disk/by-path/same"]
    facts = {"layers": [{"device": str(path), "links": links}]}
    found = result(path, kind="device", facts=facts)
    if not refused:
        assert reach(path, found)
        return
    with pytest.raises(TargetError, match=r"is now another disk \(/dev/disk/by-id/wwn-2\)"):
        reach(path, found)


def test_a_device_that_is_not_there_is_no_verdict(tmp_path: Path) -> None:
    found = result(tmp_path / "sdc", kind="device")
    with pytest.raises(TargetError, match=r"did not come back.*--run 0{15}7"):
        reach(tmp_path / "sdc", found)


@pytest.mark.parametrize(
    ("said", "gone"),
    [
        ("mount: /p: wrong fs type, bad option, bad superblock on /dev/null", "unmountable"),
        ("mount: /p: can't read superblock on /dev/null.", "unmountable"),
        ("mount: /p: unknown filesystem type 'ext4'.", ""),
        ("mount: /p: /dev/null already mounted or mount point busy.", ""),
        ("mount: /p: permission denied.", ""),
    ],
)
def test_only_what_the_disk_is_to_blame_for_is_unmountable(
    tmp_path: Path, mounted: list[Mount], monkeypatch: pytest.MonkeyPatch, said: str, gone: str
) -> None:
    def tool(*words: str, timeout_s: float = 0) -> tuple[int, str]:
        return (32, said) if words[0] == "mount" else (1, "")

    monkeypatch.setattr(host, "run_tool", tool)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert not mounted
    path = tmp_path / "target"
    found = result(path, mount=mount(tmp_path))
    if gone:
        assert not reach(path, found)
        assert "no longer mounts" in found.headline
        assert found.faults == {gone: 5}
        return
    with pytest.raises(TargetError, match=r"could not be mounted .* and verify again"):
        reach(path, found)


def test_a_place_to_mount_that_is_not_here_is_no_verdict(
    tmp_path: Path, mounted: list[Mount], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert not mounted
    point = tmp_path / "nowhere"
    found = result(point / "target", mount=mount(point, ""))
    with pytest.raises(TargetError, match=r"is no folder here: make it"):
        reach(point / "target", found)


def test_a_file_in_place_of_the_runs_is_told(tmp_path: Path) -> None:
    path = tmp_path / "target"
    path.touch()
    for inode, told in ((path.stat().st_ino, 0), (path.stat().st_ino + 1, 1), (0, 0)):
        found = result(path, inode=inode)
        assert reach(path, found)
        assert len(found.remarks) == told
    assert not any(found.remarks)


def test_a_file_is_missing_only_where_the_run_wrote_it(tmp_path: Path) -> None:
    path = tmp_path / "target"
    found = result(path)
    assert not reach(path, found)
    assert found.faults == {"missing": 5}
    for elsewhere in ({"machine": "another"}, {"target": "/srv/target"}):
        with pytest.raises(TargetError, match="give the path that its file has now"):
            reach(path, result(path, **elsewhere))
    empty = result(path)
    empty.totals.acked = 0
    with pytest.raises(TargetError, match="no write to it was ever acknowledged"):
        reach(path, empty)
