"""What the roles of racks have left on the host of `make lab-up`, role by role, by testinfra.

It is asked before disks are pulled out (test_storage.py), on a lab that has just come up.
"""

from __future__ import annotations

import re

import pytest
import testinfra
from testinfra.host import Host

from tests.support.process import wait_for
from tools.lab import control

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1200)]
DISK = "/dev/disk/by-id/virtio"
ARRAY = "/dev/md/data"
ALERT = "/usr/local/sbin/lj-raid-alert"
JBOD = {"dev1": f"{DISK}-alone-1", "dev2": f"{DISK}-alone-2"}
UNITS = ("mdcheck_start.timer", "mdcheck_continue.timer", "mdmonitor-oneshot.timer")


@pytest.fixture(scope="module")
def host(lab: control.State) -> Host:
    """The host, as testinfra sees it."""
    return testinfra.get_host("ssh://store1", ssh_config=str(lab.ssh_config))


def device(host: Host, name: str) -> str:
    """What the kernel calls a disk or an array."""
    return host.check_output("readlink --canonicalize-existing %s", name)


def told(host: Host, *words: str) -> dict[str, str]:
    """Lines NAME=VALUE or `NAME : VALUE` of a command, by name."""
    lines = host.check_output(" ".join(["%s"] * len(words)), *words).splitlines()
    pairs = (re.split(r"\s*=\s*|\s+:\s+|:\s{2,}", line.strip(), maxsplit=1) for line in lines)
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def fstab(host: Host, point: str) -> list[str]:
    """The fields of the only line of the table that mounts something there."""
    table = [line.split() for line in host.file("/etc/fstab").content_string.splitlines()]
    (fields,) = (each for each in table if len(each) == 6 and each[1] == point)
    return fields


def uuid_and_label(host: Host, disk: str) -> tuple[str, str]:
    """Those of a file system, as they are on the disk now."""
    found = told(host, "blkid", "--probe", "--output", "export", disk)
    return found["UUID"], found["LABEL"]


def test_storage_raid_array(host: Host) -> None:
    assert host.package("mdadm").is_installed
    exported = told(host, "mdadm", "--detail", "--export", ARRAY)
    assert exported["MD_LEVEL"] == "raid10"
    assert exported["MD_DEVICES"] == "4"
    assert exported["MD_METADATA"] == "1.2"
    # Whatever host it is on: it has the same name there.
    assert exported["MD_NAME"] == "any:data"
    members = [v for k, v in exported.items() if re.fullmatch(r"MD_DEVICE_\w+_DEV", k)]
    wanted = {device(host, f"{DISK}-raid-{number}") for number in range(1, 5)}
    assert len(wanted) == 4
    assert {device(host, member) for member in members} == wanted

    wait_for(
        lambda: (
            set(told(host, "mdadm", "--detail", ARRAY)["State"].split(", ")) <= {"clean", "active"}
        ),
        "the array to be whole",
        timeout_s=600,
        every_s=3,
    )
    detail = told(host, "mdadm", "--detail", ARRAY)
    assert detail["Intent Bitmap"] == "Internal"
    assert (detail["Active Devices"], detail["Spare Devices"]) == ("4", "0")


def test_storage_raid_configuration(host: Host) -> None:
    uuid = told(host, "mdadm", "--detail", "--export", ARRAY)["MD_UUID"]
    lines = host.file("/etc/mdadm/mdadm.conf").content_string.splitlines()
    words = [line.split() for line in lines if line and not line.startswith("#")]
    assert [each for each in words if each[0] == "ARRAY"] == [
        ["ARRAY", ARRAY, "metadata=1.2", f"UUID={uuid}"]
    ]
    # Of several the first counts.
    for name, value in (("MAILADDR", "root"), ("PROGRAM", ALERT)):
        assert next(each for each in words if each[0] == name) == [name, value]
    assert host.file(ALERT).mode == 0o755
    assert host.file(ALERT).user == "root"


def test_storage_raid_comparison_and_watch(host: Host) -> None:
    for name in UNITS:
        assert host.service(name).is_running, name
        assert host.check_output("systemctl is-enabled %s", name) == "enabled", name
    # The role's time, and not the package's besides.
    shown = host.check_output("systemctl show --property=TimersCalendar mdcheck_start.timer")
    assert re.findall(r"OnCalendar=(.*?) ;", shown) == ["Sun *-*-01..07 01:00:00"]
    timer = told(host, "systemctl", "show", "--property=Persistent", "mdcheck_start.timer")
    assert timer == {"Persistent": "yes"}
    # Systemd does it; cron would, too.
    assert host.file("/etc/default/mdadm").content_string.split("\n").count("AUTOCHECK=false") == 1

    # It is no unit to enable: udev has it started with the first array.
    watch = host.service("mdmonitor.service")
    assert watch.is_running
    assert host.check_output("systemctl is-enabled mdmonitor.service") == "static"
    wanted = host.check_output("udevadm info --query=property --property=SYSTEMD_WANTS %s", ARRAY)
    assert "mdmonitor.service" in wanted
    (process,) = host.process.filter(user="root", comm="mdadm")
    assert "--monitor --scan" in process.args
    # It has begun with what the file says now.
    began = told(host, "systemctl", "show", "--property=ExecMainStartTimestamp", "mdmonitor")
    written = host.file("/etc/mdadm/mdadm.conf").mtime.timestamp()
    since = host.check_output("date --date=%s +%%s", began["ExecMainStartTimestamp"])
    assert int(since) >= int(written)


def test_storage_raid_file_system(host: Host) -> None:
    uuid, label = uuid_and_label(host, ARRAY)
    assert label == "lj-data"
    assert fstab(host, "/srv/data") == [f"UUID={uuid}", "/srv/data", "ext4", "noatime", "0", "2"]
    mounted = host.mount_point("/srv/data")
    assert mounted.device == device(host, ARRAY)
    assert mounted.filesystem == "ext4"
    assert {"rw", "noatime"} <= set(mounted.options)
    folder = host.file("/srv/data")
    assert (folder.user, folder.group, folder.mode) == ("lj", "lj", 0o750)
    # An array that has a file system is waited for by its mount, and DRBD has none here.
    assert not host.file("/etc/systemd/system/drbd.service.d/lj-raid.conf").exists


@pytest.mark.parametrize("name", JBOD)
def test_storage_jbod(host: Host, name: str) -> None:
    point = f"/var/mogdata/{name}"
    uuid, label = uuid_and_label(host, JBOD[name])
    assert label == f"lj-{name}"
    source, _, kind, options, *numbers = fstab(host, point)
    assert (source, kind, numbers) == (f"UUID={uuid}", "ext4", ["0", "2"])
    assert options == "noatime,nofail,x-systemd.device-timeout=30s,errors=remount-ro"
    mounted = host.mount_point(point)
    assert mounted.device == device(host, JBOD[name])
    assert mounted.filesystem == "ext4"
    assert {"rw", "noatime", "errors=remount-ro"} <= set(mounted.options)
    folder = host.file(point)
    assert (folder.user, folder.group, folder.mode) == ("lj", "lj", 0o750)
    # No room is kept for root.
    assert told(host, "tune2fs", "-l", JBOD[name])["Reserved block count"] == "0"


@pytest.mark.parametrize("name", JBOD)
def test_a_boot_does_not_wait_for_a_disk_that_stands_for_itself(host: Host, name: str) -> None:
    unit = host.check_output("systemd-escape --path --suffix=mount /var/mogdata/%s", name)
    wanted = told(host, "systemctl", "show", "--property=WantedBy,RequiredBy,Before", unit)
    assert "local-fs.target" in wanted["WantedBy"].split()
    assert "local-fs.target" not in wanted.get("RequiredBy", "").split()
    assert "local-fs.target" not in wanted["Before"].split()
    required = told(host, "systemctl", "show", "--property=RequiredBy", "srv-data.mount")
    assert "local-fs.target" in required["RequiredBy"].split()
