"""What a host of a pair says about itself, with a test's programs in the place of the real ones."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.box import CHECKOUT

pytestmark = pytest.mark.unit

ASKED = {
    "resource": "cluster1",
    "peer": "db1-b",
    "address": "10.0.1.20",
    "unit": "lj-mysql-cluster1.service",
    "watcher": "lj-mysql-watch-cluster1.service",
}
PROC = """version: 8.4.11
 0: cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate C r-----
    ns:1 nr:0 dw:1 dr:2 al:3 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:12
"""
PROGRAMS = {
    "drbdadm": """case $1 in
  role) echo Primary/Secondary ;;
  dstate) echo UpToDate/UpToDate ;;
  cstate) echo Connected ;;
  sh-minor) echo 0 ;;
esac""",
    "cat": f"echo '{PROC}'",
    "ip": "echo '2: eth0    inet 10.0.1.20/24 scope global secondary eth0'",
    "cl_status": """case "$1 $2" in
  'hbstatus ') echo Heartbeat is running on this machine: here ;;
  'listnodes -n') echo db1.example.net; uname -n ;;
  'nodestatus db1-b') echo active ;;
  'nodestatus db1.example.net') echo dead ;;
esac""",
    "systemctl": """case $2 in
  lj-mysql-cluster1.service) echo active ;;
  lj-mysql-watch-cluster1.service) echo inactive; exit 3 ;;
esac""",
}


def state(folder: Path, programs: dict[str, str], **other: str) -> dict[str, Any]:
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    for name in ("sh", "uname"):
        (folder / name).symlink_to(shutil.which(name) or name)
    run = subprocess.run(
        [sys.executable, CHECKOUT / "roles/heartbeat/files/state.py", json.dumps(ASKED | other)],
        env={**os.environ, "PATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def test_a_host_that_has_the_group(tmp_path: Path) -> None:
    found = state(tmp_path, PROGRAMS)
    assert (found["has_group"], found["peer"], found["out_of_sync"]) == (True, "active", 12 << 10)
    assert (found["server"], found["watcher"]) == ("active", "inactive")


def test_a_peer_whose_name_is_not_known_is_the_one_that_heartbeat_knows(tmp_path: Path) -> None:
    assert state(tmp_path, PROGRAMS, peer="")["peer"] == "dead"


def test_what_a_host_can_not_tell_is_empty(tmp_path: Path) -> None:
    found = state(tmp_path, {})
    assert {name for name, told in found.items() if told is False} == {"has_address", "has_group"}
    assert {told for told in found.values() if told is not False} == {""}
