"""The proof that a pair loses nothing: `make lab-ha`, after `make lab-up`.

A client commits to the floating address all the time, and keeps a ledger.  Each test
does to the pair what its name says, waits until it is whole again, and compares: every
acknowledged commit is there, on the pair and on its slave, and one host is primary.
LAB_HA_ROUNDS says how often power is pulled and the group is handed over.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.ha_pair import (
    HOSTS,
    MOUNT,
    PATIENCE_S,
    RESOURCE,
    Pair,
    moved,
    peer_of,
)
from tests.support.process import wait_for
from tools.lab import control
from tools.lab.ledger import newest

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(7200),
    pytest.mark.usefixtures("same_on_both_sides"),
]
UNSEEN = bytes.fromhex("f176ec0501")
"""What can be XORed into any data without a change of its crc32c: the polynomial itself."""
ROUNDS = int(os.environ.get("LAB_HA_ROUNDS", "20"))
SERVER = "lj-mysql-cluster1.service"
INITDEAD_S = 60.0
"""After so long a host that has booted takes a peer for dead that it has not heard."""
NEWEST_LINE = "journalctl --boot --quiet --output short-unix"
TRIED = "journalctl --boot --identifier lj-fence-peer | grep -c 'neither be told nor shot' || true"


def shots(pair: Pair, host: str) -> int:
    """How often the rack's power switch was told to shoot a host."""
    return pair.state.log.read_text().count(f"power switch: reset {host}")


def test_planned_switchovers(pair: Pair, file: Path, tell: Callable[[str, float], None]) -> None:
    for number in range(max(1, ROUNDS // 2)):
        holder = pair.wait_until_whole()
        with pair.commits(file) as ledger:
            started = ledger.wait_for_next()
            pair.on(holder, "lj-hand-over now")
            moved(pair, ledger, holder)
            tell(f"switchover {number + 1}", ledger.gap_s(started))


def test_power_of_the_primary_is_pulled(
    pair: Pair, file: Path, tell: Callable[[str, float], None]
) -> None:
    for number in range(ROUNDS):
        holder = pair.wait_until_whole()
        with pair.commits(file) as ledger:
            started = ledger.wait_for_next()
            control.ask(pair.state, "pull", holder)
            # Nobody asks the peer anything meanwhile: it has enough to do.
            ledger.wait_for_next()
            assert pair.holders() == [peer_of(holder)]
            tell(f"power pulled {number + 1}", ledger.gap_s(started))
            # Whoever shot it gave it its power back: it comes by itself, as the spare.
            assert pair.wait_until_whole() == peer_of(holder)


def test_power_of_the_spare_is_pulled(
    pair: Pair, file: Path, tell: Callable[[str, float], None]
) -> None:
    holder = pair.wait_until_whole()
    before = shots(pair, peer_of(holder))
    with pair.commits(file) as ledger:
        started = ledger.wait_for_next()
        control.ask(pair.state, "pull", peer_of(holder))
        ledger.wait_for_silence()
        ledger.wait_for_next()
        tell("power of the spare pulled", ledger.gap_s(started))
        assert shots(pair, peer_of(holder)) > before
        assert pair.wait_until_whole() == holder


def test_a_server_that_is_killed_is_started_again_and_then_handed_over(
    pair: Pair, file: Path, tell: Callable[[str, float], None]
) -> None:
    holder = pair.wait_until_whole()
    pair.on(holder, "systemctl restart lj-mysql-watch-cluster1.service")
    with pair.commits(file) as ledger:
        started = ledger.wait_for_next()
        pair.on(holder, f"systemctl kill --signal=KILL {SERVER}")
        ledger.wait_for_next()
        tell("mysqld killed", ledger.gap_s(started))
        assert pair.wait_until_whole() == holder
        # Now so that it can't start.
        started = ledger.wait_for_next()
        pair.on(holder, "chmod 000 /etc/lj/mysql-cluster1.cnf")
        pair.on(holder, f"systemctl kill --signal=KILL {SERVER}")
        try:
            moved(pair, ledger, holder)
        finally:
            pair.on(holder, "chmod 640 /etc/lj/mysql-cluster1.cnf")
        tell("mysqld can't start", ledger.gap_s(started))
        assert pair.wait_until_whole() == peer_of(holder)


@pytest.mark.parametrize("spare", HOSTS)
def test_a_spare_that_can_not_start_the_server_gives_the_group_back(
    pair: Pair, file: Path, spare: str, tell: Callable[[str, float], None]
) -> None:
    holder = pair.wait_until_whole()
    if holder == spare:
        pair.on(holder, "lj-hand-over now")
        holder = peer_of(spare)
        wait_for(lambda: pair.holders() == [holder], "a switchover", timeout_s=900, every_s=3)
        pair.wait_until_whole()
    with pair.commits(file) as ledger:
        started = ledger.wait_for_next()
        pair.on(spare, "chmod 000 /etc/lj/mysql-cluster1.cnf")
        try:
            pair.on(holder, "lj-hand-over now")
            ledger.wait_for_silence()
            ledger.wait_for_next()
        finally:
            pair.on(spare, "chmod 640 /etc/lj/mysql-cluster1.cnf")
        tell(f"given back by {spare}", ledger.gap_s(started))
        assert pair.wait_until_whole() == holder


def test_a_server_that_hangs_is_killed_and_started_again(
    pair: Pair, file: Path, tell: Callable[[str, float], None]
) -> None:
    holder = pair.wait_until_whole()
    pair.on(holder, "systemctl restart lj-mysql-watch-cluster1.service")
    with pair.commits(file) as ledger:
        started = ledger.wait_for_next()
        pair.on(holder, f"systemctl kill --signal=STOP {SERVER}")
        ledger.wait_for_next()
        tell("mysqld hangs", ledger.gap_s(started))
        assert pair.wait_until_whole() == holder


@pytest.mark.parametrize("how", ["errors", "gone"])
def test_a_disk_that_fails_is_let_go_and_the_other_sides_is_used(
    pair: Pair, file: Path, how: str, tell: Callable[[str, float], None]
) -> None:
    holder = pair.wait_until_whole()
    disk = pair.on(holder, "basename $(readlink -f /dev/disk/by-id/virtio-data)")
    slot = pair.on(holder, f"readlink -f /sys/class/block/{disk}/device/..")
    with pair.commits(file) as ledger:
        started = ledger.wait_for_next()
        if how == "errors":
            control.ask(pair.state, "fail", holder, "data")
        else:
            # Its adapter goes, with what was on its way to the disk.
            pair.on(holder, f"echo 1 > {slot}/remove")
        wait_for(
            lambda: pair.on(holder, f"drbdadm dstate {RESOURCE}") == "Diskless/UpToDate",
            "the disk to be let go",
            timeout_s=300,
            every_s=1,
        )
        ledger.wait_for_next()
        tell(f"disk failed ({how})", ledger.gap_s(started))
        assert pair.holders() == [holder]
        if how == "errors":
            control.ask(pair.state, "heal", holder, "data")
        else:
            pair.on(holder, "echo 1 > /sys/bus/pci/rescan && udevadm settle")
        pair.on(holder, f"drbdadm attach {RESOURCE}")
        assert pair.wait_until_whole() == holder


def outdate(pair: Pair, spare: str) -> None:
    """Cut the cross-over link, and wait until the spare is outdated."""
    control.ask(pair.state, "cut", spare, RESOURCE)
    wait_for(
        lambda: pair.on(spare, f"drbdadm dstate {RESOURCE}").startswith("Outdated"),
        "the spare to be outdated",
        timeout_s=300,
        every_s=1,
    )


def test_a_cross_over_link_that_is_cut_outdates_the_spare(
    pair: Pair, file: Path, tell: Callable[[str, float], None]
) -> None:
    holder = pair.wait_until_whole()
    spare = peer_of(holder)
    with pair.commits(file) as ledger:
        started = ledger.wait_for_next()
        outdate(pair, spare)
        ledger.wait_for_next()
        tell("cross-over cut", ledger.gap_s(started))
        # It can't become primary, whoever asks.
        assert control.ssh(pair.state, spare, f"drbdadm primary {RESOURCE}").returncode != 0
        control.ask(pair.state, "mend", spare, RESOURCE)
        assert pair.wait_until_whole() == holder


def wait_for_tries(pair: Pair, host: str, wanted: int) -> None:
    """Wait until a host has tried so often in vain to shoot its peer."""
    wait_for(
        lambda: int(pair.on(host, TRIED)) >= wanted,
        "the primary to try to shoot its peer",
        timeout_s=PATIENCE_S,
        every_s=3,
    )


def test_a_primary_that_can_shoot_nobody_writes_nothing_until_a_person_says_so(
    pair: Pair, file: Path, tell: Callable[[str, float], None]
) -> None:
    holder = pair.wait_until_whole()
    spare = peer_of(holder)
    way = "/etc/ha.d/lj-shoot-parameters"
    with pair.commits(file) as ledger:
        started = ledger.wait_for_next()
        pair.on(holder, f"mv {way} {way}.away")
        tried = int(pair.on(holder, TRIED))
        try:
            control.ask(pair.state, "pull", spare)
            wait_for_tries(pair, holder, tried + 1)
            last = newest(ledger.file)[-1]
            wait_for_tries(pair, holder, tried + 2)
            assert newest(ledger.file)[-1] == last
            pair.on(holder, f"lj-shoot confirm {spare}")
            ledger.wait_for_next()
        finally:
            pair.on(holder, f"mv {way}.away {way}")
        tell("a spare that can't be shot, until told", ledger.gap_s(started))
        control.ask(pair.state, "on", spare)
        assert pair.wait_until_whole() == holder


def test_a_group_stays_where_the_disk_is_up_to_date(
    pair: Pair, file: Path, tell: Callable[[str, float], None]
) -> None:
    holder = pair.wait_until_whole()
    spare = peer_of(holder)
    pair.on(holder, "systemctl restart lj-mysql-watch-cluster1.service")
    with pair.commits(file) as ledger:
        outdate(pair, spare)
        # The second time within five minutes it would go to a peer that is up to date.
        for _ in range(2):
            started = ledger.wait_for_next()
            pair.on(holder, f"systemctl kill --signal=KILL {SERVER}")
            ledger.wait_for_next()
        assert pair.holders() == [holder]
        tell("mysqld killed twice, the spare outdated", ledger.gap_s(started))
        # A person who does not know hands it over; it is given back.
        started = ledger.wait_for_next()
        pair.on(holder, "lj-hand-over now")
        ledger.wait_for_silence()
        ledger.wait_for_next()
        assert pair.holders() == [holder]
        tell("handed to an outdated spare, and given back", ledger.gap_s(started))
        control.ask(pair.state, "mend", spare, RESOURCE)
        assert pair.wait_until_whole() == holder


def test_a_public_cable_that_is_cut_hands_the_group_over(
    pair: Pair, file: Path, tell: Callable[[str, float], None]
) -> None:
    holder = pair.wait_until_whole()
    before = shots(pair, holder)
    with pair.commits(file) as ledger:
        started = ledger.wait_for_next()
        control.ask(pair.state, "cut", holder, "public")
        moved(pair, ledger, holder)
        tell("public cable cut", ledger.gap_s(started))
        # Nobody had to be shot: they hear each other over the other cable.
        assert shots(pair, holder) == before
        control.ask(pair.state, "mend", holder, "public")
        assert pair.wait_until_whole() == peer_of(holder)


@pytest.mark.parametrize("alone", ["primary", "spare"])
def test_of_a_partition_one_side_is_shot_before_the_other_goes_on(
    pair: Pair, file: Path, alone: str, tell: Callable[[str, float], None]
) -> None:
    holder = pair.wait_until_whole()
    left_out = holder if alone == "primary" else peer_of(holder)
    survivor = peer_of(left_out)
    before = {host: shots(pair, host) for host in HOSTS}
    with pair.commits(file) as ledger:
        started = ledger.wait_for_next()
        for network in (RESOURCE, "public"):
            control.ask(pair.state, "cut", left_out, network)
        ledger.wait_for_silence()
        ledger.wait_for_next()
        tell(f"partition, {alone} alone", ledger.gap_s(started))
        assert pair.holders() == [survivor]
        assert shots(pair, left_out) > before[left_out]
        assert shots(pair, survivor) == before[survivor]
        if alone == "primary":
            shot, promoted = (
                float(pair.on(survivor, f"{NEWEST_LINE} {words} | tail -n 1").split()[0])
                for words in (
                    f"--identifier lj-shoot --grep '{left_out} was shot'",
                    "--dmesg --grep 'role. Secondary -> Primary'",
                )
            )
            assert shot < promoted
        for network in (RESOURCE, "public"):
            control.ask(pair.state, "mend", left_out, network)
        # It waits for its peer where it had booted without a cable.
        assert pair.wait_until_whole() == survivor


@pytest.mark.parametrize("first", [0, 1])
def test_both_hosts_lose_power_at_once(
    pair: Pair, file: Path, first: int, tell: Callable[[str, float], None]
) -> None:
    holder = pair.wait_until_whole()
    order = [holder, peer_of(holder)] if first == 0 else [peer_of(holder), holder]
    with pair.commits(file) as ledger:
        started = ledger.wait_for_next()
        for host in HOSTS:
            control.ask(pair.state, "pull", host)
        control.ask(pair.state, "on", order[0])
        control.wait_for_hosts(pair.state, [order[0]])
        # Alone it may lack what the other one has: it waits, and nobody has the address.
        wait_for(
            lambda: pair.maybe(order[0], "systemctl is-active drbd") == "activating",
            "the first host to look for the other one",
            timeout_s=PATIENCE_S,
            every_s=2,
        )
        with pytest.raises(AssertionError, match="waited"):
            wait_for(
                lambda: pair.holds(order[0]), "the group", timeout_s=INITDEAD_S + 30, every_s=5
            )
        control.ask(pair.state, "on", order[1])
        pair.wait_until_whole()
        ledger.wait_for_next()
        tell(f"both pulled, {'primary' if first == 0 else 'spare'} first", ledger.gap_s(started))


def test_what_differs_on_the_spare_s_disk_is_found_and_mended(pair: Pair) -> None:
    holder = pair.wait_until_whole()
    spare = peer_of(holder)
    file = f"{MOUNT}/told-apart"
    pair.on(holder, f"dd if=/dev/zero of={file} bs=4096 count=1 conv=fsync 2>/dev/null")
    # The first block of the file on the device, whose blocks have 1024 bytes.
    extent = pair.on(holder, f"filefrag -e -b1024 {file} | grep '^ *0:'")
    at = int(extent.split(":")[2].split("..")[0]) * 1024
    assert pair.differ(holder) == 0
    words = "".join(f"\\x{byte:02x}" for byte in UNSEEN)
    disk = "/dev/disk/by-id/virtio-data"
    pair.on(spare, f"printf '{words}' | dd of={disk} bs=1 seek={at} conv=notrunc,fsync 2>/dev/null")
    assert pair.differ(holder) == 4096
    # What an operator types, on the spare; the primary's side is the one that counts.
    pair.on(spare, f"drbdadm disconnect {RESOURCE} && drbdadm connect {RESOURCE}")
    assert pair.wait_until_whole() == holder
    assert pair.differ(holder) == 0
    read = f"dd if={disk} iflag=direct bs=1024 skip={at // 1024} count=1 2>/dev/null"
    assert pair.on(spare, f"{read} | od -An -tx1 -N5").split() == ["00"] * 5
    pair.on(holder, f"rm {file}")


def test_in_the_end_both_sides_are_the_same_and_the_file_system_is_clean(pair: Pair) -> None:
    holder = pair.wait_until_whole()
    assert pair.differ(holder) == 0
    # Without anybody who would mount it.
    for host in (peer_of(holder), holder):
        pair.on(host, "systemctl stop heartbeat")
    check = f"drbdadm primary {RESOURCE} && e2fsck -fn /dev/drbd0 && drbdadm secondary {RESOURCE}"
    told = pair.on(holder, check)
    assert "Pass 5" in told
    for host in HOSTS:
        pair.on(host, "systemctl start heartbeat")
    pair.wait_until_whole()
