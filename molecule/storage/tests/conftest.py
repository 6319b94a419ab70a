"""The lab whose host is looked at, and whose disks are pulled out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tools.lab import control

STATE = os.environ.get("LJ_LAB_STATE", str(control.CHECKOUT / "var/lab/storage"))


@pytest.fixture(scope="session")
def lab() -> control.State:
    state = control.State(Path(STATE))
    if state.keeper() is None:
        pytest.fail("there is no lab: make lab-up SCENARIO=storage")
    control.wait_for_hosts(state)
    return state
