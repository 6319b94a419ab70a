"""``lj moves``, ``lj mover`` and ``lj balance run|drain``: what they print, refuse and change."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from lj_services.cli import main
from lj_services.usercluster.balance import plan_file

pytestmark = pytest.mark.unit

MB = 1 << 20


class Site:
    """Runs ``lj`` on a site of three SQLite files with four users on cluster 1."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "site.toml"
        self.file.write_text(
            "".join(
                f'[database.roles.{role}]\nwriter = "sqlite:///{folder}/{role}.db"\n'
                for role in ("global", "cluster1", "cluster2")
            )
            + "[users]\nmin_free = 0\nroute_ttl_s = 1\n"
            + "".join(f"[users.clusters.{n}]\ncapacity = {20 * MB}\n" for n in (1, 2))
            + "[mover]\ngrace_s = 3600\nmin_free = 0\n"
        )

    def lj(self, *words: str) -> Result:
        return CliRunner().invoke(main, ["--site", str(self.file), *words])

    def json(self, *words: str) -> Any:
        result = self.lj(*words, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def refused(self, code: int, *words: str) -> str:
        result = self.lj(*words)
        assert result.exit_code == code, result.output
        return result.stderr

    def plan(self, *lines: str) -> str:
        file = self.folder / "plan"
        file.write_text(
            "\n".join([plan_file.HEADER, "made 2007-03-31T22:15:00Z", *lines, "end", ""])
        )
        return str(file)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path)
    assert made.lj("db", "migrate").exit_code == 0
    for number in range(1, 5):
        made.json("users", "create", f"u{number}", "--cluster", "1")
    return made


def test_a_plan_is_queued_in_its_order_and_only_once(site: Site) -> None:
    plan = site.plan("move user=3 from=1 to=2", "move user=1 from=1 to=2 bytes=500")
    would = site.json("balance", "run", plan, "--dry-run")
    assert (would["queued"], would["would_queue"]) == (0, 2)
    assert site.json("moves", "list") == []
    done = site.json("balance", "run", plan, "--priority", "7")
    assert done["queued"] == 2
    assert done["ways"] == [{"from": 1, "to": 2, "users": 2, "bytes": 500}]
    assert [row["userid"] for row in reversed(site.json("moves", "list"))] == [3, 1]
    again = site.json("balance", "run", plan)
    assert again["queued"] == 0
    assert "being moved already" in again["left"][0]["why"]


def test_a_plan_that_is_overtaken(site: Site) -> None:
    plan = site.plan(
        "move user=1 from=2 to=1", "move user=2 from=1 to=2", "move user=3 from=2 to=1"
    )
    result = site.lj("balance", "run", plan, "--json")
    assert json.loads(result.stdout)["queued"] == 1
    # 1 and 3 are where the plan wants them.
    assert result.exit_code == 0
    overtaken = site.plan("move user=99 from=1 to=2")
    assert "there is no such user" in site.refused(5, "balance", "run", overtaken)


def test_a_plan_with_errors_queues_nothing(site: Site) -> None:
    plan = site.plan("move user=1 from=1 to=2", "move user=2 from=1 to=9")
    assert "there is no cluster 9" in site.refused(2, "balance", "run", plan)
    assert site.json("moves", "list") == []
    assert site.refused(2, "balance", "run", str(site.folder / "none"))


def test_a_drain_queues_everybody(site: Site) -> None:
    assert "there is no cluster 9" in site.refused(4, "balance", "drain", "9")
    out = site.folder / "drain.plan"
    result = site.lj("balance", "drain", "1", "--out", str(out))
    assert result.exit_code == 0, result.output
    assert 'users.clusters.1.state = "draining"' in result.output
    assert {row["userid"] for row in site.json("moves", "list")} == {1, 2, 3, 4}
    assert len(plan_file.read_file(out).moves) == 4


def test_pauses(site: Site) -> None:
    would = site.json("moves", "pause", "src:1", "--why", "new disk", "--dry-run")
    assert would == {"scope": "src:1", "paused": "new disk", "was": None, "coordinator": False}
    assert site.json("moves", "pauses") == []
    site.json("moves", "pause", "src:1", "--why", "new disk")
    assert site.json("moves", "pauses") == [{"scope": "src:1", "why": "new disk"}]
    assert "No coordinator runs" in site.lj("moves", "pause").output
    assert site.json("moves", "resume", "src:1")["was"] == "new disk"
    site.json("moves", "resume")
    assert site.json("moves", "pauses") == []
    assert "src:CLUSTER" in site.refused(2, "moves", "pause", "everything")
    assert "there is no cluster 9" in site.refused(4, "moves", "pause", "dst:9")
    assert "there is no move 5" in site.refused(4, "moves", "pause", "5")


def test_cancel_retry_and_priority(site: Site) -> None:
    site.json("balance", "run", site.plan("move user=1 from=1 to=2"))
    assert site.json("moves", "priority", "1", "5", "--dry-run")["priority"] == 5
    assert site.json("moves", "show", "1")["priority"] == 0
    site.json("moves", "priority", "1", "5")
    assert site.json("moves", "show", "1")["priority"] == 5
    assert site.json("moves", "cancel", "1", "--dry-run")["state"] == "queued"
    assert site.json("moves", "cancel", "1")["state"] == "cancelled"
    assert "can't be cancelled" in site.refused(5, "moves", "cancel", "1", "--dry-run")
    for dry in ((), ("--dry-run",)):
        assert "does not matter any more" in site.refused(5, "moves", "priority", "1", "5", *dry)
    assert site.json("moves", "retry", "1", "--dry-run")["move"] == 1
    assert site.json("moves", "retry", "1")["move"] == 2
    assert "being moved already by move 2" in site.refused(5, "moves", "retry", "1", "--dry-run")
    assert site.json("moves", "show", "2")["events"]
    assert "there is no move 9" in site.refused(4, "moves", "show", "9")


def test_a_move_past_its_cut_over_is_not_tried_again(site: Site) -> None:
    assert site.json("users", "move", "u1", "2")["state"] == "switched"
    for dry in ((), ("--dry-run",)):
        assert "nothing to try again" in site.refused(5, "moves", "retry", "1", *dry)
    assert site.json("moves", "show", "1")["state"] == "switched"


def test_moves_by_itself_lists_what_is_under_way(site: Site) -> None:
    site.json("balance", "run", site.plan("move user=1 from=1 to=2"))
    result = site.lj("moves")
    assert result.exit_code == 0, result.output
    assert "queued" in result.output
    assert [(row["user"], row["state"]) for row in site.json("moves")] == [("u1", "queued")]
    assert len(site.json("moves", "list", "--user", "u1")) == 1
    assert site.json("moves", "list", "--user", "#2") == []
    assert "no user" in site.refused(4, "moves", "list", "--user", "nobody")
    assert "write --json after list" in site.refused(2, "moves", "--json", "list")
    shown = site.lj("moves", "show", "1").output
    assert f"created   {datetime.now(UTC):%Y-%m-}" in shown  # people read no seconds since 1970
    assert isinstance(site.json("moves", "show", "1")["created"], float)


def test_nobody_to_ask(site: Site) -> None:
    assert "there is no coordinator" in site.refused(6, "mover", "ask", "help")
    assert "no coordinator at" in site.refused(
        6, "mover", "ask", "--coordinator", "127.0.0.1:1", "help"
    )
    assert "HOST:PORT" in site.refused(2, "mover", "ask", "--coordinator", "nowhere", "help")
    assert "no disk nosuch" in site.refused(
        3, "mover", "host", "1", "--disk", "nosuch", "--data", "/"
    )


def test_a_bad_setting(site: Site) -> None:
    wrong = site.refused(3, "mover", "coordinator", "--set", "default.src.moves=-1")
    assert "default.src.moves" in wrong


def test_not_migrated(tmp_path: Path) -> None:
    site = Site(tmp_path)
    assert "run `lj db migrate`" in site.refused(5, "mover", "coordinator")
    assert "lj db migrate" in site.refused(6, "mover", "worker")
