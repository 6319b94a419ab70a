"""``lj users`` and ``lj db``: what they print, what they refuse, how they exit."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from lj_services.cli import main
from lj_services.cli.db import COMPONENTS

pytestmark = pytest.mark.unit

Lj = Callable[..., Result]


@pytest.fixture
def lj(tmp_path: Path) -> Lj:
    """Runs ``lj`` on a site of three SQLite files."""
    site = tmp_path / "site.toml"
    site.write_text(
        "".join(
            f'[database.roles.{role}]\nwriter = "sqlite:///{tmp_path}/{role}.db"\n'
            for role in ("global", "cluster1", "cluster2")
        )
        + "[users]\nmin_free = 0\n"
    )

    def run(*words: str) -> Result:
        return CliRunner().invoke(main, ["--site", str(site), *words])

    return run


@pytest.fixture
def migrated(lj: Lj) -> Lj:
    assert lj("db", "migrate").exit_code == 0
    return lj


def printed(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_migrate_once(lj: Lj, tmp_path: Path) -> None:
    would = printed(lj("db", "migrate", "--dry-run", "--json"))
    assert {row["done"] for row in would} == {"would apply"}
    assert not (tmp_path / "global.db").exists()
    done = printed(lj("db", "migrate", "--json"))
    assert [(row["role"], row["name"]) for row in done] == [
        (row["role"], row["name"]) for row in would
    ]
    assert printed(lj("db", "migrate", "--json")) == []
    assert "nothing to do" in lj("db", "migrate").output


def test_status_says_what_is_pending(lj: Lj) -> None:
    before = lj("db", "status", "--json")
    assert before.exit_code == 6  # no files yet: nothing can be read
    lj("db", "migrate")
    rows = printed(lj("db", "status", "--json"))
    assert {row["role"] for row in rows} == {"global", "cluster1", "cluster2"}
    assert {row["state"] for row in rows} == {"current"}
    assert {row["component"] for row in rows} <= {component.name for component in COMPONENTS}


def test_only_some_roles(lj: Lj) -> None:
    done = printed(lj("db", "migrate", "--role", "cluster2", "--json"))
    assert {row["role"] for row in done} == {"cluster2"}
    unknown = lj("db", "migrate", "--role", "cluster9")
    assert unknown.exit_code == 4
    assert "there are: global" in unknown.stderr


def test_newer_schema_is_refused(
    migrated: Lj, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sqlite3.connect(tmp_path / "cluster1.db") as connection:
        connection.execute(
            "INSERT INTO schema_version VALUES ('usercluster', 99, 'later', '2030-01-01')"
        )
    connection.close()
    refused = migrated("db", "migrate")
    assert refused.exit_code == 5
    assert "newer kit" in refused.stderr
    status = migrated("db", "status")
    assert status.exit_code == 5
    assert "too new" in status.output


def test_create_show_list(migrated: Lj) -> None:
    bob = printed(migrated("users", "create", "bob", "--cluster", "2", "--json"))
    assert (bob["name"], bob["cluster"], bob["readonly"]) == ("bob", 2, False)
    printed(migrated("users", "create", "alice", "--cluster", "1", "--json"))
    assert printed(migrated("users", "show", "bob", "--json")) == bob
    assert printed(migrated("users", "show", f"#{bob['userid']}", "--json")) == bob
    names = [row["name"] for row in printed(migrated("users", "list", "--json"))]
    assert names == ["bob", "alice"]
    only = printed(migrated("users", "list", "--cluster", "1", "--json"))
    assert [row["name"] for row in only] == ["alice"]
    assert "alice" in migrated("users", "list", "--limit", "5").output


def test_readonly_on_and_off(migrated: Lj) -> None:
    migrated("users", "create", "bob")
    assert printed(migrated("users", "readonly", "bob", "on", "--json"))["readonly"] is True
    assert printed(migrated("users", "show", "bob", "--json"))["readonly"] is True
    assert printed(migrated("users", "readonly", "bob", "off", "--json"))["readonly"] is False


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["users", "create", "Bob!"], 2, "1 to 25"),
        (["users", "create", "taken"], 5, "taken"),
        (["users", "create", "x", "--cluster", "9"], 4, "there are: 1, 2"),
        (["users", "show", "nobody"], 4, "no user 'nobody'"),
        (["users", "show", "'; DROP TABLE user; --"], 4, "no user"),
        (["users", "show", "#99"], 4, "userid 99"),
        (["users", "readonly", "nobody", "on"], 4, "no user"),
        (["users", "readonly", "taken", "maybe"], 2, "'on', 'off'"),
        (["users", "list", "--limit", "0"], 2, "limit"),
    ],
)
def test_what_is_refused(migrated: Lj, words: list[str], code: int, says: str) -> None:
    migrated("users", "create", "taken")
    result = migrated(*words)
    assert result.exit_code == code, result.output
    assert says in result.stderr
    assert "Traceback" not in result.output


def test_before_migrate_the_remedy_is_named(lj: Lj) -> None:
    result = lj("users", "list")
    assert result.exit_code == 6
    assert "lj db migrate" in result.stderr


def test_a_file_without_tables_names_the_remedy_too(lj: Lj, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "global.db") as connection:
        connection.execute("CREATE TABLE other (a)")
    connection.close()
    result = lj("users", "list")
    assert result.exit_code == 5
    assert "lj db migrate" in result.stderr


def set_version(folder: Path, version: int, *names: str) -> None:
    """Put users back into a version, as if an older release had made them."""
    with sqlite3.connect(folder / "global.db") as connection:
        for name in names:
            (userid, cluster) = connection.execute(
                "SELECT userid, clusterid FROM user WHERE name = ?", (name,)
            ).fetchone()
            connection.execute("UPDATE user SET schema_ver = ? WHERE name = ?", (version, name))
            with sqlite3.connect(folder / f"cluster{cluster}.db") as on_cluster:
                on_cluster.execute(
                    "UPDATE user_home SET schema_ver = ? WHERE userid = ?", (version, userid)
                )


@pytest.fixture
def with_old_users(migrated: Lj, tmp_path: Path) -> Lj:
    for name, cluster in (("bob", "1"), ("eve", "2"), ("joe", "2"), ("new", "2")):
        migrated("users", "create", name, "--cluster", cluster)
    set_version(tmp_path, 1, "bob", "eve", "joe")
    return migrated


def versions_of(lj: Lj) -> dict[str, int]:
    return {row["name"]: row["schema_ver"] for row in printed(lj("users", "list", "--json"))}


def test_upgrade_the_named(with_old_users: Lj) -> None:
    lj = with_old_users
    would = printed(lj("users", "upgrade", "bob", "new", "--to", "2", "--dry-run", "--json"))
    assert [(row["name"], row["from"], row["to"]) for row in would] == [("bob", 1, 2)]
    assert versions_of(lj) == {"bob": 1, "eve": 1, "joe": 1, "new": 2}
    (done,) = printed(lj("users", "upgrade", "bob", "new", "--to", "2", "--json"))
    assert (done["name"], done["from"], done["to"], done["error"]) == ("bob", 1, 2, None)
    assert versions_of(lj) == {"bob": 2, "eve": 1, "joe": 1, "new": 2}
    assert printed(lj("users", "upgrade", "bob", "--to", "2", "--json")) == []


def test_upgrade_a_cluster_and_everybody_within_a_limit(with_old_users: Lj) -> None:
    lj = with_old_users
    done = printed(lj("users", "upgrade", "--cluster", "2", "--to", "2", "--limit", "1", "--json"))
    assert [row["name"] for row in done] == ["eve"]
    said = lj("users", "upgrade", "--all", "--to", "2", "--pause-ms", "1")
    assert said.exit_code == 0
    assert "2 users upgraded to schema_ver 2" in said.stdout
    assert set(versions_of(lj).values()) == {2}


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--to", "2"], 2, "say WHO, or --cluster, or --all"),
        (["bob", "--all", "--to", "2"], 2, "say WHO, or --cluster, or --all"),
        (["bob"], 2, "--to"),
        (["nobody", "--to", "2"], 4, "there is no user 'nobody'"),
        (["bob", "--to", "77"], 4, "no step to schema_ver 77; this program knows 1..2"),
        (["bob", "--to", "0"], 4, "no step to schema_ver 0"),
        (["--cluster", "9", "--to", "2"], 4, "there is no cluster 9; there are: 1, 2"),
        (["bob", "new", "--to", "1"], 5, "new is in schema_ver 2: there is no way back to 1"),
    ],
)
def test_upgrades_that_are_refused(
    with_old_users: Lj, words: list[str], code: int, says: str
) -> None:
    result = with_old_users("users", "upgrade", *words)
    assert result.exit_code == code
    assert says in result.stderr
    assert versions_of(with_old_users)["bob"] == 1


def test_upgrade_tells_who_could_not_be_and_goes_on(with_old_users: Lj, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "cluster2.db") as connection:
        connection.execute("DELETE FROM user_home WHERE userid = 2")
    result = with_old_users("users", "upgrade", "--all", "--to", "2", "--json")
    assert result.exit_code == 1
    assert "1 of 3 users were not upgraded" in result.stderr
    errors = {row["name"]: row["error"] for row in json.loads(result.stdout)}
    assert "does not know them" in errors["eve"]
    assert errors["bob"] is errors["joe"] is None
    assert versions_of(with_old_users) == {"bob": 2, "eve": 1, "joe": 2, "new": 2}
