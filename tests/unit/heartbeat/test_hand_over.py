"""Where a group goes that does not start."""

from __future__ import annotations

import signal
from dataclasses import dataclass

import pytest

from tests.unit.heartbeat.conftest import Host

pytestmark = pytest.mark.unit
HAND_OVER = "/usr/local/sbin/lj-hand-over"
RESOURCES = "/etc/ha.d/resource.d"
FIFO = "/var/lib/heartbeat/fifo"
ASKS = ">>>\nt=ask_resources\nrsc_hold=all\ninfo=me\n<<<\n"
"""What Heartbeat reads from its FIFO."""
HEARD = "/heard"
MANAGER = "/usr/share/heartbeat/ResourceManager"
TRIES = 3
"""After so many the test ends what would go on for ever."""


@dataclass
class Seen:
    """What a host says about itself while nobody has the group."""

    role: str = "Secondary/Unknown"
    disks: str = "UpToDate/UpToDate"
    holds: str = "all"
    peer: str = "active"


def show(host: Host, seen: Seen) -> None:
    # A Heartbeat that hears what it is asked lets go.
    heard = f"if [ -s {host.file(FIFO)} ]; then cat {host.file(FIFO)} >>{host.file(HEARD)}; "
    heard += f": >{host.file(FIFO)}; echo transition; else echo {seen.holds}; fi"
    host.answers("drbdadm", f"case $1 in role) echo {seen.role};; dstate) echo {seen.disks};; esac")
    host.answers(
        "cl_status",
        "case $1 in listnodes) echo db1-a; echo db1-b;; "
        f'nodestatus) [ "$2" = db1-a ] && echo active || echo {seen.peer};; '
        f"rscstatus) {heard};; esac",
    )


@pytest.fixture
def host(host: Host) -> Host:
    host.install("files/lj-hand-over", HAND_OVER)
    line = "db1-a lj_disk::cluster1 lj_unit::lj-mysql-cluster1 lj_unit::lj-mysql-watch-cluster1\n"
    host.file("/etc/ha.d/haresources").write_text(f"# by a test\n{line}")
    for name in ("lj_disk", "lj_unit", "lj_mount", "lj_address"):
        host.install(f"files/{name}", f"{RESOURCES}/{name}")
    host.answers("sleep", f'[ "$(grep -c ^sleep {host.file("calls")})" -le {TRIES} ] || kill $PPID')
    host.answers("uname", "echo db1-a")
    host.answers("systemd-run", "")
    host.answers("systemctl", "case $1 in start) exit 1;; is-active) exit 3;; esac")
    host.file(FIFO).touch()
    host.file(HEARD).touch()
    host.answers(MANAGER, "")
    show(host, Seen())
    return host


def asked(host: Host) -> str:
    """What Heartbeat was asked, heard or not."""
    return host.file(HEARD).read_text() + host.file(FIFO).read_text()


def go_on(host: Host, ends: bool = False) -> None:
    unit = str(host.file(f"{RESOURCES}/lj_unit"))
    code = host.run(HAND_OVER, "go-on", unit, "lj-mysql-cluster1").returncode
    assert code == (0 if ends else -signal.SIGTERM)


STARTS = {
    "lj_disk": (("cluster1",), "drbddisk"),
    "lj_unit": (("lj-mysql-cluster1",), "systemctl"),
    "lj_mount": (("/dev/none", "/srv/none", "xfs", "noatime"), "mount"),
    "lj_address": (("10.0.0.1/24", "eth0"), "ip"),
}


@pytest.mark.parametrize("name", STARTS)
def test_what_does_not_start_begins_a_unit_that_goes_on(host: Host, name: str) -> None:
    words, program = STARTS[name]
    host.answers(f"{RESOURCES}/drbddisk", "exit 1")
    if program in ("mount", "ip"):
        host.answers(program, "exit 1")
    host.answers("mkdir", "")
    assert host.run(f"{RESOURCES}/{name}", *words, "start").returncode == 1
    at = host.file(f"{RESOURCES}/{name}")
    unit = f"--quiet --collect --unit=lj-hand-over {host.file(HAND_OVER)} go-on"
    assert host.calls("systemd-run") == [f"{unit} {at} {' '.join(words)}"]


def test_a_file_system_that_needs_a_person_is_offered_too(host: Host) -> None:
    host.answers("e2fsck", "echo unexpected inconsistency; exit 4")
    host.answers("mount", "")
    words = ("/dev/none", "/srv/none", "ext4", "noatime")
    assert host.run(f"{RESOURCES}/lj_mount", *words, "start").returncode == 1
    assert host.calls("mount") == []
    assert len(host.calls("systemd-run")) == 1


def test_what_starts_begins_nothing(host: Host) -> None:
    host.answers(f"{RESOURCES}/drbddisk", "exit 0")
    assert host.run(f"{RESOURCES}/lj_disk", "cluster1", "start").returncode == 0
    assert host.run(f"{RESOURCES}/lj_disk", "cluster1", "stop").returncode == 0
    host.answers("systemctl", "")
    assert host.run(f"{RESOURCES}/lj_unit", "lj-mysql-cluster1", "start").returncode == 0
    assert host.calls("systemd-run") == []
    assert host.calls("drbddisk") == ["cluster1 start", "cluster1 stop"]


@pytest.mark.parametrize("disks", ["UpToDate/UpToDate", "Outdated/DUnknown", "Diskless/UpToDate"])
def test_the_peer_gets_a_group_that_it_can_have(host: Host, disks: str) -> None:
    show(host, Seen(disks=disks))
    go_on(host)
    assert asked(host) == ASKS * TRIES
    assert host.calls("ResourceManager") == []


@pytest.mark.parametrize("seen", [Seen(disks="UpToDate/Outdated"), Seen(peer="dead")])
def test_it_is_tried_here_again_where_the_peer_can_not_have_it(host: Host, seen: Seen) -> None:
    show(host, seen)
    go_on(host)
    assert asked(host) == ""
    assert host.calls("ResourceManager") == ["takegroup lj_disk::cluster1"] * TRIES


def test_nothing_is_tried_with_a_disk_that_lacks_something(host: Host) -> None:
    show(host, Seen(disks="Outdated/DUnknown", peer="dead"))
    go_on(host)
    assert asked(host) == ""
    assert host.calls("ResourceManager") == []


def test_a_person_who_repairs_the_file_system_is_left_alone(host: Host) -> None:
    show(host, Seen(role="Primary/Secondary"))
    go_on(host)
    assert asked(host) == ""
    assert host.calls("ResourceManager") == []


@pytest.mark.parametrize("holds", ["none", ""])
def test_it_ends_when_the_peer_has_the_group_or_heartbeat_was_stopped(
    host: Host, holds: str
) -> None:
    show(host, Seen(holds=holds))
    go_on(host, ends=True)
    assert len(host.calls("sleep")) == 1
    assert asked(host) == ""
    assert host.calls("ResourceManager") == []


def test_a_heartbeat_that_starts_anew_still_has_the_group(host: Host) -> None:
    host.answers("systemctl", '[ "$*" = "is-active --quiet heartbeat" ] || exit 3')
    show(host, Seen(holds=""))
    go_on(host)


def test_it_ends_when_the_last_resource_has_started(host: Host) -> None:
    host.answers("systemctl", '[ "$3" = lj-mysql-watch-cluster1.service ] || exit 3')
    go_on(host, ends=True)
    assert len(host.calls("sleep")) == 1
    assert asked(host) == ""


def test_that_another_resource_has_started_is_not_enough(host: Host) -> None:
    # A person has mended the disk by hand, as primary, and let go of it.
    host.answers("systemctl", '[ "$3" = lj-mysql-cluster1.service ] || exit 3')
    go_on(host)
    assert asked(host) == ASKS * TRIES


@pytest.mark.parametrize("holds", ["none", ""])
def test_what_has_started_when_heartbeat_had_let_go_is_stopped(host: Host, holds: str) -> None:
    show(host, Seen(disks="UpToDate/Outdated"))
    host.answers("lets-go", f"sed -i s/all/{holds}/ {host.file('bin/cl_status')}")
    host.answers(MANAGER, "[ $1 = givegroup ] || lets-go")
    go_on(host, ends=True)
    assert host.calls("ResourceManager") == [
        "takegroup lj_disk::cluster1",
        "givegroup lj_disk::cluster1",
    ]


def test_after_half_an_hour_it_is_tried_less_often(host: Host) -> None:
    calls = host.file("calls")
    host.answers("sleep", f'[ "$(grep -c ^sleep {calls})" -le 61 ] || kill $PPID')
    show(host, Seen(role="Primary/Secondary"))
    go_on(host)
    assert host.calls("sleep") == [*["40"] * 60, "300", "300"]


def test_a_group_is_handed_over_when_heartbeat_has_heard_of_it(host: Host) -> None:
    assert host.run(HAND_OVER, "now").returncode == 0
    assert asked(host) == ASKS


def test_what_heartbeat_has_not_heard_is_said_again(host: Host) -> None:
    # The first request gets lost.
    heard, fifo = host.file(HEARD), host.file(FIFO)
    host.answers("sleep", f"[ -s {heard} ] || {{ cat {fifo} >{heard}; : >{fifo}; }}")
    host.answers("seq", "echo 1")
    host.answers("cl_status", f"[ -s {fifo} ] && [ -s {heard} ] && echo none || echo all")
    assert host.run(HAND_OVER, "now").returncode == 0
    assert asked(host) == ASKS * 2


def test_a_heartbeat_that_does_not_let_go_is_told_of(host: Host) -> None:
    host.answers("sleep", "")
    host.answers("cl_status", "echo all")
    said = host.run(HAND_OVER, "now")
    assert said.returncode == 1
    assert "Heartbeat does not let go of the group" in said.stderr
    assert asked(host) == ASKS * 3


@pytest.mark.parametrize("holds", ["none", "transition", ""])
def test_where_there_is_no_group_none_is_handed_over(host: Host, holds: str) -> None:
    show(host, Seen(holds=holds))
    said = host.run(HAND_OVER, "now")
    assert said.returncode == 1
    assert "this host has no group to hand over" in said.stderr
    assert asked(host) == ""
