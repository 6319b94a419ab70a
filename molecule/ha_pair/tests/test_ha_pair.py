"""The proof that a pair loses nothing: `make lab-ha`, after `make lab-up`.

A client commits to the floating address all the time, and keeps a ledger.  Each test
does to the pair what its name says, waits until it is whole again, and compares: every
acknowledged commit is there, on the pair and on its slave, and one host is primary.
LAB_HA_ROUNDS says how often power is pulled and the group is handed over.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.ha_pair import HOSTS, RESOURCE, SLAVE, Ledger, Pair
from tests.support.process import wait_for
from tools.lab import control

pytestmark = [pytest.mark.lab, pytest.mark.timeout(7200)]
ROUNDS = int(os.environ.get("LAB_HA_ROUNDS", "20"))
STATE = os.environ.get("LJ_LAB_STATE", str(control.CHECKOUT / "var/lab/ha_pair"))
SERVER = "lj-mysql-cluster1.service"


@pytest.fixture(scope="module")
def pair() -> Pair:
    pair = Pair(control.State(Path(STATE)))
    if pair.state.keeper() is None:
        pytest.fail("there is no lab: make lab-up SCENARIO=ha_pair")
    pair.wait_until_whole()
    return pair


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ledger") / "ledger"


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str, float], None]:
    """Prints and records a measured time, for docs/benchmarks.md."""

    def told(what: str, seconds: float) -> None:
        record_property(what, round(seconds, 1))
        print(f"{what}: {seconds:.1f} s")

    return told


def peer_of(host: str) -> str:
    return HOSTS[1 - HOSTS.index(host)]


def moved(pair: Pair, ledger: Ledger, host: str) -> float:
    """Wait until the peer of `host` has the group and takes commits; when it did."""
    wait_for(
        lambda: pair.holders() == [peer_of(host)], "the peer to take over", timeout_s=900, every_s=3
    )
    return ledger.wait_for_next()


def test_what_the_roles_made(pair: Pair) -> None:
    holder = pair.wait_until_whole()
    spare = peer_of(holder)
    assert "/srv/cluster1" in pair.on(holder, "findmnt --noheadings /dev/drbd0")
    assert pair.maybe(spare, "findmnt --noheadings /dev/drbd0") == ""
    assert pair.on(holder, f"systemctl is-active {SERVER}") == "active"
    assert pair.maybe(spare, f"systemctl is-active {SERVER}") == "inactive"
    assert pair.maybe(spare, f"systemctl is-enabled {SERVER}") == "static"
    for host in HOSTS:
        secrets = "/etc/ha.d/authkeys /etc/ha.d/ha.cf /usr/local/sbin/lj-fence-peer"
        modes = pair.on(host, f"stat --format %a {secrets} /etc/drbd.d/cluster1.res").split()
        assert modes == ["600", "600", "700", "600"]
        words = pair.on(host, f"drbdadm dump {RESOURCE}").split()
        assert words[words.index("protocol") + 1] == "C;"
    assert pair.sql(SLAVE, "SELECT @@global.read_only") == "1"


def test_planned_switchovers(pair: Pair, file: Path, tell: Callable[[str, float], None]) -> None:
    for number in range(max(1, ROUNDS // 2)):
        holder = pair.wait_until_whole()
        with pair.commits(file) as ledger:
            started = ledger.wait_for_next()
            pair.on(holder, "/usr/share/heartbeat/hb_standby all")
            moved(pair, ledger, holder)
            tell(f"switchover {number + 1}", ledger.gap_s(started))
        pair.prove(file)


def test_power_of_the_primary_is_pulled(
    pair: Pair, file: Path, tell: Callable[[str, float], None]
) -> None:
    for number in range(ROUNDS):
        holder = pair.wait_until_whole()
        with pair.commits(file) as ledger:
            started = ledger.wait_for_next()
            control.ask(pair.state, "pull", holder)
            moved(pair, ledger, holder)
            tell(f"power pulled {number + 1}", ledger.gap_s(started))
            # Whoever shot it gave it its power back: it comes by itself, as the spare.
            assert pair.wait_until_whole() == peer_of(holder)
        pair.prove(file)
