"""What the role `common` writes is what the programs that read it accept, and stays."""

from __future__ import annotations

import configparser
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


def played(host: Sandbox, name: str, script: str) -> None:
    """Have a program in the place of the machine's."""
    host.run("tee", f"/usr/sbin/{name}", input=f"#!/bin/sh\n{script}\n")
    host.run("chmod", "+x", f"/usr/sbin/{name}")


RUNS = "6.1.0-22-amd64"
KERNELS = {
    # What is done to /boot, by what it means; files are as old as dpkg leaves them.
    "nothing new": f"rm -f /boot/* /run/reboot-required; touch -d 2024-06-21 /boot/vmlinuz-{RUNS}",
    "an older one, that came later": "touch /boot/vmlinuz-6.1.0-9-amd64 /boot/System.map-7.0",
    "what is no kernel": f"touch /boot/vmlinuz-{RUNS}.old /boot/vmlinuz-6.1.0-23-amd64.dpkg-new",
    "as it was made": "echo 6.1.94-1 > /boot/made",
    "made anew under its name": "echo 6.1.94-2 > /boot/made",
    "a newer one, that was made earlier": (
        "rm /boot/made; touch -d 2020-01-01 /boot/vmlinuz-6.1.0-23-amd64"
    ),
    "what a package asks for": "rm /boot/vmlinuz-*; touch /run/reboot-required",
}
BOOT = {
    "made anew under its name",
    "a newer one, that was made earlier",
    "what a package asks for",
}


def test_a_host_boots_where_a_kernel_waits_for_it(tmp_path: Path) -> None:
    tasks: list[dict[str, Any]] = []
    for name, script in KERNELS.items():
        said = f"{{{{ (said | default([])) + [('{name}', ansible_failed_result.msg)] }}}}"
        tasks += [
            {"ansible.builtin.command": {"argv": ["sh", "-c", script]}, "check_mode": False},
            {
                "block": [role("common", "upgrade", common_upgrade_update=False)],
                "rescue": [{"ansible.builtin.set_fact": {"said": said}}],
            },
        ]
    file = tmp_path / "said"
    keep = {"content": "{{ said | to_json }}", "dest": str(file), "mode": "0600"}
    # This machine is not booted in any case: Ansible refuses that where it runs itself.
    tasks += [{"ansible.builtin.copy": keep, "check_mode": False}]
    with sandbox(tmp_path) as host:
        for folder in ("/boot", "/run"):
            host.run("mount", "-t", "tmpfs", "lj-sandbox", folder)
        version = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.94-1 (2024-06-21)"
        played(
            host,
            "uname",
            f"case $1 in -r) echo {RUNS};; -v) echo '{version}';; *) /usr/bin/uname \"$@\";; esac",
        )
        played(
            host, "dpkg-query", f"case $4 in linux-image-{RUNS}) exec cat /boot/made;; esac; exit 1"
        )
        played(host, "apt-get", "echo '0 upgraded, 0 newly installed, 0 to remove'")
        run = host.play(tasks, "--check")
    assert run.exit_code == 0, run.output
    told = dict(json.loads(file.read_text()))
    assert set(told) == BOOT, told
    assert all("would reboot the control node" in why for why in told.values()), told


PACKAGE = """Package: {0}
Version: 1
Architecture: all
Filename: ./{0}.deb
Size: 1
SHA256: 0000000000000000000000000000000000000000000000000000000000000000
"""


def test_a_host_that_has_nothing_yet_can_be_checked(tmp_path: Path) -> None:
    with sandbox(tmp_path, common_time_sources=["server 10.0.0.1 iburst"]) as fresh:
        # Nothing is installed, and there is a source for what is to be.
        fresh.run("tee", "/var/lib/dpkg/status", input="")
        fresh.run("rm", "-rf", "/etc/chrony", "/etc/apt/sources.list.d")
        packages = [PACKAGE.format(name) for name in ("chrony", "kmod", "procps")]
        fresh.run("mkdir", "-p", "/srv/packages", "/var/lib/apt/cache/archives/partial")
        fresh.run("tee", "/srv/packages/Packages", input="\n".join(packages))
        source = "deb [trusted=yes] file:/srv/packages ./\n"
        fresh.run("tee", "/etc/apt/sources.list", input=source)
        fresh.run("tee", "/etc/apt/apt.conf.d/99own", input='Dir::Cache "/var/lib/apt/cache";\n')
        fresh.run("apt-get", "update")
        # As systemd answers who asks for a unit that is not there.
        absent = "echo LoadState=not-found; echo ActiveState=inactive"
        played(fresh, "systemctl", f"case $1 in show) {absent};; *) exit 1;; esac")
        told = fresh.play(
            [role("common")], "--check", "--diff", "-e", '{"common_has_systemd": true}'
        )
        assert told.exit_code == 0, told.output
        assert "common : Install the time service" in told.changed_tasks
        assert "server 10.0.0.1 iburst" in told.output
