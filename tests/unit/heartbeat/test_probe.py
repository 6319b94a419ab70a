"""What a pair's host is refused for, from what its interfaces and Heartbeat's own file say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support.box import CHECKOUT

pytestmark = pytest.mark.unit

HELD = {
    "heartbeat_pair": "cluster1",
    "heartbeat_device": "/dev/drbd0",
    "heartbeat_mount": "/srv/cluster1",
    "heartbeat_service": "lj-mysql-cluster1",
    "heartbeat_address": "10.0.1.20/24",
    "heartbeat_interface": "eth0",
}
LINE = (
    "# Ansible managed\n"
    "db1-a {disk}::cluster1 lj_mount::/dev/drbd0::/srv/cluster1::ext4::noatime "
    "lj_unit::lj-mysql-cluster1 lj_address::10.0.1.20/24::eth0 lj_unit::lj-mysql-watch-cluster1\n"
)
HAVE = {
    "lo": ["127.0.0.1/8"],
    "eth0": ["10.0.1.21/24", "10.0.1.20/24"],
    "eth1": ["192.168.1.1/30"],
    "eth2": ["10.9.0.21/16"],
}
WANTED = {
    "interface": "eth0",
    "host_address": "10.0.1.21",
    "crossover_interface": "eth1",
    "crossover_address": "192.168.1.1",
}


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with a file of the test's; Heartbeat runs."""
    path = CHECKOUT / "roles/heartbeat/files/probe.py"
    spec = importlib.util.spec_from_file_location("heartbeat_probe", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "HARESOURCES", tmp_path / "haresources")
    monkeypatch.setattr(module, "output_of", lambda *_: "active\n")
    return module


def changed(probe: ModuleType, **other: str) -> list[str]:
    return list(probe.changed(HELD | other))


@pytest.mark.parametrize("disk", ["drbddisk", "lj_disk"])
def test_a_group_that_runs_may_have_other_scripts(probe: ModuleType, disk: str) -> None:
    probe.HARESOURCES.write_text(LINE.format(disk=disk))
    assert changed(probe) == []


@pytest.mark.parametrize("variable", HELD)
def test_a_group_that_runs_keeps_what_it_is_stopped_by(probe: ModuleType, variable: str) -> None:
    probe.HARESOURCES.write_text(LINE.format(disk="lj_disk"))
    (said,) = changed(probe, **{variable: "other"})
    assert f"not with {variable} other: it would stop what it has not started" in said
    assert "`systemctl stop heartbeat` on the host without the group, then on the other" in said


def test_a_floating_address_is_taken_off_with_its_prefix_length(probe: ModuleType) -> None:
    probe.HARESOURCES.write_text(LINE.format(disk="lj_disk"))
    assert changed(probe, heartbeat_address="10.0.1.20/25")


@pytest.mark.parametrize("runs", ["inactive\n", "failed\n", "unknown\n", ""])
def test_once_it_is_stopped_all_may_be_changed(
    probe: ModuleType, monkeypatch: pytest.MonkeyPatch, runs: str
) -> None:
    probe.HARESOURCES.write_text(LINE.format(disk="lj_disk"))
    monkeypatch.setattr(probe, "output_of", lambda *_: runs)
    assert changed(probe, heartbeat_address="10.0.1.99/24") == []


def test_a_host_without_a_group_has_nothing_to_keep(probe: ModuleType) -> None:
    assert changed(probe) == []


def test_both_paths_where_they_are(probe: ModuleType) -> None:
    assert list(probe.paths(WANTED, HAVE)) == []
    # What the peer makes of a name is not known here.
    assert list(probe.paths(WANTED | {"host_address": "db1-a.example.net"}, HAVE)) == []


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (
            {"crossover_interface": "eth2"},
            "192.168.1.1 (crossover_address), which eth1 has, but heartbeat_crossover_interface is "
            "eth2, which has 10.9.0.21: set one of the two otherwise",
        ),
        (
            {"host_address": "10.9.0.21"},
            "10.9.0.21 (ansible_host, or else heartbeat_host_address), which eth2 has, but "
            "heartbeat_interface is eth0, which has 10.0.1.21, 10.0.1.20: set one of the two",
        ),
        (
            {"crossover_address": "192.168.1.9"},
            "192.168.1.9 (crossover_address), which no interface has, but heartbeat_crossover_",
        ),
    ],
)
def test_a_path_that_leads_elsewhere(probe: ModuleType, other: dict[str, Any], told: str) -> None:
    (said,) = probe.paths(WANTED | other, HAVE)
    assert f"the peer sends to {told}" in said
