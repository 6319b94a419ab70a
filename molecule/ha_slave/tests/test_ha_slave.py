"""A pair as a slave: it follows a server and has a slave, whichever of its hosts holds it.

After `make lab-up SCENARIO=ha_slave`.  A client commits to the source all the time and keeps a
ledger; in the end the pair and its own slave have every commit, and both replicate.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.ha_pair import (
    HOSTS,
    PATIENCE_S,
    RESOURCE,
    SLAVE,
    SOURCE,
    Ledger,
    Pair,
    peer_of,
)
from tests.support.process import wait_for
from tools.lab import control

pytestmark = [pytest.mark.lab, pytest.mark.timeout(7200)]
STATE = os.environ.get("LJ_LAB_STATE", str(control.CHECKOUT / "var/lab/ha_slave"))


@pytest.fixture(scope="module")
def pair() -> Pair:
    pair = Pair(control.State(Path(STATE)), source=SOURCE)
    if pair.state.keeper() is None:
        pytest.fail("there is no lab: make lab-up SCENARIO=ha_slave")
    pair.wait_until_whole()
    return pair


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


def goes_on(pair: Pair, host: str, ledger: Ledger) -> None:
    """Wait until a host has the group and its server what is committed from now on."""
    wait_for(
        lambda: pair.holders() == [host], f"{host} to take over", timeout_s=PATIENCE_S, every_s=3
    )
    ledger.wait_for_next()
    wanted = int(pair.sums(SOURCE).split()[0])
    for slave in (host, SLAVE):
        pair.catch_up(slave, wanted)


def test_it_follows_where_it_is_held(pair: Pair) -> None:
    holder = pair.wait_until_whole()
    pair.follows(holder)
    assert pair.sql(holder, "SELECT @@global.read_only") == "1"
    lj = Path(sys.executable).parent / "lj"
    done = subprocess.run(
        [lj, "ha", "status", "-i", "inventory/ha_slave", "--json"],
        cwd=control.CHECKOUT,
        env={**os.environ, "LJ_LAB_STATE": str(pair.state.folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    slaves = [row["slave"] for row in json.loads(done.stdout)["slaves"]]
    assert slaves == [f"{holder}/{RESOURCE}", f"{SLAVE}/{RESOURCE}"]


def test_it_follows_on_after_switchovers(pair: Pair, file: Path) -> None:
    with pair.commits(file) as ledger:
        for _ in HOSTS:  # there and back
            holder = pair.wait_until_whole()
            done = pair.play("switchover", "-e", f"pair={RESOURCE}")
            assert done.returncode == 0, done.stdout
            goes_on(pair, peer_of(holder), ledger)


def test_it_follows_on_when_the_holder_s_power_is_pulled(pair: Pair, file: Path) -> None:
    with pair.commits(file) as ledger:
        for _ in HOSTS:
            holder = pair.wait_until_whole()
            ledger.wait_for_next()
            control.ask(pair.state, "pull", holder)
            goes_on(pair, peer_of(holder), ledger)


def test_it_catches_up_when_the_source_was_away(pair: Pair, file: Path) -> None:
    with pair.commits(file) as ledger:
        control.ask(pair.state, "pull", SOURCE)
        control.ask(pair.state, "on", SOURCE)
        control.wait_for_hosts(pair.state, [SOURCE])
        ledger.wait_for_next()
        goes_on(pair, pair.wait_until_whole(), ledger)
