"""What tests ask of a lab's hosts, and of playbooks that are run on them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support.box import BIN, CHECKOUT
from tools.lab import control


def said(state: control.State, host: str, words: str) -> str:
    """What a command prints on a host.

    Raises:
        AssertionError: it failed; the message holds what it said.
    """
    run = control.ssh(state, host, words, seconds=300)
    assert run.returncode == 0, f"{host}: {words}: {run.stdout}{run.stderr}"
    return run.stdout.strip()


def play(
    state: control.State, inventory: str, playbook: str, *words: str | Path
) -> subprocess.CompletedProcess[str]:
    """Run a playbook on a lab.

    Args:
        state: the lab.
        inventory: a folder of `inventory/`.
        playbook: its name in `playbooks/`, without the ending.
        words: more of the command line.
    """
    return subprocess.run(
        [
            *(BIN / "ansible-playbook", "-i", f"inventory/{inventory}"),
            *(f"playbooks/{playbook}.yml", *words),
        ],
        cwd=CHECKOUT,
        env={
            **os.environ,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "LJ_LAB_STATE": str(state.folder),
            "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
