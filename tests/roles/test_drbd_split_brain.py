"""What the loser of a split brain has done to it; DRBD and Heartbeat are only played."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.loops import loop_disks
from tests.support.sandbox import Sandbox, role, sandbox

pytestmark = [pytest.mark.roles, pytest.mark.timeout(900)]

SIZE = 8 << 20
RUNS = "Heartbeat is running on this machine: right"
STOPPED = "Heartbeat is stopped on this machine."
STATE: dict[str, Any] = {
    "role": "Primary",
    "disks": "UpToDate/DUnknown",
    "connection": "StandAlone",
    "heartbeat": RUNS,
    "has_group": True,
}
# The connection becomes one of those that are left, each time that somebody asks.
DRBDADM = r"""#!/bin/bash
echo "drbdadm $*" >>/srv/calls
case $1 in
cstate)
  head -n 1 /srv/states
  test "$(wc -l </srv/states)" = 1 || sed -i 1d /srv/states
  ;;
dstate)
  if grep -q Connected /srv/states; then echo UpToDate/UpToDate; else echo Inconsistent/UpToDate; fi
  ;;
esac
"""
SYSTEMCTL = r"""#!/bin/bash
case $* in
*show*) printf 'LoadState=loaded\nActiveState=%s\n' "$(cat /srv/heartbeat)" ;;
*stop*) echo "stop heartbeat" >>/srv/calls; echo inactive >/srv/heartbeat ;;
*start*)
  echo "start heartbeat when $(head -n 1 /srv/states)" >>/srv/calls
  echo active >/srv/heartbeat
  ;;
esac
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Sandbox]:
    given = {
        "drbd_resource": "cluster1",
        "drbd_disk": "/dev/disk/by-id/data",
        "crossover_address": "127.0.0.1",
        "drbd_copies": "/srv/copies/cluster1",
        "heartbeat_state": STATE | {"has_group": False},
    }
    with sandbox(tmp_path, ["pair_cluster1"], **given) as made:
        for name, text in {"drbdadm": DRBDADM, "systemctl": SYSTEMCTL}.items():
            made.run("tee", f"/usr/sbin/{name}", input=text)
            made.run("chmod", "755", f"/usr/sbin/{name}")
        made.run("tee", "/srv/heartbeat", input="active\n")
        with loop_disks(made, tmp_path, data=SIZE >> 20):
            yield made


def bring_together(
    host: Sandbox, *words: str, states: str = "", winner: str = "right", **more: Any
) -> tuple[int, str]:
    """Run the role on the loser; returns the exit code, and what was said."""
    host.run("tee", "/srv/states", input="\n".join(["StandAlone", *states.split()]) + "\n")
    host.run("truncate", "--size=0", "/srv/calls")
    theirs: Mapping[str, Any] = {"heartbeat_state": STATE | more.pop("theirs", {})}
    run = host.play(
        [role("drbd", "split_brain")],
        *words,
        hosts={"pair_cluster1": {"right": theirs}},
        drbd_winner=winner,
        **more,
    )
    return run.exit_code, " ".join(run.output.split())


def data_of(host: Sandbox) -> Path:
    """The disk's file."""
    return host.folder / "data.disk"


def test_the_file_systems_dates_are_those_on_the_disk(host: Sandbox) -> None:
    device = host.run("readlink", "-f", "/dev/disk/by-id/data").stdout.strip()
    subprocess.run(["mkfs.ext4", "-q", "-O", "^metadata_csum", device], check=True)
    # Somebody has read it, and has it open, as DRBD has; then DRBD writes, past the cache.
    held = os.open(device, os.O_RDONLY)
    try:
        os.pread(held, 1 << 16, 0)
        with data_of(host).open("r+b") as file:
            file.seek(1024 + 0x2C)
            file.write(struct.pack("<II", 86400 * 365, 86400 * 365))
        code, said = bring_together(host, winner="")
    finally:
        os.close(held)
    assert code == 0, said
    assert "last mounted: Fri Jan 1 00:00:00 1971" in said
    assert "last written: Fri Jan 1 00:00:00 1971" in said
    assert "Add -e winner=" in said


def test_the_loser_is_the_spare_again_as_soon_as_it_takes_the_winners_data(host: Sandbox) -> None:
    data_of(host).write_bytes(os.urandom(SIZE))
    code, said = bring_together(host, states="SyncTarget SyncTarget Connected")
    assert code == 0, said
    assert host.read("/srv/calls").splitlines() == [
        "stop heartbeat",
        "drbdadm cstate cluster1",
        "drbdadm secondary cluster1",
        "drbdadm connect --discard-my-data cluster1",
        "drbdadm cstate cluster1",
        "start heartbeat when SyncTarget",
        "drbdadm cstate cluster1",
        "drbdadm dstate cluster1",
    ]
    (copy,) = host.run("find", "/srv/copies", "-type", "f").stdout.split()
    assert copy.startswith("/srv/copies/cluster1/cluster1-")
    assert copy.endswith("Z.img")
    assert f"what localhost had is in {copy} there" in said
    host.run("cmp", copy, data_of(host))


def test_no_heartbeat_is_started_that_would_shoot_the_winner(host: Sandbox) -> None:
    code, said = bring_together(
        host, states="SyncTarget Connected", theirs={"heartbeat": STOPPED, "has_group": False}
    )
    assert code == 0, said
    assert "start heartbeat" not in host.read("/srv/calls")
    assert "systemctl start heartbeat on right, then on localhost" in said


def test_a_link_that_ends_again_is_not_waited_for(host: Sandbox) -> None:
    code, said = bring_together(host, states="SyncTarget StandAlone")
    assert code != 0
    assert "Inconsistent/UpToDate" in said
    assert host.run("find", "/srv/copies", "-type", "f").stdout.strip().endswith(".img")


def test_where_there_is_no_room_nothing_is_changed(host: Sandbox) -> None:
    host.run("mkdir", "/srv/small")
    host.run("mount", "-t", "tmpfs", "-o", "size=1m", "small", "/srv/small")
    data_of(host).write_bytes(os.urandom(SIZE))
    code, said = bring_together(host, drbd_copies="/srv/small/copies")
    assert code != 0
    assert f"a copy of its disk may take {SIZE} bytes" in said
    assert "/srv/small/copies has room for 1048576" in said
    assert "-e split_brain_copies=FOLDER; nothing was changed" in said
    assert host.read("/srv/calls") == ""


def test_a_check_looks_for_room_and_changes_nothing(host: Sandbox) -> None:
    code, said = bring_together(host, "--check")
    assert code == 0, said
    assert "changed=0" in said
    assert host.read("/srv/calls") == ""


def test_sides_that_are_connected_are_left_alone(host: Sandbox) -> None:
    # A run that was interrupted just after it had connected them.
    mine = STATE | {"connection": "SyncTarget", "heartbeat": STOPPED, "has_group": False}
    code, said = bring_together(host, heartbeat_state=mine)
    assert code != 0
    assert "is SyncTarget: this is no split brain; nothing was changed. Heartbeat does not" in said
    assert "systemctl start heartbeat" in said


def test_a_copy_is_of_what_is_on_the_disk_and_whole_or_none(host: Sandbox, tmp_path: Path) -> None:
    device = host.run("readlink", "-f", "/dev/disk/by-id/data").stdout.strip()
    script = Path(__file__).parents[2] / "roles/drbd/files/keep_copy.sh"
    # Old blocks in the disk's cache, and newer ones below it.
    held = os.open(device, os.O_RDONLY)
    try:
        os.pread(held, SIZE, 0)
        data_of(host).write_bytes(os.urandom(SIZE))
        host.run("mkdir", "/srv/large", "/srv/small")
        host.run("bash", script, device, "/srv/large/one.img")
    finally:
        os.close(held)
    host.run("cmp", "/srv/large/one.img", data_of(host))
    assert host.run("ls", "/srv/large").stdout.split() == ["one.img"]

    host.run("mount", "-t", "tmpfs", "-o", "size=1m", "small", "/srv/small")
    failed = host.run("bash", script, device, "/srv/small/one.img", check=False)
    assert failed.returncode != 0
    assert "No space left" in failed.stderr
    assert host.run("ls", "/srv/small").stdout == ""
