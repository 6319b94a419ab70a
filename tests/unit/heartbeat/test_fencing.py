"""When DRBD is told that its peer can't be primary, and when a host counts as shot."""

from __future__ import annotations

import pytest

from tests.unit.heartbeat.conftest import Host

pytestmark = pytest.mark.unit
SHOOT = "/usr/local/sbin/lj-shoot"
FENCE = "/usr/local/sbin/lj-fence-peer"
OUTDATER = "/usr/libexec/heartbeat/drbd-peer-outdater"
SHOT, OUTDATED, NOTHING = 7, 4, 1


@pytest.fixture
def host(host: Host) -> Host:
    """One whose peer db1-b is silent on every path, and can't be shot."""
    host.install("files/lj-shoot", SHOOT)
    host.install(
        "templates/lj-fence-peer.j2",
        FENCE,
        **{
            "ansible_managed": "by a test",
            "heartbeat_peer_node": "db1-b",
            "heartbeat_device | regex_replace('^/dev/drbd', '')": "3",
        },
    )
    host.file("/etc/ha.d/haresources").touch()
    host.file("/etc/ha.d/lj-shoot").write_text("db1-b external/ipmi\n")
    host.answers("stonith", "exit 1")
    host.answers("cl_status", "echo dead")
    host.answers(OUTDATER, "exit 5")
    is_(host, "WFConnection", "Secondary/Unknown")
    later(host, 0)
    return host


def is_(host: Host, connection: str, roles: str) -> None:
    """What DRBD shows of the pair's device, beside another one."""
    host.file("/proc/drbd").write_text(
        "version: 8.4.11 (api:1/proto:86-101)\n"
        " 0: cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate C r-----\n"
        f" 3: cs:{connection} ro:{roles} ds:UpToDate/DUnknown C r-----\n"
    )


def later(host: Host, seconds: int) -> None:
    """So much time goes by on the host, whatever the time of day is."""
    host.file("/proc/uptime").write_text(f"{1000 + seconds}.25 12.00\n")


def fence(host: Host) -> int:
    return host.run(FENCE, DRBD_RESOURCE="cluster1").returncode


def test_a_peer_that_heartbeat_shot_is_not_shot_again(host: Host) -> None:
    host.answers("stonith", "exit 0")
    assert host.run(SHOOT, "reset", "db1-b", "heartbeat").returncode == 0
    assert fence(host) == SHOT
    assert host.calls("stonith") == [
        f"-t external/ipmi -F {host.file('/etc/ha.d/lj-shoot-parameters')} -T reset db1-b"
    ]


def test_a_dead_peer_that_nobody_shot_is_shot_before_this_host_becomes_primary(host: Host) -> None:
    # It had said that it lets go, and fell silent before it had: Heartbeat shoots no such host.
    assert fence(host) == NOTHING
    host.answers("stonith", "exit 0")
    assert fence(host) == SHOT
    assert len(host.calls("stonith")) == 2


def test_that_it_was_shot_counts_once_and_not_for_long(host: Host) -> None:
    host.answers("stonith", "exit 0")
    host.run(SHOOT, "reset", "db1-b", "heartbeat")
    assert host.run(SHOOT, "lately", "db1-b").returncode == 0
    assert host.run(SHOOT, "lately", "db1-b").returncode != 0
    host.run(SHOOT, "reset", "db1-b", "heartbeat")
    later(host, 121)
    assert host.run(SHOOT, "lately", "db1-b").returncode != 0


def test_that_it_was_shot_does_not_count_when_it_is_back(host: Host) -> None:
    host.answers("stonith", "exit 0")
    host.run(SHOOT, "reset", "db1-b", "heartbeat")
    host.answers("cl_status", "echo active")
    assert host.run(SHOOT, "lately", "db1-b").returncode != 0


def test_only_heartbeat_s_shot_makes_a_second_one_needless(host: Host) -> None:
    host.answers("stonith", "exit 0")
    host.run(SHOOT, "reset", "db1-b", "drbd")
    assert host.run(SHOOT, "lately", "db1-b").returncode != 0


def test_a_peer_that_could_not_be_shot_does_not_count_as_shot(host: Host) -> None:
    assert host.run(SHOOT, "reset", "db1-b").returncode == 1
    assert host.run(SHOOT, "lately", "db1-b").returncode != 0


@pytest.mark.parametrize("code", [3, 4, 6])
@pytest.mark.parametrize("role", ["Primary", "Secondary"])
def test_a_peer_that_answers_is_told_and_not_shot(host: Host, code: int, role: str) -> None:
    host.answers("cl_status", "echo active")
    host.answers(OUTDATER, f"exit {code}")
    is_(host, "WFConnection", f"{role}/Unknown")
    assert fence(host) == code
    assert host.calls("stonith") == []


def test_a_primary_shoots_a_peer_that_does_not_answer(host: Host) -> None:
    host.answers("stonith", "exit 0")
    is_(host, "WFConnection", "Primary/Unknown")
    assert fence(host) == SHOT


def test_a_primary_that_can_shoot_nobody_waits_until_somebody_says_that_the_peer_is_off(
    host: Host,
) -> None:
    is_(host, "WFConnection", "Primary/Unknown")
    host.answers("cl_status", "echo up")
    # A person says so while it waits for the third time.
    tried = f"grep -cx 'sleep 5' {host.file('calls')}"
    said = f'[ "$1 $({tried})" != "5 3" ] || {host.file(SHOOT)} confirm db1-b'
    host.answers("sleep", said)
    assert fence(host) == SHOT
    assert len(host.calls("stonith")) == 3
    assert len(host.calls("drbd-peer-outdater")) == 4


def test_nobody_waits_for_the_answer_of_a_peer_that_is_dead(host: Host) -> None:
    host.answers("stonith", "exit 0")
    # Heartbeat sees it after a while.
    host.answers("cl_status", f"[ $(grep -c ^cl_status {host.file('calls')}) -gt 3 ] && echo dead")
    host.answers(OUTDATER, "exec tail -f /dev/null")
    is_(host, "WFConnection", "Primary/Unknown")
    assert fence(host) == SHOT
    assert len(host.calls("drbd-peer-outdater")) == 1


def test_heartbeat_and_drbd_are_both_told_that_the_peer_is_off(host: Host) -> None:
    is_(host, "WFConnection", "Primary/Unknown")
    assert host.run(SHOOT, "confirm", "db1-b").returncode == 0
    assert host.run(SHOOT, "reset", "db1-b", "heartbeat").returncode == 0
    assert fence(host) == SHOT
    assert host.calls("stonith") == []


@pytest.mark.parametrize("connection", ["Connected", "SyncSource", "PausedSyncS"])
def test_a_primary_does_not_shoot_a_peer_that_is_connected_again(
    host: Host, connection: str
) -> None:
    host.answers("stonith", "exit 0")
    is_(host, connection, "Primary/Secondary")
    assert fence(host) == NOTHING
    assert host.calls("stonith") == []


def test_a_spare_whose_peer_is_alive_and_says_nothing_does_not_become_primary(host: Host) -> None:
    host.answers("cl_status", "echo active")
    host.answers("stonith", "exit 0")
    assert fence(host) == NOTHING
    assert host.calls("stonith") == []


def test_while_a_pair_is_set_up_nobody_is_asked(host: Host) -> None:
    host.file("/etc/ha.d/haresources").unlink()
    assert fence(host) == SHOT
    assert host.calls("drbd-peer-outdater") == []


def test_that_a_host_is_off_is_not_believed_while_it_answers(host: Host) -> None:
    host.answers("cl_status", "echo active")
    said = host.run(SHOOT, "confirm", "db1-b")
    assert said.returncode == 1
    assert "it answers Heartbeat" in said.stderr
    assert host.run(SHOOT, "reset", "db1-b").returncode == 1


@pytest.mark.parametrize("who", ["heartbeat", "drbd"])
def test_that_a_host_is_off_counts_once_and_not_for_long(host: Host, who: str) -> None:
    assert host.run(SHOOT, "confirm", "db1-b").returncode == 0
    assert host.run(SHOOT, "reset", "db1-b", who).returncode == 0
    assert host.run(SHOOT, "reset", "db1-b", who).returncode == 1
    host.run(SHOOT, "confirm", "db1-b")
    later(host, 601)
    assert host.run(SHOOT, "reset", "db1-b", who).returncode == 1


def test_that_a_host_is_off_does_not_count_when_it_is_back(host: Host) -> None:
    host.run(SHOOT, "confirm", "db1-b")
    host.answers("cl_status", "echo active")
    assert host.run(SHOOT, "reset", "db1-b", "drbd").returncode == 1
    host.answers("cl_status", "echo dead")
    assert host.run(SHOOT, "reset", "db1-b", "drbd").returncode == 1


def test_who_shoots_by_hand_shoots(host: Host) -> None:
    host.answers("stonith", "exit 0")
    host.run(SHOOT, "confirm", "db1-b")
    assert host.run(SHOOT, "reset", "db1-b").returncode == 0
    assert len(host.calls("stonith")) == 1


def test_heartbeat_shoots_no_host_that_is_back(host: Host) -> None:
    host.install("files/lj_shoot", "/plugins/lj_shoot")
    host.answers("stonith", "exit 0")
    host.answers("cl_status", "echo active")
    assert host.run("/plugins/lj_shoot", "reset", "db1-b", hostname="db1-b").returncode == 1
    assert host.calls("stonith") == []


@pytest.mark.parametrize("words", [("reset", "db1-a"), ("confirm", "db1-a")])
def test_only_the_peer_is_shot(host: Host, words: tuple[str, str]) -> None:
    host.answers("stonith", "exit 0")
    said = host.run(SHOOT, *words)
    assert said.returncode == 1
    assert "db1-a is not the peer of this host: that is db1-b" in said.stderr
    assert host.calls("stonith") == []


def test_heartbeat_s_plugin_shoots_by_it(host: Host) -> None:
    host.install("files/lj_shoot", "/plugins/lj_shoot")
    host.answers("stonith", "exit 0")
    for words in ("gethosts", "getconfignames", "getinfo-xml", "getinfo-devdescr"):
        assert host.run("/plugins/lj_shoot", words, hostname="db1-b").stdout
    assert host.run("/plugins/lj_shoot", "gethosts", hostname="db1-b").stdout == "db1-b\n"
    assert host.run("/plugins/lj_shoot", "reset", "db1-b", hostname="db1-b").returncode == 0
    assert host.run("/plugins/lj_shoot", "status", hostname="db1-b").returncode == 0
    assert [call.split()[4] for call in host.calls("stonith")] == ["-T", "-S"]
    assert host.run(SHOOT, "lately", "db1-b").returncode == 0
