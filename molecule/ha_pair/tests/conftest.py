"""The lab that the proofs are done in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.ha_pair import Pair
from tools.lab import control

STATE = os.environ.get("LJ_LAB_STATE", str(control.CHECKOUT / "var/lab/ha_pair"))


@pytest.fixture(scope="session")
def pair() -> Pair:
    pair = Pair(control.State(Path(STATE)))
    if pair.state.keeper() is None:
        pytest.fail("there is no lab: make lab-up SCENARIO=ha_pair")
    pair.wait_until_whole()
    return pair


@pytest.fixture
def same_on_both_sides(pair: Pair) -> Iterator[None]:
    """After whatever a test did, a comparison finds no block that differs."""
    yield
    assert pair.differ(pair.wait_until_whole()) == 0


@pytest.fixture(scope="session")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ledger") / "ledger"


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str, float], None]:
    """Prints and records a measured time, for docs/benchmarks.md."""

    def told(what: str, seconds: float) -> None:
        record_property(what, round(seconds, 1))
        print(f"{what}: {seconds:.1f} s")

    return told
