"""What `make` does about labs, and about shell scripts, the lab's among them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.box import CHECKOUT

pytestmark = pytest.mark.unit
PRINT = "printed: ; @printf '%s\\n' $(SHELL_SCRIPTS)"


def shell_scripts(checkout: Path) -> list[str]:
    """What `make lint-shell` checks in a folder."""
    words = ["make", "-f", CHECKOUT / "Makefile", "--eval", PRINT, "printed"]
    alone = {k: v for k, v in os.environ.items() if k not in {"MAKEFLAGS", "MAKELEVEL"}}
    run = subprocess.run(words, cwd=checkout, env=alone, capture_output=True, text=True, check=True)
    assert run.stderr == ""
    return sorted(str(Path(line)) for line in run.stdout.splitlines())


def test_shell_scripts_are_known_by_their_first_line(tmp_path: Path) -> None:
    there = {
        "bash": "#!/bin/bash\n",
        "sh": "#! /bin/sh -e\n",
        "roles/new/files/lj-new": "#!/usr/bin/env bash\n",
        ".ci/run": "#!/bin/dash\n",
    }
    not_there = {
        "python": "#!/usr/bin/python3\n",
        "fish": "#!/usr/bin/fish\n",
        "text": "A script begins with\n#!/bin/sh\n",
        "empty": "",
        "roles/new/templates/script.j2": "#!/bin/bash\n{{ it }}\n",
        ".venv/bin/activate": "#!/bin/sh\n",
        "var/etc/rc": "#!/bin/sh\n",
        ".git/hooks/pre-commit": "#!/bin/sh\n",
    }
    for name, text in {**there, **not_there}.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert shell_scripts(tmp_path) == sorted(there)


def test_the_kit_s_own_scripts_are_among_them() -> None:
    found = set(shell_scripts(CHECKOUT))
    assert {
        *(".ci/run", "tools/lab/customize.sh", "tools/lab/stonith/lj_lab"),
        *("roles/firewall/files/lj-firewall", "roles/heartbeat/files/lj_unit"),
    } <= found


@pytest.mark.parametrize("scenario", ["ha_pair", "ha_slave", "lab", "storage"])
def test_a_scenario_says_how_it_alone_is_ended(scenario: str) -> None:
    text = (CHECKOUT / f"molecule/{scenario}/molecule.yml").read_text()
    head = [line for line in text.splitlines() if line.startswith("#")]
    (line,) = (line for line in head if "lab-down" in line)
    assert f"make lab-up SCENARIO={scenario} " in line
    assert line.endswith(f" make lab-down SCENARIO={scenario}")
