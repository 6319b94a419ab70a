"""A module of a role, run by itself: as Ansible does it, but on this machine and at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def answer(module: Path, scratch: Path, check: bool = False, **arguments: Any) -> dict[str, Any]:
    """What a module answers; with `check` it only tells what it would do.

    Raises:
        AssertionError: it failed; the message holds what it said.
    """
    file = scratch / "arguments.json"
    own = {"_ansible_check_mode": check, "_ansible_remote_tmp": str(scratch / "modules")}
    file.write_text(json.dumps({"ANSIBLE_MODULE_ARGS": {**arguments, **own}}))
    run = subprocess.run(
        [sys.executable, module, file], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    answered = json.loads(run.stdout)
    assert isinstance(answered, dict)
    return answered
