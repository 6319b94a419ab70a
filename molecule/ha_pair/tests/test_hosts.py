"""What the roles have left on the hosts of `make lab-up`, role by role, by testinfra."""

from __future__ import annotations

import pytest
import testinfra
from testinfra.host import Host

from tests.support.ha_pair import HOSTS, MOUNT, RESOURCE, SLAVE, Pair, peer_of

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1200)]
SECRETS = (
    "/etc/ha.d/authkeys",
    "/etc/ha.d/ha.cf",
    "/etc/ha.d/lj-shoot",
    "/etc/ha.d/lj-shoot-parameters",
    f"/etc/drbd.d/{RESOURCE}.res",
)
PROGRAMS = (
    *(f"/etc/ha.d/resource.d/{name}" for name in ("lj_disk", "lj_mount", "lj_unit", "lj_address")),
    *(f"/usr/local/sbin/{name}" for name in ("lj-hand-over", "lj-shoot", "lj-fence-peer")),
    "/usr/lib/stonith/plugins/external/lj_shoot",
    "/usr/local/lib/lj-ha/drbdadm",
)


def on(pair: Pair, name: str) -> Host:
    """A host, as testinfra sees it."""
    return testinfra.get_host(f"ssh://{name}", ssh_config=str(pair.state.ssh_config))


@pytest.mark.parametrize("name", HOSTS)
def test_common(pair: Pair, name: str) -> None:
    host = on(pair, name)
    time = host.service("chrony")
    assert time.is_running
    assert time.is_enabled
    assert host.sysctl("kernel.panic") == 10
    assert host.sysctl("vm.swappiness") == 1
    assert host.service("lj-watchdog").is_enabled
    assert host.file("/sys/class/watchdog/watchdog0/state").content_string == "active\n"
    limit = host.run("systemctl show --property=DefaultLimitNOFILE --value").stdout
    assert limit.strip() == "65536"


@pytest.mark.parametrize("name", [*HOSTS, SLAVE])
def test_firewall(pair: Pair, name: str) -> None:
    host = on(pair, name)
    assert host.service("lj-firewall").is_enabled
    rules = host.run("nft list table inet lj").stdout
    assert "policy drop" in rules
    assert ('comment "mirror"' in rules) == (name != SLAVE)


@pytest.mark.parametrize("name", HOSTS)
def test_drbd(pair: Pair, name: str) -> None:
    host = on(pair, name)
    assert host.package("drbd-utils").is_installed
    assert host.service("drbd").is_enabled
    timer = host.service(f"lj-drbd-verify-{RESOURCE}.timer")
    assert timer.is_running
    assert timer.is_enabled
    # What the kernel has, without what DRBD does where nothing is said: protocol C, detach.
    used = " ".join(host.run("drbdsetup show %s", RESOURCE).stdout.split())
    for wanted in ("fencing resource-and-stonith;", 'csums-alg "sha256";', 'verify-alg "sha256";'):
        assert wanted in used
    assert "protocol" not in used
    assert "on-io-error" not in used


@pytest.mark.parametrize("name", HOSTS)
def test_heartbeat(pair: Pair, name: str) -> None:
    host = on(pair, name)
    for service in ("heartbeat", "logd"):
        assert host.service(service).is_running
        assert host.service(service).is_enabled
    names = [process.comm for process in host.process.filter(user="root")]
    names += [process.comm for process in host.process.filter(user="hacluster")]
    assert {"heartbeat", "dopd", "ipfail"} <= set(names)
    for path in SECRETS:
        assert host.file(path).mode == 0o600, path
        assert host.file(path).user == "root"
    for path in PROGRAMS:
        assert host.file(path).mode == 0o755, path
    assert host.run("lj-shoot status %s", peer_of(name)).succeeded


@pytest.mark.parametrize("name", HOSTS)
def test_mysql_of_a_pair(pair: Pair, name: str) -> None:
    host = on(pair, name)
    holds = pair.holds(name)
    server = host.service(f"lj-mysql-{RESOURCE}")
    assert server.is_running == holds
    assert host.service(f"lj-mysql-watch-{RESOURCE}").is_running == holds
    # Heartbeat starts it, and nobody else.
    assert host.run("systemctl is-enabled lj-mysql-%s", RESOURCE).stdout == "static\n"
    assert host.file(f"/etc/lj/mysql-{RESOURCE}.cnf").mode == 0o640
    mounted = host.mount_point(MOUNT)
    assert mounted.exists == holds
    if holds:
        assert mounted.device == "/dev/drbd0"
        assert mounted.filesystem == "ext4"
        assert "noatime" in mounted.options
        assert host.socket("tcp://0.0.0.0:3306").is_listening


def test_mysql_replication(pair: Pair) -> None:
    host = on(pair, SLAVE)
    assert host.service(f"lj-mysql-{RESOURCE}").is_running
    assert host.service(f"lj-mysql-{RESOURCE}").is_enabled
    assert pair.sql(SLAVE, "SELECT @@global.read_only") == "1"
    pair.follows(SLAVE)
