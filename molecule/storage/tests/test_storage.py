"""What the roles of racks make on a real kernel: `make lab-up` and `lab-test` SCENARIO=storage.

Disks are pulled out of the running host, and its power is pulled.
"""

from __future__ import annotations

import subprocess

import pytest

from tests.support.lab import play
from tests.support.lab import said as lab_said
from tests.support.process import wait_for
from tools.lab import control

pytestmark = [pytest.mark.lab, pytest.mark.timeout(3600)]
HOST = "store1"
ARRAY = "/dev/md/data"
DISK = "/dev/disk/by-id/virtio"
WRITE = "runuser -u lj -- dd if=/dev/zero of=/var/mogdata/dev1/written bs=4k count=1 conv=fsync"


def said(lab: control.State, words: str) -> str:
    return lab_said(lab, HOST, words)


def detail(lab: control.State) -> dict[str, str]:
    """What mdadm says about the array."""
    lines = said(lab, f"mdadm --detail {ARRAY}").splitlines()
    pairs = (line.split(" : ", 1) for line in lines if " : " in line)
    return {name.strip(): value.strip() for name, value in pairs}


def is_clean(lab: control.State) -> bool:
    state = detail(lab)
    return "degraded" not in state["State"] and state["Active Devices"] == "4"


def boot_id(lab: control.State) -> str:
    return said(lab, "cat /proc/sys/kernel/random/boot_id")


def pull_out(lab: control.State, name: str) -> None:
    """A disk's adapter goes, with what was on its way to the disk."""
    disk = said(lab, f"basename $(readlink -f {DISK}-{name})")
    slot = said(lab, f"readlink -f /sys/class/block/{disk}/device/..")
    said(lab, f"echo 1 > {slot}/remove")


def converge(lab: control.State, *words: str) -> str:
    """Run the site's playbook once more; what it says."""
    run = play(lab, "storage", "site", *words)
    assert run.returncode == 0, run.stdout[-3000:]
    return run.stdout


def test_what_the_roles_made(lab: control.State) -> None:
    wait_for(lambda: is_clean(lab), "the array to be whole", timeout_s=600, every_s=3)
    array = detail(lab)
    assert array["Raid Level"] == "raid10"
    assert array["Intent Bitmap"] == "Internal"
    assert said(lab, "findmnt --noheadings --output SOURCE,FSTYPE /srv/data").endswith("ext4")
    for name in ("dev1", "dev2"):
        assert said(lab, f"findmnt --noheadings --output FSTYPE /var/mogdata/{name}") == "ext4"
    assert "policy drop" in said(lab, "nft list table inet lj")
    assert said(lab, "systemctl is-active chrony mdmonitor").split() == ["active"] * 2
    assert said(lab, "systemctl is-enabled lj-firewall") == "enabled"
    assert said(lab, "cat /proc/sys/vm/swappiness") == "1"
    watchdog = "/sys/class/watchdog/watchdog0"
    wait_for(
        lambda: said(lab, f"cat {watchdog}/state {watchdog}/timeout").split() == ["active", "30"],
        "systemd to feed the watchdog",
        timeout_s=120,
        every_s=3,
    )


def test_a_port_that_nobody_opened_is_closed(lab: control.State) -> None:
    server = "python3 -m http.server --bind 10.77.0.41 9999"
    said(lab, f"systemd-run --unit=listener --collect {server}")
    wait_for(
        lambda: "9999" in said(lab, "ss --listening --tcp --numeric"), "the server", timeout_s=120
    )
    asked = control.inside(lab, ["nc", "-z", "-w", "5", "10.77.0.41", "9999"])
    assert subprocess.run(asked, check=False).returncode != 0
    assert subprocess.run([*asked[:-1], "22"], check=False).returncode == 0
    said(lab, "systemctl stop listener")


def test_an_array_lives_on_without_a_disk_and_tells(lab: control.State) -> None:
    said(lab, "head -c 8M /dev/urandom > /srv/data/kept && sync")
    before = said(lab, "sha256sum < /srv/data/kept")
    pull_out(lab, "raid-2")
    said(lab, "head -c 1M /dev/urandom > /srv/data/written && sync")
    wait_for(lambda: "degraded" in detail(lab)["State"], "md to notice", timeout_s=300, every_s=2)
    wait_for(
        lambda: "Fail" in said(lab, "journalctl --boot --identifier lj-raid --no-pager"),
        "the alert",
        timeout_s=300,
        every_s=3,
    )
    said(lab, "echo 3 > /proc/sys/vm/drop_caches")
    assert said(lab, "sha256sum < /srv/data/kept") == before
    # A new disk is put in.
    said(lab, f"mdadm --manage {ARRAY} --add {DISK}-raid-spare")
    wait_for(lambda: is_clean(lab), "the array to be rebuilt", timeout_s=900, every_s=3)
    said(lab, "echo 3 > /proc/sys/vm/drop_caches")
    assert said(lab, "sha256sum < /srv/data/kept") == before


def test_a_disk_that_stands_for_itself_takes_down_only_itself(lab: control.State) -> None:
    said(lab, "echo kept > /var/mogdata/dev2/kept && sync")
    pull_out(lab, "alone-1")
    assert control.ssh(lab, HOST, WRITE).returncode != 0
    assert said(lab, "cat /var/mogdata/dev2/kept") == "kept"
    # The host boots without it, finds its array, and closes its ports before anything listens.
    boot = boot_id(lab)
    control.ask(lab, "pull", HOST)
    disk = lab.frame(lab.plan().host(HOST)).data("alone-1")
    disk.rename(disk.with_suffix(".gone"))
    disk.write_bytes(bytes(96 << 20))  # a new one is in its place
    control.ask(lab, "on", HOST)
    control.wait_for_hosts(lab)
    assert boot_id(lab) != boot
    assert said(lab, "cat /var/mogdata/dev2/kept") == "kept"
    assert said(lab, "findmnt --noheadings --output FSTYPE /srv/data") == "ext4"
    assert control.ssh(lab, HOST, "findmnt /var/mogdata/dev1").returncode != 0
    assert "policy drop" in said(lab, "nft list table inet lj")
    wait_for(lambda: is_clean(lab), "the array to be whole", timeout_s=600, every_s=3)


def test_a_new_disk_gets_the_old_ones_place_and_a_second_run_changes_nothing(
    lab: control.State,
) -> None:
    disks = [f"{DISK}-raid-{name}" for name in ("1", "spare", "3", "4")]
    array = {"name": "data", "level": 10, "disks": disks, "mount": "/srv/data"}
    now = ("-e", '{"storage_raid_arrays": [' + str(array).replace("'", '"') + "]}")
    converge(lab, *now)
    assert said(lab, "findmnt --noheadings --output FSTYPE /var/mogdata/dev1") == "ext4"
    assert "changed=0" in converge(lab, *now)
    assert "changed=0" in converge(lab, *now, "--check")
