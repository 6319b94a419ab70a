"""A side of a mirrored disk that is told to be outdated says whether it is."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.box import CHECKOUT

pytestmark = pytest.mark.unit

# Stands for DRBD: the link is seen to be down after LINK questions; a mark that is made before
# is accepted, and taken back.
DRBDADM = """#!/bin/sh
cd {folder}
case $1 in
  cstate)
    asked=$(cat asked); echo $((asked + 1)) >asked
    if [ "$asked" -lt "$(cat link)" ]; then echo Connected; else echo WFConnection; fi ;;
  outdate)
    [ -e fails ] && exit 17
    if [ "$(cat asked)" -gt "$(cat link)" ]; then echo Outdated/DUnknown >disk; fi ;;
  dstate) cat disk ;;
  *) echo "$@" ;;
esac
"""


@pytest.fixture
def outdate(tmp_path: Path) -> Path:
    """The program that dopd finds, with that in the place of the real one."""
    drbdadm = tmp_path / "drbdadm"
    drbdadm.write_text(DRBDADM.format(folder=tmp_path))
    drbdadm.chmod(0o755)
    (tmp_path / "asked").write_text("0\n")
    (tmp_path / "disk").write_text("UpToDate/UpToDate\n")
    source = (CHECKOUT / "roles/heartbeat/files/drbdadm-outdate").read_text()
    assert "real=/sbin/drbdadm\n" in source
    program = tmp_path / "outdate"
    changed = source.replace("real=/sbin/drbdadm", f"real={drbdadm}").replace("sleep 0.3", ":")
    program.write_text(changed)
    program.chmod(0o755)
    return program


def run(program: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *words], capture_output=True, text=True, check=False)


def test_waits_until_the_link_is_down_here_too(outdate: Path) -> None:
    (outdate.parent / "link").write_text("7\n")
    assert run(outdate, "outdate", "cluster1").returncode == 0
    assert (outdate.parent / "disk").read_text() == "Outdated/DUnknown\n"


def test_a_mark_that_was_taken_back_is_no_success(outdate: Path) -> None:
    (outdate.parent / "link").write_text("1000\n")
    assert run(outdate, "outdate", "cluster1").returncode == 1


def test_what_drbd_refuses_is_refused(outdate: Path) -> None:
    (outdate.parent / "link").write_text("0\n")
    (outdate.parent / "fails").touch()
    assert run(outdate, "outdate", "cluster1").returncode == 17


def test_everything_else_is_drbdadm_s_own(outdate: Path) -> None:
    assert run(outdate, "role", "cluster1").stdout == "role cluster1\n"
