"""``lj balance``: survey, plan, show and pins on a site of SQLite files."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from lj_services.cli import main
from lj_services.cli.site import SiteSettings
from lj_services.daemon import load_settings
from lj_services.database import Databases
from lj_services.usercluster import Users

pytestmark = pytest.mark.unit

Lj = Callable[..., Result]
CAPACITY = "[users.clusters.{}]\ncapacity = {}\n"
PACE = "[users.survey]\npace = 1\n"
MB = 1 << 20


class Site:
    """Runs ``lj`` on a site of four SQLite files; `users` goes into its site file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "site.toml"
        self.configure(*(CAPACITY.format(n, 20 * MB) for n in (1, 2, 3)))

    def configure(self, *users: str) -> None:
        roles = "".join(
            f'[database.roles.{role}]\nwriter = "sqlite:///{self.folder}/{role}.db"\n'
            for role in ("global", "cluster1", "cluster2", "cluster3")
        )
        self.file.write_text(roles + "[users]\nmin_free = 0\n" + PACE + "".join(users))

    def lj(self, *words: str) -> Result:
        return CliRunner().invoke(main, ["--site", str(self.file), *words])

    def json(self, *words: str) -> Any:
        result = self.lj(*words, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def fill(self, cluster: int, count: int, size: int) -> None:
        """Users with one large row each."""
        settings = load_settings(SiteSettings, self.file)
        with closing(Databases(settings.database)) as databases:
            users = Users(databases, None, settings.users)
            userids = [
                users.create(f"c{cluster}_{i}", cluster=cluster).userid for i in range(count)
            ]
        database = sqlite3.connect(self.folder / f"cluster{cluster}.db")
        database.executemany(
            "INSERT INTO entry VALUES (?, 1, zeroblob(?))", [(userid, size) for userid in userids]
        )
        database.commit()
        database.close()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path)
    assert made.lj("db", "migrate").exit_code == 0
    for number in (1, 2, 3):
        database = sqlite3.connect(tmp_path / f"cluster{number}.db")
        database.execute(
            "CREATE TABLE entry (userid INTEGER NOT NULL, id INTEGER NOT NULL, body BLOB, "
            "PRIMARY KEY (userid, id))"
        )
        database.close()
    made.fill(1, 8, MB // 2)
    made.fill(2, 2, MB // 2)
    return made


def test_survey_then_plan_then_show(site: Site) -> None:
    assert [row["due"] for row in site.json("balance", "survey", "--dry-run")] == [8, 2, 0]
    first = site.json("balance", "survey")
    assert [(row["cluster"], row["users"]) for row in first] == [(1, 8), (2, 2), (3, 0)]
    assert first[0]["bytes"] > 8 * MB // 2
    assert [row["users"] for row in site.json("balance", "survey")] == [0, 0, 0]

    file = site.folder / "monday.plan"
    plan = site.json("balance", "plan", "--out", str(file))
    assert {move["from"] for move in plan["moves"]} == {1}
    assert plan["bytes"] == sum(move["bytes"] for move in plan["moves"]) > 0
    assert plan["spread"]["after"] < plan["spread"]["before"]
    shown = site.json("balance", "show", str(file))
    assert sum(row["users"] for row in shown) == len(plan["moves"])
    now = site.json("balance", "show")
    assert [row["users"] for row in now] == [8, 2, 0]
    assert [row["not surveyed"] for row in now] == [0, 0, 0]


def test_what_a_person_sees(site: Site) -> None:
    assert site.lj("balance", "survey").exit_code == 0
    told = site.lj("balance", "plan", "--out", str(site.folder / "p")).output
    assert "to move; to reach every target takes at least" in told
    assert "Note: nobody has measured how busy the disks are" in told
    assert "Written to" in told
    assert "20.0 MB" in site.lj("balance", "show").output


def test_a_drain_empties_a_cluster_but_for_the_pinned(site: Site) -> None:
    site.lj("balance", "survey")
    assert site.json("balance", "pin", "c2_0", "--why", "on her own disk", "--dry-run")
    assert site.json("balance", "pins") == []
    site.json("balance", "pin", "c2_0", "--why", "on her own disk")
    assert [(p["name"], p["why"]) for p in site.json("balance", "pins")] == [
        ("c2_0", "on her own disk")
    ]
    plan = site.json("balance", "plan", "--drain", "2")
    assert len([move for move in plan["moves"] if move["why"] == "drain"]) == 1
    assert any("cluster 2 will not be empty: 1 pinned" in text for text in plan["problems"])
    assert site.json("balance", "unpin", "c2_0")[0]["pinned"]
    plan = site.json("balance", "plan", "--drain", "2")
    assert len([move for move in plan["moves"] if move["why"] == "drain"]) == 2
    assert not any("cluster 2" in text for text in plan["problems"])


def test_states_of_the_site_file_hold_for_plans_and_for_new_users(site: Site) -> None:
    site.configure(
        CAPACITY.format(1, 20 * MB),
        CAPACITY.format(2, 20 * MB) + 'state = "full"\n',
        CAPACITY.format(3, 20 * MB),
    )
    site.lj("balance", "survey")
    plan = site.json("balance", "plan")
    assert {move["to"] for move in plan["moves"]} == {3}
    made = {site.json("users", "create", f"new{i}")["cluster"] for i in range(12)}
    assert 2 not in made


def test_limits_of_the_command_line(site: Site) -> None:
    site.lj("balance", "survey")
    assert len(site.json("balance", "plan", "--max-moves", "2")["moves"]) == 2
    assert len(site.json("balance", "plan", "--max-bytes", "1500k")["moves"]) == 2
    wrong = site.lj("balance", "survey", "--pace", "7")
    assert wrong.exit_code == 2
    assert "--pace" in wrong.output


def test_who_lives_beside_whom_on_one_disk(site: Site) -> None:
    """Without capacities, clusters on one disk share what is free on it."""
    site.configure()
    assert site.lj("balance", "survey").exit_code == 0
    disks = [row["disk"] for row in site.json("balance", "show")]
    assert max(disks) < 1.5 * min(disks)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("plan", "--drain", "9"), 4, "there is no cluster 9; there are: 1, 2, 3"),
        (("survey", "--cluster", "9"), 4, "there is no cluster 9"),
        (("pin", "nobody", "--why", "x"), 4, "nobody"),
        (("show", "missing.plan"), 2, "can't be read"),
    ],
)
def test_refusals(site: Site, words: tuple[str, ...], code: int, message: str) -> None:
    site.lj("balance", "survey")
    result = site.lj("balance", *words)
    assert result.exit_code == code, result.output
    assert message in result.output


def test_an_impossible_drain_is_refused_with_the_reason(site: Site) -> None:
    site.lj("balance", "survey")
    result = site.lj("balance", "plan", "--drain", "1", "--drain", "2", "--drain", "3")
    assert result.exit_code == 5
    assert "no room:" in result.output
    assert "cluster 1 is to be emptied" in result.output


def test_an_edited_plan_with_errors_is_refused(site: Site) -> None:
    file = site.folder / "p"
    site.lj("balance", "survey")
    site.lj("balance", "plan", "--out", str(file))
    file.write_text(file.read_text().replace("from=1 to=3", "from=1 to=8", 1))
    result = site.lj("balance", "show", str(file))
    assert result.exit_code == 2
    assert ", to: there is no cluster 8; there are 1, 2, 3" in result.output


def test_a_cluster_of_unknown_size_is_a_matter_of_configuration(site: Site) -> None:
    site.configure()
    result = site.lj("balance", "plan")
    assert result.exit_code == 3
    assert "capacity" in result.output


def test_a_cluster_out_of_reach_does_not_keep_the_others_from_being_surveyed(site: Site) -> None:
    (site.folder / "cluster1.db").rename(site.folder / "away.db")
    result = site.lj("balance", "survey", "--json")
    assert result.exit_code == 6
    rows = json.loads(result.stdout)
    assert "error" in rows[0]
    assert rows[1]["users"] == 2
