"""What the role `common` writes is what the programs that read it accept, and stays."""

from __future__ import annotations

import configparser
import subprocess
from collections.abc import Iterator

import pytest
import yaml

from tests.support.box import CHECKOUT
from tests.support.sandbox import Sandbox, role, sandbox

pytestmark = [pytest.mark.roles, pytest.mark.timeout(900)]

# Those of a network, which a sandbox has of its own.
NET = {"net.ipv4.tcp_keepalive_time": 301, "net.core.somaxconn": 4095}
TASKS = [role("common", "preflight"), role("common")]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    given = {
        "common_sysctls": NET,
        "common_time_sources": ["server 10.0.0.1 iburst", "server 10.0.0.2 iburst"],
        "common_time_allow": ["10.0.0.0/16"],
    }
    with sandbox(tmp_path_factory.mktemp("common"), **given) as made:
        yield made


def test_it_is_made_once_and_accepted_by_those_who_read_it(host: Sandbox) -> None:
    told = host.play(TASKS, "--check", "--diff")
    assert told.exit_code == 0, told.output
    assert "common : Configure the time service" in told.changed_tasks
    assert host.run("test", "-e", "/etc/sysctl.d/90-lj.conf", check=False).returncode != 0

    made = host.play(TASKS)
    assert made.exit_code == 0, made.output
    time = host.run("chronyd", "-p", "-f", "/etc/chrony/chrony.conf").stdout.splitlines()
    assert "server 10.0.0.1 iburst" in time
    assert "allow 10.0.0.0/16" in time
    names = list(NET)
    assert host.run("sysctl", "-n", *names).stdout.split() == [str(NET[name]) for name in names]
    host.run("sysctl", "--dry-run", "--load=/etc/sysctl.d/90-lj.conf")
    systemd = configparser.ConfigParser()
    systemd.read_string(host.read("/etc/systemd/system.conf.d/90-lj.conf"))
    manager = dict(systemd["Manager"])
    assert manager["runtimewatchdogsec"] == "30"
    assert manager["defaultlimitnofile"] == "65536"
    limits = [line.split() for line in host.read("/etc/security/limits.d/90-lj.conf").splitlines()]
    assert ["*", "-", "nofile", "65536"] in limits
    assert ["root", "-", "core", "0"] in limits

    # What somebody changed is told and set right, what nobody wants any more is taken out, and
    # nothing else is touched.
    host.run("sysctl", "-w", "net.core.somaxconn=17")
    told = host.play(TASKS, "--check", "--diff")
    assert told.changed_tasks == ["common : Set the kernel"], told.output
    mended = host.play(TASKS, common_sysctls={"net.core.somaxconn": 4095})
    assert mended.changed_tasks == [
        "common : Set the kernel",
        "common : Take settings out that are wanted no more",
    ], mended.output
    assert host.run("sysctl", "-n", "net.core.somaxconn").stdout == "4095\n"
    assert host.read("/etc/sysctl.d/90-lj.conf").split() == ["net.core.somaxconn=4095"]


def test_what_can_not_work_is_refused(host: Sandbox) -> None:
    before = host.read("/etc/chrony/chrony.conf")
    said = host.refusals(
        role("common", "preflight", common_more_sysctls={"net.ipv4.no_such": 1}),
        role("common", "preflight", common_watchdog_module="no_such_wdt"),
        role("common", "preflight", common_time_sources=[]),
        role("common", common_time_sources=["sever 10.0.0.1"]),
    )
    assert "this kernel has no sysctl net.ipv4.no_such: take it out" in said[0]
    assert "this kernel has no module no_such_wdt: set common_watchdog_module" in said[1]
    assert "common_time_sources is empty: name a time server" in said[2]
    assert "failed to validate" in said[3]
    assert host.read("/etc/chrony/chrony.conf") == before


def test_the_settings_that_come_with_it_are_known_to_kernels() -> None:
    defaults = yaml.safe_load((CHECKOUT / "roles/common/defaults/main.yml").read_text())
    kept = "\n".join(f"{name} = {value}" for name, value in defaults["common_sysctls"].items())
    # Not in a host's network of its own, which has no net.core.wmem_max; nothing is set.
    words = ["/usr/sbin/sysctl", "--dry-run", "--load=-"]
    dry = subprocess.run(words, input=kept + "\n", capture_output=True, text=True, check=False)
    assert len(dry.stdout.splitlines()) == len(defaults["common_sysctls"])
    assert dry.stderr == ""
