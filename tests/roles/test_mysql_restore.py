"""What `restore.sh` leaves behind when a backup can't be put in the place of the data.

No server runs: where it stops and starts, it is told a command that works, or one that does not.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.box import CHECKOUT

pytestmark = [pytest.mark.roles]

SCRIPT = CHECKOUT / "roles/mysql_backup/files/restore.sh"


@contextmanager
def small(folder: Path, options: str) -> Iterator[Path]:
    """A file system there that has only so much room."""
    if os.geteuid() != 0:
        pytest.fail(
            "a small file system is mounted as root: run the tests as root, or -m 'not roles'"
        )
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """Something that looks like one: 8 MB in 32 files."""
    made = tmp_path / "20260102T030405Z"
    made.mkdir()
    for number in range(32):
        (made / f"table{number}.ibd").write_bytes(os.urandom(1 << 18))
    (made / "lj-checksums").write_text("")
    return made


def restore(
    backup: Path, datadir: Path, stop: str = "true", start: str = "true"
) -> subprocess.CompletedProcess[str]:
    """Run the script, and have it wait for no server."""
    words = [SCRIPT, backup, datadir, datadir.parent / "nobody.sock", "nobody", "0", stop, start]
    return subprocess.run(
        ["bash", *map(str, words)], capture_output=True, text=True, check=False, timeout=60
    )


def data_in(folder: Path) -> Path:
    """A server's data there, that says so."""
    made = folder / "data"
    made.mkdir(parents=True)
    (made / "ibdata1").write_text("was there before")
    return made


def untouched(datadir: Path) -> bool:
    """Whether the data is all that there is beside whatever was told to stop and start."""
    return [path.name for path in datadir.parent.iterdir()] == ["data"] and [
        path.name for path in datadir.iterdir()
    ] == ["ibdata1"]


def test_what_has_no_room_is_not_begun(tmp_path: Path, backup: Path) -> None:
    with small(tmp_path / "small", "size=6m") as folder:
        datadir = data_in(folder)
        # A copy that an earlier one left.
        (folder / "data.restoring").mkdir()
        (folder / "data.restoring/ibdata1").write_bytes(bytes(1 << 20))
        run = restore(backup, datadir, stop=f"touch {folder}/stopped")
        assert run.returncode == 1
        assert re.fullmatch(
            rf"no room: the backup takes \d+ MB, and {folder} has 6 MB; nothing was changed\n",
            run.stderr,
        )
        assert untouched(datadir)


def test_a_copy_that_can_not_be_whole_is_removed(tmp_path: Path, backup: Path) -> None:
    # Room for the bytes and not for the files.
    with small(tmp_path / "small", "size=64m,nr_inodes=24") as folder:
        datadir = data_in(folder)
        run = restore(backup, datadir, stop=f"touch {folder}/stopped")
        assert run.returncode == 1
        assert "No space left on device" in run.stderr
        assert run.stderr.endswith("\nthe backup can't be copied; nothing was changed\n")
        assert untouched(datadir)


def test_what_is_no_backup_and_a_server_that_goes_on_are_left(tmp_path: Path, backup: Path) -> None:
    datadir = data_in(tmp_path / "server")
    run = restore(backup, datadir, stop="false")
    assert run.returncode == 1
    assert run.stderr == "the server can't be stopped; nothing was changed\n"
    assert untouched(datadir)
    (backup / "lj-checksums").unlink()
    run = restore(backup, datadir)
    assert run.returncode == 1
    assert run.stderr == (
        f"{backup} is no backup of the kit: it has no lj-checksums; nothing was changed\n"
    )
    assert untouched(datadir)


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ("false", "the server does not start on the restored data: see its log"),
        ("true", "the server does not answer on the restored data: see its log"),
    ],
)
def test_where_the_old_data_is_and_how_to_have_it_back(
    tmp_path: Path, backup: Path, start: str, said: str
) -> None:
    datadir = data_in(tmp_path / "server")
    run = restore(backup, datadir, start=start)
    assert run.returncode == 1
    (before,) = datadir.parent.glob("data.before-*")
    assert (before / "ibdata1").read_text() == "was there before"
    assert (datadir / "table1.ibd").exists()
    told, back = run.stderr.rstrip().split("  To have it back: ")
    assert told == f"{said}; the data that was there before is {before}."
    subprocess.run(["sh", "-ec", back.removesuffix(start)], check=True)
    assert (datadir / "ibdata1").read_text() == "was there before"
    assert sorted(path.name for path in datadir.parent.iterdir()) == ["data", "data.restored"]


def test_a_server_that_had_no_data(tmp_path: Path, backup: Path) -> None:
    (tmp_path / "server").mkdir()
    run = restore(backup, tmp_path / "server/data", start="false")
    assert run.stderr.endswith("; there was no data before\n")
