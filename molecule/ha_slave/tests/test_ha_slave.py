"""A pair as a slave: it follows a server and has a slave, whichever of its hosts holds it.

After `make lab-up SCENARIO=ha_slave`.  A client commits to the source all the time and keeps a
ledger; in the end the pair and its own slave have every commit, and both replicate.  What DRBD
mirrors is an array of two disks on each host, which lose one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.ha_pair import (
    HOSTS,
    PATIENCE_S,
    RESOURCE,
    SLAVE,
    SOURCE,
    Ledger,
    Pair,
    peer_of,
)
from tests.support.process import wait_for
from tools.lab import control

pytestmark = [pytest.mark.lab, pytest.mark.timeout(7200)]
STATE = os.environ.get("LJ_LAB_STATE", str(control.CHECKOUT / "var/lab/ha_slave"))
ARRAY = "/dev/md/data"
DISKS = ("data-1", "data-2")


@pytest.fixture(scope="module")
def pair() -> Pair:
    pair = Pair(control.State(Path(STATE)), source=SOURCE)
    if pair.state.keeper() is None:
        pytest.fail("there is no lab: make lab-up SCENARIO=ha_slave")
    pair.wait_until_whole()
    return pair


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


def goes_on(pair: Pair, host: str, ledger: Ledger) -> None:
    """Wait until a host has the group and its server what is committed from now on."""
    wait_for(
        lambda: pair.holders() == [host], f"{host} to take over", timeout_s=PATIENCE_S, every_s=3
    )
    ledger.wait_for_next()
    wanted = int(pair.sums(SOURCE).split()[0])
    for slave in (host, SLAVE):
        pair.catch_up(slave, wanted)


def by_id(disk: str) -> str:
    return f"/dev/disk/by-id/virtio-{disk}"


def members(pair: Pair, host: str) -> dict[str, str]:
    """How each disk of the array on a host is, by what the kernel calls it."""
    folder = f"/sys/class/block/$(basename $(readlink -f {ARRAY}))/md"
    told = pair.on(host, f"cd {folder} && grep --with-filename '' dev-*/state")
    lines = (line.split("/state:") for line in told.splitlines())
    return {name.removeprefix("dev-"): state for name, state in lines}


def array(pair: Pair, host: str) -> dict[str, str]:
    """What mdadm says about the array on a host."""
    lines = pair.on(host, f"mdadm --detail {ARRAY}").splitlines()
    pairs = (line.split(" : ", 1) for line in lines if " : " in line)
    return {name.strip(): value.strip() for name, value in pairs}


def is_in_sync(pair: Pair, host: str) -> bool:
    """Whether the array on a host has both disks, and both have all of it."""
    its = array(pair, host)
    return set(its["State"].split(", ")) <= {"clean", "active"} and its["Active Devices"] == "2"


def wait_until_in_sync(pair: Pair, host: str) -> None:
    what = f"the array of {host} to be in sync"
    wait_for(lambda: is_in_sync(pair, host), what, timeout_s=PATIENCE_S, every_s=3)


def put_back(pair: Pair, host: str, disk: str) -> None:
    """Have a disk in the array once more; by its bitmap it gets only what it has missed."""
    pair.on(host, f"mdadm --manage {ARRAY} --re-add {by_id(disk)}")
    wait_until_in_sync(pair, host)


def alerts(pair: Pair, host: str) -> list[str]:
    """What the log of this boot was told of arrays."""
    words = "journalctl --boot --identifier lj-raid --output cat --no-pager --quiet"
    return pair.on(host, words).splitlines()


def test_what_drbd_mirrors_is_an_array(pair: Pair) -> None:
    pair.wait_until_whole()
    for host in HOSTS:
        used = " ".join(pair.on(host, f"drbdsetup show {RESOURCE}").split())
        assert f'disk "{ARRAY}";' in used
        wait_until_in_sync(pair, host)
        its = array(pair, host)
        assert its["Raid Level"] == "raid1"
        assert its["Intent Bitmap"] == "Internal"
        disks = {pair.on(host, f"basename $(readlink -f {by_id(disk)})") for disk in DISKS}
        assert members(pair, host) == dict.fromkeys(disks, "in_sync")
        # A boot has DRBD wait for it.
        after = pair.on(host, "systemctl show --property=After --value drbd.service")
        assert "dev-md-data.device" in after.split()
        waited_for = pair.on(host, "systemctl show --property=ActiveState dev-md-data.device")
        assert waited_for == "ActiveState=active"


def test_it_follows_where_it_is_held(pair: Pair) -> None:
    holder = pair.wait_until_whole()
    pair.follows(holder)
    assert pair.sql(holder, "SELECT @@global.read_only") == "1"
    lj = Path(sys.executable).parent / "lj"
    done = subprocess.run(
        [lj, "ha", "status", "-i", "inventory/ha_slave", "--json"],
        cwd=control.CHECKOUT,
        env={**os.environ, "LJ_LAB_STATE": str(pair.state.folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    slaves = [row["slave"] for row in json.loads(done.stdout)["slaves"]]
    assert slaves == [f"{holder}/{RESOURCE}", f"{SLAVE}/{RESOURCE}"]


def test_it_follows_on_after_switchovers(pair: Pair, file: Path) -> None:
    with pair.commits(file) as ledger:
        for _ in HOSTS:  # there and back
            holder = pair.wait_until_whole()
            done = pair.play("switchover", "-e", f"pair={RESOURCE}")
            assert done.returncode == 0, done.stdout
            goes_on(pair, peer_of(holder), ledger)


def test_it_follows_on_when_the_holder_s_power_is_pulled(pair: Pair, file: Path) -> None:
    with pair.commits(file) as ledger:
        for _ in HOSTS:
            holder = pair.wait_until_whole()
            ledger.wait_for_next()
            control.ask(pair.state, "pull", holder)
            goes_on(pair, peer_of(holder), ledger)


def test_it_catches_up_when_the_source_was_away(pair: Pair, file: Path) -> None:
    with pair.commits(file) as ledger:
        control.ask(pair.state, "pull", SOURCE)
        control.ask(pair.state, "on", SOURCE)
        control.wait_for_hosts(pair.state, [SOURCE])
        ledger.wait_for_next()
        goes_on(pair, pair.wait_until_whole(), ledger)


def test_drbd_does_not_notice_when_the_array_loses_a_disk(pair: Pair, file: Path) -> None:
    holder = pair.wait_until_whole()
    for disk in DISKS:
        wait_until_in_sync(pair, holder)
        before = len(alerts(pair, holder))
        with pair.commits(file) as ledger:
            pair.on(holder, f"mdadm --manage {ARRAY} --fail {by_id(disk)}")
            wait_for(
                lambda seen=before: any(
                    line.startswith("Fail of /dev/md") for line in alerts(pair, holder)[seen:]
                ),
                "the log to be told",
                timeout_s=300,
                every_s=3,
            )
            assert "degraded" in array(pair, holder)["State"].split(", ")
            goes_on(pair, holder, ledger)
            assert pair.on(holder, f"drbdadm dstate {RESOURCE}") == "UpToDate/UpToDate"
        # All that is compared here is read from the other disk, which the second time is the one
        # that was put back.
        assert pair.differ(holder) == 0
        removal = f"mdadm --manage {ARRAY} --remove {by_id(disk)}"
        wait_for(  # requests to it may still be on their way
            lambda words=removal: control.ssh(pair.state, holder, words).returncode == 0,
            f"{disk} to be let go",
            timeout_s=60,
            every_s=1,
        )
        put_back(pair, holder, disk)
    assert pair.wait_until_whole() == holder


def test_drbd_has_its_disk_after_a_boot_with_half_of_the_array(pair: Pair, file: Path) -> None:
    holder = pair.wait_until_whole()
    spare = peer_of(holder)
    wait_until_in_sync(pair, spare)
    boot = pair.on(spare, "cat /proc/sys/kernel/random/boot_id")
    with pair.commits(file) as ledger:
        control.ask(pair.state, "fail", spare, DISKS[0])
        wait_for(  # at the next write
            lambda: "degraded" in array(pair, spare)["State"].split(", "),
            "the array to be degraded",
            timeout_s=300,
            every_s=3,
        )
        control.ask(pair.state, "pull", spare)
        # Whoever shoots it gives it its power back.
        assert pair.wait_until_whole() == holder
        assert pair.on(spare, "cat /proc/sys/kernel/random/boot_id") != boot
        assert "degraded" in array(pair, spare)["State"].split(", ")
        goes_on(pair, holder, ledger)
    assert pair.differ(holder) == 0
    control.ask(pair.state, "heal", spare, DISKS[0])
    put_back(pair, spare, DISKS[0])
