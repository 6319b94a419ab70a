"""`inventory/lab` on containers of the lab, and a cluster that is added to it: systemd and all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.box import BIN, CHECKOUT
from tests.support.lab import play, said
from tests.support.process import wait_for
from tools.lab import control
from tools.lab.plan import plan_of, read_inventory

pytestmark = [pytest.mark.roles, pytest.mark.timeout(1200)]

ADDED = {
    "ansible_host": "10.77.0.24",
    "lab_kind": "container",
    "mysql_instances": [{"role": "cluster3"}],
}
SLAVE = {
    "mysql_instances": [
        *(
            {"role": "cluster3"},
            {"role": "cluster1", "replica": True, "server_id": 12, "port": 3307},
        ),
    ],
    "mysql_replication_sources": {"cluster1": "sources"},
    "mysql_backup_calendar": "daily",
}
"""A slave of cluster1 beside it."""


@pytest.fixture(scope="module")
def lab(short_directory: Path, wheels: None) -> Iterator[control.State]:
    """The lab's hosts after `site.yml`, and db-cluster3, on which nothing was done yet."""
    if os.geteuid() != 0:
        pytest.fail("labs need root: run the tests as root, or -m 'not roles'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{BIN}:{os.environ['PATH']}")
        known = read_inventory(CHECKOUT / "inventory/lab").hosts
    hosts: dict[str, Any] = {
        host.name: {"lab_kind": host.kind, "ansible_host": host.address} for host in known
    }
    plan = plan_of({"_meta": {"hostvars": {**hosts, "db-cluster3": ADDED}}})
    state = control.State(short_directory / "lab")
    control.start(state, plan, CHECKOUT / "var/cache/lab")
    try:
        control.wait_for_hosts(state)
        run = play(state, "lab", "site")
        assert run.returncode == 0, run.stdout
        yield state
    finally:
        control.end(state)


def lj(lab: control.State, *words: str, site: str = "site") -> Any:
    """What the operator's command on the web host prints as JSON."""
    command = f"/opt/lj/runtime/current/bin/lj --site /etc/lj/{site}.toml"
    return json.loads(said(lab, "web1", f"{command} {' '.join(words)} --json"))


def running(lab: control.State, host: str) -> set[str]:
    """Services of the kit that run on a host."""
    words = "systemctl list-units --plain --no-legend --state=running 'lj-*.service'"
    lines = said(lab, host, words).splitlines()
    return {line.split()[0].removeprefix("lj-").removesuffix(".service") for line in lines}


def smoke(lab: control.State) -> None:
    """The site works for people."""
    said(lab, "web1", "/opt/lj/runtime/current/bin/lj --site /etc/lj/site.toml smoke")


def test_every_host_has_its_part_and_the_site_works(lab: control.State) -> None:
    smoke(lab)
    assert running(lab, "db-global") == {"mysql-global"}
    for number in (1, 2):
        assert running(lab, f"db-cluster{number}") == {f"mysql-cluster{number}", "mover-host"}
    assert running(lab, "web1") == {
        *("journal", "memcached", "perlbal"),
        *("mover-coordinator", "mover-worker"),
    }


def test_services_come_back_by_themselves(lab: control.State) -> None:
    for host in ("db-cluster1", "web1"):
        before = running(lab, host)
        control.ask(lab, "reset", host)
        control.wait_for_hosts(lab, [host])
        wait_for(
            lambda host=host, before=before: running(lab, host) == before,  # type: ignore[misc]
            f"the services of {host}",
            timeout_s=120,
        )
        assert said(lab, host, "systemctl --failed --no-legend") == ""
    said(lab, "web1", "pkill --signal KILL --full 'lj.* journal serve'")
    wait_for(lambda: "journal" in running(lab, "web1"), "the site to be there again")
    smoke(lab)


def test_a_cluster_is_added_and_users_move_to_it(lab: control.State) -> None:
    more = lab.folder / "more.json"
    hosts = {"mysql": {"hosts": {"db-cluster3": ADDED}}}
    more.write_text(json.dumps({"all": {"children": {"kit": {"children": hosts}}}}))
    run = play(lab, "lab", "add_user_cluster", "-i", more, "-e", "cluster=3")
    assert run.returncode == 0, run.stdout
    assert running(lab, "db-cluster3") == {"mysql-cluster3", "mover-host"}
    smoke(lab)
    name = lj(lab, "users", "list")[0]["name"]
    lj(lab, "users", "move", name, "3", "--wait", site="site-mover")
    assert lj(lab, "users", "show", name)["cluster"] == 3
    smoke(lab)


def test_a_slave_is_backed_up_by_its_timer(lab: control.State) -> None:
    more = lab.folder / "slave.json"
    groups = {
        "kit": {"children": {"mysql": {"hosts": {"db-cluster3": ADDED | SLAVE}}}},
        "sources": {"hosts": {"db-cluster1": {}}},
    }
    more.write_text(json.dumps({"all": {"children": groups}}))
    tags = "mysql,mysql_replication,mysql_backup"
    words = ("-i", more, "--limit", "db-cluster3", "--tags", tags)
    bad = play(lab, "lab", "site", *words, "-e", "mysql_backup_calendar=nightly")
    assert "mysql_backup_calendar nightly is no calendar of systemd" in " ".join(bad.stdout.split())
    run = play(lab, "lab", "site", *words)
    assert run.returncode == 0, run.stdout

    unit, folder = "lj-mysql-backup-cluster1", "/var/backups/lj-mysql/cluster1"
    timers = "systemctl list-timers --no-legend"
    assert f"{unit}.service" in said(lab, "db-cluster3", timers)
    said(lab, "db-cluster3", f"systemctl start {unit}.service")
    assert "a server came up on it" in said(lab, "db-cluster3", f"journalctl -u {unit}.service")
    name = said(lab, "db-cluster3", f"cd {folder} && ls -d 2*Z && cat 2*Z/*_slave_info")
    assert "gtid_slave_pos" in name

    again = play(lab, "lab", "site", *words)
    assert "changed=0" in again.stdout, again.stdout
    gone = play(lab, "lab", "site", *words, "-e", "mysql_backup_calendar=")
    assert gone.returncode == 0, gone.stdout
    assert unit not in said(lab, "db-cluster3", timers)
