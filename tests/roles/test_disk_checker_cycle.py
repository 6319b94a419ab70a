"""The whole way from the desk: playbook, ssh, power switch, reports, gate; one disk lies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.disk_programs import CHECKER
from tests.support.disk_rig import Rig, command
from tests.support.process import accepts, free_port, spawn
from tests.support.switchboard import switchboard

pytestmark = pytest.mark.roles

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@pytest.fixture
def ssh(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment in which `ssh box1` is this machine, by a server and keys of its own."""
    home, port = tmp_path / "home", free_port()
    (home / ".ssh").mkdir(parents=True)
    for name in ("host", "client"):
        command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name)
    (home / ".ssh/config").write_text(
        f"Host box1\n HostName 127.0.0.1\n Port {port}\n User root\n"
        f" IdentityFile {tmp_path}/client\n IdentitiesOnly yes\n"
        f" StrictHostKeyChecking accept-new\n UserKnownHostsFile {tmp_path}/known\n"
    )
    # The program looks for its configuration in the home of the user's account.
    program = home / "ssh"
    program.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {home}/.ssh/config "$@"\n')
    program.chmod(0o755)
    settings = {
        "HostKey": tmp_path / "host",
        "AuthorizedKeysFile": tmp_path / "client.pub",
        "StrictModes": "no",
        "UsePAM": "no",
        "PidFile": "none",
        "PermitRootLogin": "yes",
    }
    Path("/run/sshd").mkdir(exist_ok=True)  # where it goes before it knows who comes
    server = [
        *("/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-p", str(port)),
        *("-o", "ListenAddress=127.0.0.1"),
        *(f"-o{name}={value}" for name, value in settings.items()),
    ]
    with spawn(server, tmp_path / "sshd.log", ready=lambda: accepts(port)):
        yield {**os.environ, "HOME": str(home), "PATH": f"{home}:{os.environ['PATH']}"}


def test_a_host_with_an_honest_and_a_lying_disk(tmp_path: Path, ssh: dict[str, str]) -> None:
    control = tmp_path / "control"
    targets, off, on = [], "", ""
    with ExitStack() as stack:
        for name, mode in (("honest", "writeback"), ("lying", "unsafe")):
            folder = tmp_path / name
            folder.mkdir()
            rig = stack.enter_context(Rig(folder, 48 << 20))
            rig.power_on()
            rig.make_fs("ext4")
            # A file that exists before: then what a liar loses are blocks, not the file.
            target = rig.mount() / "target"
            target.write_bytes(bytes(4 << 20))
            rig.unmount()
            rig.restart(mode)
            rig.mount()
            state = control / "disk-checker/box1"
            switches = stack.enter_context(switchboard(rig, folder, mode, state))
            off, on = (
                f"{so_far} case $TARGET in {target}) {switch};; esac;"
                for so_far, switch in zip((off, on), switches, strict=True)
            )
            options = ["--block-size", "4k"]
            targets.append({"path": str(target), "size": "4M", "options": options})
        host = {
            "ansible_python_interpreter": sys.executable,
            "lj_control_dir": str(control),
            "disk_checker_control_program": str(CHECKER),
            "disk_checker_program": str(CHECKER),
            "disk_checker_same_boot": True,
            "disk_checker_cycles": 1,
            "disk_checker_write_seconds": 0.3,
            "disk_checker_power_off": off,
            "disk_checker_power_on": on,
            "disk_checker_targets": targets,
        }
        inventory = tmp_path / "hosts.json"
        inventory.write_text(json.dumps({"all": {"hosts": {"box1": host}}}))
        roles = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        roles["ANSIBLE_ROLES_PATH"] = str(ROOT / "roles")

        def play(*words: str | Path) -> subprocess.CompletedProcess[str]:
            return run(BIN / "ansible-playbook", "-i", inventory, *words)

        def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
            return subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=ssh | roles)

        done = play(ROOT / "playbooks/disk_check.yml")
        said = done.stdout + done.stderr
        assert done.returncode != 0, said
        assert "box1 must not hold data" in said, said
        reports = control / "disk-checker/reports/box1"
        verdicts = {
            report["reports"][0]["plan"]["target"]: report["verdict"]
            for report in (json.loads(path.read_text()) for path in reports.glob("*.json"))
        }
        paths = [target["path"] for target in targets]
        assert verdicts == {paths[0]: "honest", paths[1]: "lying"}, said

        # Whoever puts data on the honest disk may; on the other only who insists.
        book = tmp_path / "storage.yml"
        role = {"name": "disk_checker", "tasks_from": "refuse"}
        tasks = [{"ansible.builtin.include_role": role}]
        book.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
        assert run(CHECKER, "gate", reports, paths[0]).returncode == 0
        assert run(CHECKER, "gate", reports, paths[1]).returncode == 1
        assert play(book).returncode != 0
        assert play(book, "-e", "disk_checker_override=true").returncode == 0

        # The same without a playbook, by the kit's own command.
        words = ["--same-boot", "--write-seconds", "0.3", "--block-size", "4k", "--state", state]
        words += ["--program", CHECKER, "--power-off", off, "--power-on", on]
        checked = run(BIN / "lj", "disks", "check", "--victim", "box1", *words, paths[0], "4M")
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert "1 of 1 cycles clean" in checked.stdout
        listed = run(BIN / "lj", "disks", "reports", reports)
        assert listed.returncode == 1, "one of them lies"
        assert "lying" in listed.stdout
        assert "honest" in listed.stdout
