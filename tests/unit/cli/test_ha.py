"""What `lj ha status` makes of what the hosts said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from lj_services.cli import ha

pytestmark = pytest.mark.unit

WELL = {
    "role": "Primary",
    "disks": "UpToDate/UpToDate",
    "connection": "Connected",
    "out_of_sync": 0,
    "heartbeat": "Heartbeat is running on this machine: db1-a",
    "peer": "active",
    "has_address": True,
    "has_group": True,
    "server": "active",
    "watcher": "active",
    "verified": "2026-11-22 03:00",
}
SPARE = {
    **WELL,
    "role": "Secondary",
    "has_address": False,
    "has_group": False,
    "server": "inactive",
    "watcher": "inactive",
}
SLAVE = """*************************** 1. row ***************************
                Slave_IO_State: Waiting for master to send event
              Slave_IO_Running: Yes
             Slave_SQL_Running: Yes
         Seconds_Behind_Master: 0
                   Gtid_IO_Pos: 2-201-4711
                 Last_IO_Error:
                Last_SQL_Error:
"""


def host(name: str, pair: str | None, state: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    nothing: dict[str, Any] = {"sources": {}, "held": [], "slaves": {}, "backups": {}}
    return {"host": name, "pair": pair, "state": state, **nothing, **more}


def said(a: dict[str, Any] | None = None, b: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    return [
        host("db1-a", "cluster1", {**WELL, **(a or {})}),
        host("db1-b", "cluster1", {**SPARE, **(b or {})}),
    ]


def slave(status: str | None) -> dict[str, Any]:
    slaves = {} if status is None else {"cluster1": status}
    return host("db1-s", None, None, sources={"cluster1": "pair_cluster1"}, slaves=slaves)


def test_a_pair_that_is_well_has_no_trouble() -> None:
    rows = ha.pairs(said())
    assert [(row["host"], row["role"], row["group"], row["trouble"]) for row in rows] == [
        ("db1-a", "Primary", "here", ""),
        ("db1-b", "Secondary", "", ""),
    ]


@pytest.mark.parametrize(
    ("a", "told"),
    [
        ({"disks": "UpToDate/Outdated"}, "disks are UpToDate/Outdated"),
        ({"disks": ""}, "disks are not known"),
        ({"connection": "StandAlone"}, "the link is StandAlone"),
        ({"peer": "dead"}, "the peer is dead to Heartbeat"),
        ({"has_group": False}, "the group is on no host"),
        ({"server": "failed"}, "the server is failed"),
        ({"server": "failed", "watcher": "inactive"}, "the server is failed"),
        ({"watcher": "inactive"}, "the server's watcher is inactive"),
        ({"watcher": ""}, "the server's watcher is not known"),
        ({"out_of_sync": 4096}, "4096 bytes differ"),
    ],
)
def test_says_what_is_not_well(a: dict[str, Any], told: str) -> None:
    assert ha.pairs(said(a))[0]["trouble"] == told


def test_two_hosts_that_both_have_the_group_are_trouble() -> None:
    rows = ha.pairs(said(b={"has_group": True}))
    assert {row["trouble"] for row in rows} == {"the group is on db1-a and db1-b"}


def test_another_pair_s_group_is_its_own() -> None:
    other = [host("db2-a", "cluster2", WELL), host("db2-b", "cluster2", SPARE)]
    assert {row["trouble"] for row in ha.pairs([*said(), *other])} == {""}


def test_a_host_that_can_t_be_reached_is_told() -> None:
    hosts = said()
    hosts[1]["state"] = None
    assert [row["trouble"] for row in ha.pairs(hosts)] == ["", "can't be reached"]


@pytest.mark.parametrize(
    ("status", "behind_s", "told"),
    [
        (SLAVE, 0, ""),
        (SLAVE.replace("Seconds_Behind_Master: 0", "Seconds_Behind_Master: NULL"), None, ""),
        (SLAVE.replace("SQL_Running: Yes", "SQL_Running: No"), 0, "does not replicate"),
        (
            SLAVE.replace("IO_Running: Yes", "IO_Running: No").replace(
                "Last_IO_Error:", "Last_IO_Error: gone"
            ),
            0,
            "gone",
        ),
        ("", None, "does not replicate"),
    ],
)
def test_slaves(status: str, behind_s: int | None, told: str) -> None:
    (row,) = ha.slaves([slave(status)])
    assert (row["slave"], row["behind_s"], row["trouble"]) == ("db1-s/cluster1", behind_s, told)


def test_a_pair_that_follows_another_one_does_so_where_it_has_the_group() -> None:
    follows = {"sources": {"cluster1": "pair_first"}, "held": ["cluster1"]}
    a = host("db2-a", "cluster1", WELL, slaves={"cluster1": SLAVE}, **follows)
    b = host("db2-b", "cluster1", SPARE, slaves={"cluster1": ""}, **follows)
    (row,) = ha.slaves([a, b])
    assert (row["slave"], row["trouble"]) == ("db2-a/cluster1", "")
    assert ha.slaves([{**a, "slaves": {"cluster1": ""}}, b])[0]["trouble"] == "does not replicate"


@pytest.mark.parametrize(
    ("newest", "failed", "told"),
    [
        ("20261122T040007Z", "", ("2026-11-22 04:00", "")),
        ("", "", ("", "")),
        (
            "20261122T040007Z",
            "20261123T040009Z: no room",
            ("2026-11-22 04:00", "backup 20261123T040009Z: no room"),
        ),
    ],
)
def test_backups_of_a_slave(newest: str, failed: str, told: tuple[str, str]) -> None:
    state = {"cluster1": {"newest": newest, "failed": failed}}
    (row,) = ha.slaves([{**slave(SLAVE), "backups": state}])
    assert (row["backup"], row["trouble"]) == told


def test_a_slave_that_can_t_be_reached() -> None:
    # As the play writes it down: tests/roles/test_ha_status.py.
    its = {**slave(None), "backups": {"cluster1": {"newest": "", "failed": ""}}}
    assert ha.slaves([its])[0]["trouble"] == "can't be reached"


@pytest.mark.parametrize(("a", "code"), [({}, 0), ({"peer": "dead"}, 1)])
def test_the_exit_code_says_whether_all_is_well(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, a: dict[str, Any], code: int
) -> None:
    monkeypatch.setattr(ha, "ask", lambda inventory: [*said(a), slave(SLAVE)])
    words = ["status", "-i", str(tmp_path), "--json"]
    result = CliRunner().invoke(ha.command, words)
    assert result.exit_code == code
    document = json.loads(result.stdout)
    assert [len(document[name]) for name in ("pairs", "slaves")] == [2, 1]
