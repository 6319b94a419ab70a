"""Files of passwords: what the role `database` writes, and who may read it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.ansible_module import answer
from tests.support.box import CHECKOUT

pytestmark = [pytest.mark.roles]

MODULE = CHECKOUT / "roles/database/library/secret_files.py"


def test_only_what_differs_is_written_and_nobody_else_may_read_it(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("one", "two", "three")]
    files = [{"path": str(path), "content": f"{path.name}\n"} for path in paths]
    told = answer(MODULE, tmp_path, check=True, files=files)
    assert told["paths"] == [str(path) for path in paths]
    assert not any(path.exists() for path in paths)

    made = answer(MODULE, tmp_path, files=files)
    assert made["paths"] == told["paths"]
    assert [path.read_text() for path in paths] == ["one\n", "two\n", "three\n"]
    assert {path.stat().st_mode & 0o777 for path in paths} == {0o600}
    assert not answer(MODULE, tmp_path, files=files)["changed"]

    paths[0].chmod(0o644)
    paths[1].write_text("another")
    inode = paths[2].stat().st_ino
    mended = answer(MODULE, tmp_path, files=files)
    assert mended["paths"] == [str(path) for path in paths[:2]]
    assert paths[1].read_text() == "two\n"
    assert {path.stat().st_mode & 0o777 for path in paths} == {0o600}
    assert paths[2].stat().st_ino == inode
    assert "three" not in str(mended).replace(str(paths[2]), "")


def test_a_file_is_given_to_its_service(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.fail("only root gives files away: run the tests as root, or -m 'not roles'")
    path = tmp_path / "one"
    path.write_text("one")
    file = {"path": str(path), "content": "one", "owner": "daemon", "group": "adm"}
    assert answer(MODULE, tmp_path, files=[file])["changed"]
    assert (path.owner(), path.group()) == ("daemon", "adm")
    assert not answer(MODULE, tmp_path, files=[file])["changed"]
