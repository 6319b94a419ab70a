"""`inventory/lab`, and a cluster that is added to it: each host is a namespace of this machine.

Its virtual machines have systemd as well; here services are supervisor's.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.box import BIN, CHECKOUT
from tests.support.rack import Rack, rack
from tools.lab.plan import plan_of, read_inventory

pytestmark = [pytest.mark.roles, pytest.mark.timeout(1200)]

ADDED = {"ansible_host": "10.77.0.24", "mysql_instances": [{"role": "cluster3"}]}


@pytest.fixture(scope="module")
def lab(short_directory: Path, wheels: None) -> Iterator[Rack]:
    """The lab's hosts after `site.yml`, and db-cluster3, on which nothing was done yet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{BIN}:{os.environ['PATH']}")
        known = read_inventory(CHECKOUT / "inventory/lab").hosts
    addresses = {host.name: host.address for host in known}
    addresses["db-cluster3"] = str(ADDED["ansible_host"])
    hosts = {
        name: {"lab_kind": "vm", "ansible_host": address} for name, address in addresses.items()
    }
    folder = short_directory / "lab"
    folder.mkdir()
    with rack(folder, plan_of({"_meta": {"hostvars": hosts}})) as made:
        release = {"hosts": "db-global", "gather_facts": True, "roles": ["runtime"]}
        play = folder / "release.json"
        play.write_text(json.dumps([{**release, "gather_subset": ["!all", "python", "user"]}]))
        run = made.play(str(play))
        assert run.returncode == 0, run.stdout
        run = made.play("playbooks/site.yml")
        assert run.returncode == 0, run.stdout
        yield made


def lj(lab: Rack, *words: str, site: str = "site") -> Any:
    """What the operator's command on the web host prints as JSON."""
    command = ("/opt/lj/runtime/current/bin/lj", "--site", f"/etc/lj/{site}.toml")
    run = lab.ssh("web1", *command, *words, "--json")
    assert run.returncode == 0, run.stdout + run.stderr
    return json.loads(run.stdout)


def running(lab: Rack, host: str) -> set[str]:
    """Services that run on a host."""
    status = lab.ssh(
        host, "/opt/lj/runtime/current/bin/supervisorctl -c /etc/lj/supervisord.conf status"
    )
    return set(re.findall(r"^(\S+)\s+RUNNING", status.stdout, re.MULTILINE))


def smoke(lab: Rack) -> None:
    """The site works for people."""
    run = lab.ssh("web1", "/opt/lj/runtime/current/bin/lj --site /etc/lj/site.toml smoke")
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_host_has_its_part_and_the_site_works(lab: Rack) -> None:
    smoke(lab)
    assert running(lab, "db-global") == {"mysql-global"}
    for number in (1, 2):
        assert running(lab, f"db-cluster{number}") == {f"mysql-cluster{number}", "mover-host"}
    assert running(lab, "web1") == {
        *("journal", "memcached", "perlbal"),
        *("mover-coordinator", "mover-worker"),
    }


def test_a_cluster_is_added_and_users_move_to_it(lab: Rack) -> None:
    more = lab.folder / "more.json"
    hosts = {"mysql": {"hosts": {"db-cluster3": ADDED}}}
    more.write_text(json.dumps({"all": {"children": {"kit": {"children": hosts}}}}))
    run = lab.play("playbooks/add_user_cluster.yml", "-i", more, cluster=3)
    assert run.returncode == 0, run.stdout
    assert running(lab, "db-cluster3") == {"mysql-cluster3", "mover-host"}
    smoke(lab)
    name = lj(lab, "users", "list")[0]["name"]
    lj(lab, "users", "move", name, "3", "--wait", site="site-mover")
    assert lj(lab, "users", "show", name)["cluster"] == 3
    smoke(lab)
