"""An array below DRBD, in the order of `playbooks/site.yml`, with a stand-in for mdadm.

What DRBD and the array do on a kernel that has both is asked in the lab, SCENARIO=ha_slave.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.support.box import BIN, CHECKOUT
from tests.support.loops import loop_disks
from tests.support.sandbox import Sandbox, role, sandbox

pytestmark = [pytest.mark.roles, pytest.mark.timeout(900)]

ID = "/dev/disk/by-id"
ARRAY: dict[str, Any] = {"name": "data", "level": 1, "disks": [f"{ID}/disk1", f"{ID}/disk2"]}
PEER: dict[str, Any] = {
    "ansible_connection": "local",
    "ansible_python_interpreter": str(BIN / "python"),
    "crossover_address": "127.0.0.2",
}
MDADM = r"""#!/bin/bash
set -euo pipefail
echo "mdadm $*" >>/srv/calls
case $1 in
--create)
  mkdir -p /dev/md
  ln -s "$(readlink -f /dev/disk/by-id/array)" "$2"
  ;;
--detail) test -e "${!#}" && echo MD_UUID=8cf4f6a8:2a6c1b1e:0b1f3f2a:52c00a5e ;;
esac
"""
WAITS = "/etc/systemd/system/drbd.service.d/lj-raid.conf"


def site_tasks(play: str, *names: str) -> list[dict[str, Any]]:
    """Tasks of a play of the site, by their names; none: all."""
    plays = yaml.safe_load((CHECKOUT / "playbooks/site.yml").read_text())
    (tasks,) = (each["tasks"] for each in plays if each["name"] == play)
    return [task for task in tasks if not names or task["name"] in names]


SITE = [
    {
        "ansible.builtin.setup": {"gather_subset": ["!all", "!min", "platform"]},
        "delegate_to": "right",
        "delegate_facts": True,
    },
    *site_tasks(
        "Look before anything is changed", "The disks that mirror each other", "The disks of pairs"
    ),
    *site_tasks("Have disks that mirror each other"),
    *site_tasks("Mirror the disks of pairs", "Look at arrays that this run has made"),
]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    given = {
        "lj_user": "",
        "lj_group": "",
        "disk_checker_control_program": str(BIN / "disk-checker"),
        "crossover_address": "127.0.0.1",
        "drbd_resource": "cluster1",
        "drbd_disk": "/dev/md/data",
        "storage_raid_arrays": [ARRAY],
    }
    groups = ["storage_raid", "pairs", "pair_cluster1"]
    with sandbox(tmp_path_factory.mktemp("below"), groups, **given) as made:
        for name, text in (("mdadm", MDADM), ("modinfo", "#!/bin/sh\n")):
            made.run("rm", "-f", f"/usr/sbin/{name}")
            made.run("tee", f"/usr/sbin/{name}", input=text)
            made.run("chmod", "755", f"/usr/sbin/{name}")
        folder = tmp_path_factory.mktemp("disks")
        with loop_disks(made, folder, disk1=24, disk2=24, array=23):
            yield made


def test_drbd_looks_at_an_array_when_it_is_made(host: Sandbox) -> None:
    pair = {"pair_cluster1": {"right": PEER}}
    # Before, there is nothing to look at, and a check makes nothing.
    told = host.play(SITE, "--check", "--diff", hosts=pair)
    assert told.exit_code == 0, told.output
    assert "drbd : " not in told.output
    assert "--create" not in host.run("cat", "/srv/calls", check=False).stdout

    made = host.play(SITE, hosts=pair)
    assert made.exit_code == 0, made.output
    assert "--level=1 --raid-devices=2" in host.read("/srv/calls")
    assert made.output.count("drbd : Look at the disk and the link") == 1
    assert "storage_disks : Make a file system" not in made.output

    # What is there already is looked at before anything is changed.
    host.run("mkswap", "/dev/md/data")
    lone = [*SITE[1:3], {"ansible.builtin.command": "touch /srv/changed"}]
    refused = host.play([SITE[0], *lone], hosts=pair, storage_raid_arrays=[])
    assert refused.exit_code != 0
    assert "drbd_disk /dev/md/data holds swap" in " ".join(refused.output.split())
    assert host.run("test", "-e", "/srv/changed", check=False).returncode == 1


def test_a_boot_has_drbd_wait_for_it(host: Sandbox) -> None:
    arrays = [ARRAY, ARRAY | {"name": "my-data"}]
    tasks = [role("storage_raid")]
    # What the disks hold does not matter to it.
    given = {"storage_disks_states": dict.fromkeys(ARRAY["disks"], "ours")}
    names = ("data", "my-data")
    host.run("sh", "-c", "mkdir -p /dev/md && touch /dev/md/data /dev/md/my-data")
    below = host.play(tasks, **given, storage_raid_arrays=arrays)
    assert below.exit_code == 0, below.output
    units = [host.run("systemd-escape", "--path", "--suffix=device", f"/dev/md/{n}") for n in names]
    wanted = [f"{word}={unit.stdout.strip()}" for unit in units for word in ("Wants", "After")]
    assert host.read(WAITS).splitlines() == ["[Unit]", *wanted]
    host.run("tee", "/etc/systemd/system/drbd.service", input="[Service]\nExecStart=/bin/true\n")
    assert host.run("systemd-analyze", "verify", "drbd.service").stderr == ""
    assert host.play(tasks, **given, storage_raid_arrays=arrays).changed_tasks == []

    none = host.play(tasks, **given, storage_raid_arrays=[])
    assert none.exit_code == 0, none.output
    assert host.run("test", "-e", WAITS, check=False).returncode == 1
