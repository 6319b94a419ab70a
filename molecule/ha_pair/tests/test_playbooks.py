"""What an operator types, on the lab of `make lab-up`: playbooks, and `lj ha status`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.ha_pair import RESOURCE, Pair, peer_of
from tools.lab import control

pytestmark = [pytest.mark.lab, pytest.mark.timeout(7200)]
CHOSEN = ("-e", f"pair={RESOURCE}")


def test_status_tells_who_has_the_group(pair: Pair) -> None:
    holder = pair.wait_until_whole()
    lj = Path(sys.executable).parent / "lj"
    done = subprocess.run(
        [lj, "ha", "status", "-i", "inventory/ha_pair"],
        cwd=control.CHECKOUT,
        env={**os.environ, "LJ_LAB_STATE": str(pair.state.folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    line = next(line for line in done.stdout.splitlines() if RESOURCE in line)
    assert holder in line


def test_switchover(pair: Pair, file: Path, tell: Callable[[str, float], None]) -> None:
    holder = pair.wait_until_whole()
    with pair.commits(file) as ledger:
        started = ledger.wait_for_next()
        done = pair.play("switchover", *CHOSEN)
        assert done.returncode == 0, done.stdout + done.stderr
        ledger.wait_for_next()
        tell("switchover.yml", ledger.gap_s(started))
    assert pair.wait_until_whole() == peer_of(holder)
    pair.prove(file)


def test_switchover_refuses_while_the_peer_lacks_something(pair: Pair) -> None:
    holder = pair.wait_until_whole()
    pair.on(peer_of(holder), f"drbdadm disconnect {RESOURCE}")
    try:
        done = pair.play("switchover", *CHOSEN)
        assert done.returncode != 0
        assert "not UpToDate/UpToDate: wait until they are" in " ".join(done.stdout.split())
        assert pair.holders() == [holder]
    finally:
        pair.on(peer_of(holder), f"drbdadm connect {RESOURCE}")
    assert pair.wait_until_whole() == holder
