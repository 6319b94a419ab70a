"""What an operator types, on the lab of `make lab-up`: playbooks, and `lj ha status`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.ha_pair import HOSTS, MOUNT, RESOURCE, SLAVE, Pair, peer_of
from tests.support.process import wait_for
from tools.lab import control

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(7200),
    pytest.mark.usefixtures("same_on_both_sides"),
]
CHOSEN = ("-e", f"pair={RESOURCE}")


def test_status_tells_who_has_the_group(pair: Pair) -> None:
    holder = pair.wait_until_whole()
    lj = Path(sys.executable).parent / "lj"
    done = subprocess.run(
        [lj, "ha", "status", "-i", "inventory/ha_pair"],
        cwd=control.CHECKOUT,
        env={**os.environ, "LJ_LAB_STATE": str(pair.state.folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    print(done.stdout)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[1] for row in rows if row[:1] == [RESOURCE] and "here" in row] == [holder]


def test_switchover(pair: Pair, file: Path, tell: Callable[[str, float], None]) -> None:
    holder = pair.wait_until_whole()
    with pair.commits(file) as ledger:
        started = ledger.wait_for_next()
        done = pair.play("switchover", *CHOSEN)
        assert done.returncode == 0, done.stdout
        ledger.wait_for_next()
        tell("switchover.yml", ledger.gap_s(started))
    assert pair.wait_until_whole() == peer_of(holder)


def test_switchover_refuses_while_the_peer_lacks_something(pair: Pair) -> None:
    holder = pair.wait_until_whole()
    pair.on(peer_of(holder), f"drbdadm disconnect {RESOURCE}")
    try:
        done = pair.play("switchover", *CHOSEN)
        assert done.returncode != 0
        assert "not UpToDate/UpToDate: wait until they are" in " ".join(done.stdout.split())
        assert pair.holders() == [holder]
    finally:
        pair.on(peer_of(holder), f"drbdadm connect {RESOURCE}")
    assert pair.wait_until_whole() == holder


def test_split_brain_keeps_what_the_loser_had(pair: Pair, file: Path) -> None:
    holder = pair.wait_until_whole()
    loser = peer_of(holder)
    for host in (loser, holder):
        pair.on(host, "systemctl stop heartbeat")
    # What it takes: nobody who shoots, and force on both sides.
    for host in HOSTS:
        pair.on(host, f"drbdadm disconnect {RESOURCE}")
    for host in HOSTS:
        pair.on(host, f"drbdadm primary --force {RESOURCE} && mount /dev/drbd0 {MOUNT}")
        pair.on(host, f"echo {host} > {MOUNT}/written-apart && umount {MOUNT}")
        pair.on(host, f"drbdadm secondary {RESOURCE}")
    for host in HOSTS:
        pair.on(host, f"drbdadm connect {RESOURCE}")
    wait_for(
        lambda: all(pair.on(host, f"drbdadm cstate {RESOURCE}") != "Connected" for host in HOSTS),
        "both sides to see that they differ",
        timeout_s=60,
    )
    for host in (holder, loser):
        pair.on(host, "systemctl start heartbeat")
    # Both start anew at once: the first host of the pair has the group then.
    holder, loser = HOSTS
    wait_for(lambda: pair.holders() == [holder], "one to serve", timeout_s=900, every_s=3)

    shown = pair.play("split_brain", *CHOSEN)
    assert shown.returncode == 0, shown.stdout
    assert f"Add -e winner={HOSTS[0]} or -e winner={HOSTS[1]}" in " ".join(shown.stdout.split())
    assert "changed=0" in shown.stdout
    refused = pair.play("split_brain", *CHOSEN, "-e", f"winner={loser}")
    assert refused.returncode != 0
    assert f"{holder} serves clients now and {loser} does not" in " ".join(refused.stdout.split())

    done = pair.play("split_brain", *CHOSEN, "-e", f"winner={holder}")
    assert done.returncode == 0, done.stdout
    assert pair.wait_until_whole() == holder
    assert pair.on(holder, f"cat {MOUNT}/written-apart") == holder
    copy = pair.on(loser, "ls /var/lib/lj-split-brain/*.img")
    kept = f"mount -t ext4 -o loop,ro,noload {copy} /mnt && cat /mnt/written-apart; umount /mnt"
    assert pair.on(loser, kept) == loser
    pair.on(loser, f"rm {copy}")
    with pair.commits(file):
        pass


@pytest.mark.parametrize("part", ["spare", "first"])
def test_new_hardware_takes_the_place_of_a_dead_host(pair: Pair, file: Path, part: str) -> None:
    holder = pair.wait_until_whole()
    if part == "first" and holder == HOSTS[0]:
        # The first host of a pair is the one that makes a file system where there is none.
        pair.on(holder, "lj-hand-over now")
        wait_for(lambda: pair.holders() == [HOSTS[1]], "a switchover", timeout_s=900, every_s=3)
        holder = HOSTS[1]
    dead = peer_of(holder)
    chosen = ("--limit", f"pair_{RESOURCE}", "-e", f"node={dead}")
    refused = pair.play("replace_node", *chosen)
    assert refused.returncode != 0
    assert "both up to date: there is nothing to replace" in " ".join(refused.stdout.split())
    with pair.commits(file, pause_s=0.5):
        control.ask(pair.state, "pull", dead)
        control.ask(pair.state, "renew", dead)
        control.ask(pair.state, "on", dead)
        control.wait_for_hosts(pair.state, [dead])
        done = pair.play("replace_node", *chosen)
        assert done.returncode == 0, done.stdout
        assert pair.wait_until_whole() == holder


def test_upgrade_goes_over_slave_spare_and_the_other(
    pair: Pair, file: Path, tell: Callable[[str, float], None]
) -> None:
    holder = pair.wait_until_whole()
    hosts = [*HOSTS, SLAVE]
    boots = "cat /proc/sys/kernel/random/boot_id"
    before = {host: pair.on(host, boots) for host in hosts}
    with pair.commits(file, pause_s=0.5) as ledger:
        started = ledger.wait_for_next()
        # The lab has no mirror of packages; that each host boots anew is what can be seen here.
        wanted = {"common_upgrade_update": False, "common_upgrade_boot": True}
        done = pair.play("upgrade", *CHOSEN, "-e", json.dumps(wanted))
        assert done.returncode == 0, done.stdout
        ledger.wait_for_next()
        tell("upgrade.yml", ledger.gap_s(started))
    assert pair.wait_until_whole() == peer_of(holder)
    assert all(pair.on(host, boots) != before[host] for host in hosts)
