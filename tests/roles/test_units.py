"""The systemd units that the roles define, as systemd itself reads them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.box import BIN, CHECKOUT

pytestmark = [pytest.mark.roles]

HOST = {
    "ansible_python_interpreter": sys.executable,
    "ansible_facts": {"service_mgr": "systemd", "effective_user_id": 0, "fqdn": "web1.example.org"},
    "lj_user": "lj",
    "lj_group": "lj",
    "lj_data_dir": "/var/lib/lj",
    "lj_etc_dir": "/etc/lj",
    "lj_run_dir": "/run/lj",
    "lj_log_dir": "/var/log/lj",
    "lj_secrets_dir": "/root/secrets",
    "lj_environment": {},
    "database_site_file": "/etc/lj/site.toml",
    "database_mover_site_file": "/etc/lj/mover.toml",
    "service_revision": "1",
}
AWKWARD = ["/usr/bin/true", "a b", 'say "no"', "$HOME", "100%", "back\\slash"]


def services() -> dict[str, dict[str, Any]]:
    """The variables with which roles include ``service``; by role and task file."""
    found = {}
    for path in sorted((CHECKOUT / "roles").glob("*/tasks/*.yml")):
        if path.parts[-3] == "mysql":
            continue  # its instances are told by the inventory
        for task in yaml.safe_load(path.read_text()) or []:
            included = task.get("ansible.builtin.include_role", {})
            if included.get("name") == "service" and "tasks_from" not in included:
                found[f"{path.parents[1].name}-{path.stem}"] = task["vars"]
    return found


def units(folder: Path, runtime: Path, tasks: dict[str, dict[str, Any]]) -> dict[str, Path]:
    """Have Ansible write the unit of each; gives where."""
    roles = CHECKOUT / "roles"
    files = sorted([*roles.glob("*/defaults/main.yml"), *roles.glob("*/vars/main.yml")])
    written = {name: folder / f"lj-{name}.service" for name in tasks}
    template = str(roles / "service/templates/unit.service.j2")
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars_files": [str(file) for file in files],
        "vars": {**HOST, "lj_runtime_dir": str(runtime)},
        "tasks": [
            {
                "name": name,
                "ansible.builtin.template": {
                    "src": template,
                    "dest": str(written[name]),
                    "mode": "0644",
                },
                "vars": variables,
            }
            for name, variables in tasks.items()
        ],
    }
    (folder / "play.json").write_text(json.dumps([play]))
    run = subprocess.run(
        [BIN / "ansible-playbook", "-i", "localhost,", folder / "play.json"],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        env={**os.environ, "ANSIBLE_HOME": str(folder), "ANSIBLE_INJECT_FACT_VARS": "False"},
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return written


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The units of all roles, and of one with an awkward command."""
    folder = tmp_path_factory.mktemp("units")
    runtime = folder / "opt"
    (runtime / "current/bin").mkdir(parents=True)
    for program in ("lj", "python"):
        (runtime / "current/bin" / program).symlink_to("/usr/bin/true")
    tasks = services()
    tasks["awkward"] = {
        "service_name": "awkward",
        "service_command": AWKWARD,
        "service_environment": {"ODD": '50% of "$HOME"'},
    }
    return units(folder, runtime, tasks)


def test_systemd_understands_every_unit(written: dict[str, Path]) -> None:
    assert {"gearmand-gearmand", "gearman_worker-worker", "journal-main"} <= written.keys()
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *written.values()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


def test_words_reach_the_program_as_they_are(written: dict[str, Path]) -> None:
    lines = written["awkward"].read_text().splitlines()
    [command] = [line for line in lines if line.startswith("ExecStart=")]
    words = shlex.split(command.removeprefix("ExecStart="))
    assert [word.replace("%%", "%").replace("$$", "$") for word in words] == AWKWARD
    assert 'Environment="ODD=50%% of \\"$HOME\\""' in lines


def test_what_they_may_not_do(written: dict[str, Path]) -> None:
    for name, path in written.items():
        text = path.read_text()
        assert "NoNewPrivileges=true" in text, name
        assert "ProtectSystem=strict" in text, name
        assert "User=lj\n" in text or name.startswith(("mysql", "memcached", "gearmand")), name
