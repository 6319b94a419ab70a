"""What a pair can't be made of is refused: which host, and what to do.  No kernel is needed.

Nothing is changed then, neither on the host nor where the playbook runs: no secret is made there.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.box import BIN, CHECKOUT

pytestmark = pytest.mark.roles

PASSWORD = "its-password"
# A port is a number; what is left of the line is the last one.
POWER = {"plugin": "external/ipmi", "parameters": ["somebody", 0, PASSWORD, "left and right"]}


def answer(
    folder: Path, hosts: Mapping[str, Mapping[str, Any]], named: str = "", **changed: Any
) -> str:
    """What the preflight of a pair says, whose hosts both are this machine.

    Args:
        folder: for what belongs to the pair.
        hosts: their names, and what is another one's than of a pair that could work.
        named: what this machine calls itself, if not what it does (as root).
        changed: variables of both.
    """
    disk = folder / "disk"
    if not disk.exists():
        with disk.open("wb") as file:
            file.truncate(1 << 20)
    common = {
        "ansible_connection": "local",
        "ansible_python_interpreter": str(BIN / "python"),
        "lj_secrets_dir": str(folder / "secrets"),
        "lj_run_dir": str(folder),
        "crossover_address": "127.0.0.1",
        "drbd_resource": "cluster9",
        "drbd_disk": str(disk),
        "heartbeat_address": "127.0.0.77/8",
        "heartbeat_interface": "lo",
        "heartbeat_crossover_interface": "nic1",
        "heartbeat_ping": ["127.0.0.1"],
        "heartbeat_stonith": dict.fromkeys(hosts, POWER),
        **changed,
    }
    inventory = folder / "inventory.json"
    members = {"hosts": {name: dict(own) for name, own in hosts.items()}, "vars": common}
    pairs = {"children": {"pair_cluster9": members}}
    inventory.write_text(json.dumps({"all": {"children": {"pairs": pairs}}}))
    tasks = [
        {
            "block": [{"ansible.builtin.include_role": {"name": role, "tasks_from": "preflight"}}],
            # Both roles are asked, whatever the first one says.
            "rescue": [{"ansible.builtin.debug": {"msg": "refused"}}],
        }
        for role in ("drbd", "heartbeat")
    ]
    play = folder / "play.json"
    subset = ["!all", "!min", "python", "platform", "user"]
    play.write_text(
        json.dumps(
            [{"hosts": "pairs", "gather_facts": True, "gather_subset": subset, "tasks": tasks}]
        )
    )
    words = [BIN / "ansible-playbook", "-i", inventory, play]
    if named:
        words = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', named, *words]
    run = subprocess.run(
        words,
        cwd=CHECKOUT,
        env={
            "PATH": f"{BIN}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(folder),
            "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
            "ANSIBLE_ROLES_PATH": str(CHECKOUT / "roles"),
            "ANSIBLE_HOME": str(folder / "ansible"),
            "ANSIBLE_NOCOLOR": "1",
            "LC_ALL": "C.UTF-8",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert "changed=0" in run.stdout, run.stdout + run.stderr
    assert not (folder / "secrets").exists()
    assert not list(disk.parent.glob("disk?*"))
    return " ".join(run.stdout.split())


def test_a_host_that_is_not_ready(tmp_path: Path) -> None:
    said = answer(
        tmp_path,
        {"left": {}, "right": {"drbd_disk": str(tmp_path / "none")}},
        crossover_address="192.0.2.7",
        heartbeat_address="127.0.0.1/8",
    )
    assert "left is not ready; nothing has been changed" in said
    assert f"drbd_disk {tmp_path}/none is not there: name a disk of this host" in said
    assert "no interface of this host has drbd_address 192.0.2.7: set crossover_address" in said
    assert "there is no interface nic1: set heartbeat_crossover_interface to one of" in said
    assert "somebody answers at heartbeat_address 127.0.0.1 already" in said


def test_a_disk_that_holds_a_file_system_or_is_smaller(tmp_path: Path) -> None:
    full = tmp_path / "full"
    with full.open("wb") as file:
        file.truncate(2 << 20)
    subprocess.run(["/sbin/mkfs.ext4", "-q", full], check=True)
    before = full.read_bytes()
    said = answer(tmp_path, {"left": {}, "right": {"drbd_disk": str(full)}})
    assert f"drbd_disk {full} holds ext4: if nothing on it is needed, empty it by hand" in said
    assert "has 2097152 bytes, that of left 1048576: use disks or partitions of the same" in said
    assert full.read_bytes() == before


def test_a_pair_that_is_none(tmp_path: Path) -> None:
    said = answer(tmp_path, {"left": {}}, heartbeat_stonith={}, heartbeat_ping=[])
    assert "left: the group pair_cluster9 has 1 hosts (left); a pair has two" in said
    assert "left: nobody could shoot left: set heartbeat_stonith for both hosts" in said
    assert "left: heartbeat_ping is empty: name an address outside the pair" in said


def test_a_host_with_a_name_that_heartbeat_does_not_know(tmp_path: Path) -> None:
    said = answer(tmp_path, {"left": {}, "right": {}}, named="DB1-A")
    assert "left: it calls itself DB1-A (uname -n), and Heartbeat knows hosts by small" in said
    assert "hostnamectl hostname db1-a" in said


def test_a_pair_without_its_secret(tmp_path: Path) -> None:
    said = answer(tmp_path, {"left": {}, "right": {}}, heartbeat_secret="", drbd_secret="")
    assert "left: heartbeat_secret is empty: give it in the vault, or leave it out" in said
    assert "left: drbd_secret is empty: give it in the vault, or leave it out" in said


def test_a_server_that_listens_where_nothing_is_said(tmp_path: Path) -> None:
    instance = {"role": "cluster9", "mount": "/srv/cluster9"}
    said = answer(tmp_path, {"left": {}, "right": {}}, mysql_instances=[instance])
    for host in ("left", "right"):
        assert f"{host}: mysql_listen_address is 127.0.0.1, where nobody is served at" in said
        assert f"{host}: mysql_client_hosts has no address but loopback, so nobody could" in said


def test_ways_to_shoot_that_shoot_nobody(tmp_path: Path) -> None:
    def of(*parameters: object) -> dict[str, object]:
        return {"plugin": "external/ipmi", "parameters": parameters}

    no_plugin = "has no plugin: name one that `stonith -L` lists"
    no_list = "has no list of parameters: give those that `stonith -t external/ipmi -n` lists"
    empty = "is empty (`stonith -t external/ipmi -n` lists them): give it as one word, in the vault"
    # Of each host that says it: the ways to shoot it and its peer, and what it says of both.
    cases: list[dict[str, tuple[tuple[object, str], tuple[object, str]]]] = [
        {
            "left": (
                ("external/ipmi", f"heartbeat_stonith of left {no_plugin}"),
                ({"parameters": [PASSWORD]}, f"heartbeat_stonith of right {no_plugin}"),
            ),
            "right": (
                ({"plugin": "external/ipmi"}, f"heartbeat_stonith of left {no_list}"),
                (
                    {"plugin": "external/ipmi", "parameters": f"right {PASSWORD}"},
                    f"heartbeat_stonith of right {no_list}",
                ),
            ),
        },
        {
            "left": (
                (
                    of("left", PASSWORD, "", "lanplus"),
                    f"parameter 3 in heartbeat_stonith of left {empty}",
                ),
                (of("right", PASSWORD, None), f"parameter 3 in heartbeat_stonith of right {empty}"),
            ),
            "right": (
                (POWER, ""),
                (
                    of("right", f"a {PASSWORD}", "lanplus"),
                    "parameter 2 in heartbeat_stonith of right has a blank in it (`stonith -t",
                ),
            ),
        },
    ]
    for case in cases:
        ways = {
            host: {"heartbeat_stonith": {"left": left[0], "right": right[0]}}
            for host, (left, right) in case.items()
        }
        said = answer(tmp_path, ways)
        for host, told in case.items():
            assert f"{host}: {'; '.join(one for _, one in told if one)[:60]}" in said
            assert all(one in said for _, one in told)
        assert PASSWORD not in said


def test_a_kernel_without_drbd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # `modinfo` of this machine, which may have the module, is not asked.
    source = (CHECKOUT / "roles/drbd/files/probe.py").read_text()
    names: dict[str, Any] = {"__name__": "probe"}
    exec(compile(source, "probe.py", "exec"), names)
    names["Path"] = lambda _: tmp_path / "none"
    names["output_of"] = lambda *_: None
    (told,) = names["check_module"]()
    assert "has no module drbd: install the kernel image of the distribution" in told
