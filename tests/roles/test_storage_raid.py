"""Arrays of loop devices, with a stand-in for mdadm: the kernel here need not have md.

What the role asks of mdadm, and what it does with the array, is looked at; an array that loses
a disk needs a kernel with md.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.box import BIN
from tests.support.loops import loop_disks
from tests.support.sandbox import Sandbox, role, sandbox

pytestmark = [pytest.mark.roles, pytest.mark.timeout(900)]

ID = "/dev/disk/by-id"
TASKS = [role("storage_raid", "preflight"), role("storage_raid")]
# An array is a disk of its own.  What is on its members is looked at by mdadm itself.
MDADM = r"""#!/bin/bash
set -euo pipefail
echo "mdadm $*" >>/srv/calls
case $1 in
--create)
  mkdir -p /dev/md
  ln -s "$(readlink -f /dev/disk/by-id/array)" "$2"
  ;;
--detail) test -e "${!#}" && echo MD_UUID=8cf4f6a8:2a6c1b1e:0b1f3f2a:52c00a5e ;;
--examine) exec /usr/local/sbin/real-mdadm "$@" ;;
esac
"""

# As an installer leaves it, with lines of ours that somebody has had mdadm write.
CONFIG = """# mdadm.conf
HOMEHOST <system>
MAILADDR somebody
ARRAY /dev/md/0  metadata=1.2 UUID=11111111:2a6c1b1e:0b1f3f2a:52c00a5e name=box:0
ARRAY /dev/md/data0
   UUID=22222222:2a6c1b1e:0b1f3f2a:52c00a5e
ARRAY /dev/md/data metadata=1.2
   name=box:data
ARRAY /dev/md/127 metadata=1.2 uuid=8cf4f6a8:2a6c1b1e:0b1f3f2a:52c00a5e
"""

MODINFO = '#!/bin/sh\ntest raid10 = "$1" || test raid1 = "$1"\n'


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    array = {"name": "data", "level": 10, "mount": "/srv/data"}
    given = {
        "lj_user": "",
        "lj_group": "",
        "lj_runtime_dir": "/none",
        "disk_checker_control_program": str(BIN / "disk-checker"),
        "storage_raid_arrays": [array | {"disks": [f"{ID}/disk{n}" for n in (1, 2, 3, 4)]}],
        "storage_raid_alert": 'echo "$EVENT $ARRAY $DISK" >>/srv/alerts',
    }
    with sandbox(tmp_path_factory.mktemp("raid"), **given) as made:
        made.run("cp", "/usr/sbin/mdadm", "/usr/local/sbin/real-mdadm")
        for name, text in (("mdadm", MDADM), ("modinfo", MODINFO)):
            made.run("rm", "-f", f"/usr/sbin/{name}")
            made.run("tee", f"/usr/sbin/{name}", input=text)
            made.run("chmod", "755", f"/usr/sbin/{name}")
        made.run("tee", "/etc/mdadm/mdadm.conf", input=CONFIG)
        yield made


@pytest.fixture(scope="module")
def disks(host: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    sizes = {"disk1": 24, "disk2": 24, "disk3": 24, "disk4": 24, "small": 8, "big": 16, "array": 24}
    with loop_disks(host, tmp_path_factory.mktemp("disks"), **sizes) as made:
        yield made
        host.run("umount", "/srv/data", check=False)


def members(host: Sandbox, disks: Mapping[str, str]) -> None:
    """Give the disks the mark of members that mdadm would have made, 4 KiB from their beginning.

    wipefs and blkid look at the magic, the version, the place and the checksum.
    """
    for number in (1, 2, 3, 4):
        block = bytearray(256)
        struct.pack_into("<III", block, 0, 0xA92B4EFC, 1, 0)
        struct.pack_into("<16s32s", block, 16, bytes(range(16)), b"box:data")
        struct.pack_into("<Q", block, 144, 8)
        words = struct.unpack("<64I", block)
        total = sum(words)
        struct.pack_into("<I", block, 216, ((total & 0xFFFFFFFF) + (total >> 32)) & 0xFFFFFFFF)
        with Path(disks[f"{ID}/disk{number}"]).open("r+b") as disk:
            disk.write(bytes(4096) + block + bytes(4096 - len(block)))
    host.run("truncate", "--size=0", "/srv/calls")


def test_disks_become_an_array_once(host: Sandbox, disks: Mapping[str, str]) -> None:
    told = host.play(TASKS, "--check", "--diff")
    assert told.exit_code == 0, told.output
    assert "--create" not in host.run("cat", "/srv/calls", check=False).stdout

    made = host.play(TASKS)
    assert made.exit_code == 0, made.output
    create = [line for line in host.read("/srv/calls").splitlines() if "--create" in line]
    assert create == [
        "mdadm --create /dev/md/data --run --metadata=1.2 --name=data --homehost=any "
        f"--level=10 --raid-devices=4 --bitmap=internal {' '.join(list(disks)[:4])}"
    ]
    told, _, foreign = host.read("/etc/mdadm/mdadm.conf").partition("# END of what")
    assert "ARRAY /dev/md/data metadata=1.2 UUID=8cf4f6a8:2a6c1b1e:0b1f3f2a:52c00a5e\n" in told
    assert "MAILADDR root\nPROGRAM /usr/local/sbin/lj-raid-alert\n" in told
    # The system's own array is named as before, ours once.
    assert foreign.splitlines()[1:] == CONFIG.splitlines()[:6]
    assert "OnCalendar=Sun *-*-1..7" in host.read(
        "/etc/systemd/system/mdcheck_start.timer.d/lj.conf"
    )
    assert "AUTOCHECK=false" in host.read("/etc/default/mdadm")
    assert host.run("systemd-analyze", "verify", "mdcheck_start.timer").stderr == ""
    mount = host.run("findmnt", "--noheadings", "--output", "SOURCE,FSTYPE", "/srv/data")
    assert mount.stdout.split() == [disks[f"{ID}/array"], "ext4"]

    members(host, disks)
    (table,) = (line for line in host.read("/etc/fstab").splitlines() if "/srv/data" in line)
    assert table.split()[0].startswith("UUID=")
    again = host.play(TASKS)
    assert again.exit_code == 0, again.output
    assert again.changed_tasks == []
    assert "--create" not in host.read("/srv/calls")

    # Its members are known to be so, and nobody else's to take.
    array = {"name": "data", "level": 10, "disks": list(disks)[:4]}
    small = array | {"disks": [*list(disks)[:3], f"{ID}/small"]}
    other = array | {"name": "other"}
    lone = {"name": "lone", "level": 10, "disks": list(disks)[:2]}
    odd = {"name": "odd", "level": 1, "disks": [f"{ID}/small", f"{ID}/big"]}
    said = host.refusals(
        *(role("storage_raid", "preflight", storage_raid_arrays=[a]) for a in (small, other, lone)),
        role("storage_raid", "preflight", storage_raid_arrays=[odd]),
    )
    assert "of the disks of data only some are in the array" in said[0]
    assert f"{ID}/small is empty" in said[0]
    assert "mdadm --manage /dev/md/data --add DISK" in said[0]
    assert "holds linux_raid_member (box:data): if nothing on it is needed" in said[1]
    assert "lone has too few disks: RAID1 needs two or more, RAID10 four or more" in said[2]
    assert "the disks of odd have 8388608, 16777216 bytes: use disks of the same size" in said[3]


def test_an_array_without_a_file_system_gets_one_and_what_another_holds_is_left(
    host: Sandbox, disks: Mapping[str, str]
) -> None:
    """A run may be interrupted when the array is made, and nothing is on it yet."""
    array = disks[f"{ID}/array"]

    def refused() -> str:
        return host.refusals(role("storage_raid", "preflight"))[0]

    # What is known to be mounted has been there.
    host.run("umount", "/srv/data")
    subprocess.run(["wipefs", "--quiet", "--all", array], check=True)
    assert "/dev/md/data holds nothing that is known, but /etc/fstab mounts it" in refused()

    host.run("sed", "--in-place", "/ \\/srv\\/data /d", "/etc/fstab")
    made = host.play(TASKS)
    assert made.exit_code == 0, made.output
    assert "storage_disks : Make a file system" in made.changed_tasks
    assert "--create" not in host.read("/srv/calls")
    mount = host.run("findmnt", "--noheadings", "--output", "SOURCE,LABEL", "/srv/data")
    assert mount.stdout.split() == [array, "lj-data"]

    host.run("umount", "/srv/data")
    subprocess.run(["mkfs.ext4", "-q", "-F", "-L", "photos", array], check=True)
    said = refused()
    assert "/dev/md/data holds ext4 (photos), not ext4 named lj-data" in said
    assert "e2label" in said


def test_somebody_is_told_of_a_degraded_array(host: Sandbox, disks: Mapping[str, str]) -> None:
    host.run("shellcheck", "/usr/local/sbin/lj-raid-alert")
    for words in (("NewArray", "/dev/md/data"), ("Rebuild40", "/dev/md/data")):
        host.run("lj-raid-alert", *words)
    host.run("lj-raid-alert", "Fail", "/dev/md/data", "/dev/sdb")
    host.run("lj-raid-alert", "DegradedArray", "/dev/md/data")
    alerts = host.read("/srv/alerts")
    assert alerts == "Fail /dev/md/data /dev/sdb\nDegradedArray /dev/md/data \n"
