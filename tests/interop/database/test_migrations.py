"""Numbered migrations on both engines: once, in order, after crashes, never backwards."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import inspect, text

from lj_services.database import (
    Component,
    Databases,
    MigrationError,
    SchemaTooNew,
    SchemaTooOld,
    check_schema,
    migrate,
    status,
)
from lj_services.usercluster import COMPONENT
from lj_services.usercluster.tables import cluster_metadata, global_metadata
from tests.support.databases import TestSite

pytestmark = pytest.mark.interop

MakeComponent = Callable[..., Component]

COUNT = "CREATE TABLE IF NOT EXISTS runs (n INTEGER);\nINSERT INTO runs VALUES (1);\n"


@pytest.fixture
def make_component(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeComponent:
    """Makes a package with migrations: file name -> text."""
    folder = tmp_path / "packages"
    monkeypatch.syspath_prepend(folder)

    def make(**files: str) -> Component:
        package = f"pkg_{uuid.uuid4().hex}"
        target = folder / package / "migrations" / "globaldb"
        target.mkdir(parents=True)
        (folder / package / "__init__.py").touch()
        for name, content in files.items():
            number, _, rest = name.removeprefix("m").partition("_")
            stem, _, suffix = rest.rpartition("_")
            (target / f"{number}_{stem}.{suffix}").write_text(content)
        return Component("part", package)

    return make


def run_count(site: TestSite) -> int:
    with site.databases.read("global") as connection:
        return int(connection.scalar(text("SELECT COUNT(*) FROM runs")) or 0)


def test_applied_once_and_in_order(site: TestSite, make_component: MakeComponent) -> None:
    part = make_component(
        m0001_first_sql=f"-- a comment; with a semicolon\n{COUNT}",
        m0002_second_py=(
            "from sqlalchemy import text\n"
            "def upgrade(connection):\n"
            "    connection.execute(text('INSERT INTO runs SELECT COUNT(*) FROM runs'))\n"
        ),
    )
    assert [m.version for m in migrate(site.databases, "global", [part], dry_run=True)] == [1, 2]
    (state,) = status(site.databases, "global", [part])
    assert (state.installed, state.available, state.verdict) == (0, 2, "pending")
    assert [m.name for m in migrate(site.databases, "global", [part])] == ["first", "second"]
    assert migrate(site.databases, "global", [part]) == []
    assert run_count(site) == 2
    check_schema(site.databases, [part])


def test_the_kits_own_migrations_make_the_tables_that_the_code_uses(site: TestSite) -> None:
    for role, metadata in (("global", global_metadata), ("cluster1", cluster_metadata)):
        with site.databases.read(role) as connection:
            found = inspect(connection)
            for table in metadata.tables.values():
                columns = {column["name"]: column for column in found.get_columns(table.name)}
                assert set(columns) == set(table.c.keys())
                for column in table.c:
                    if not column.primary_key:
                        assert columns[column.name]["nullable"] == column.nullable, column
                key = found.get_pk_constraint(table.name)["constrained_columns"]
                assert key == [column.name for column in table.primary_key]


def test_on_clusters_every_key_starts_with_userid_and_nothing_numbers_itself(
    mariadb_site: TestSite,
) -> None:
    with mariadb_site.databases.read("cluster1") as connection:
        tables = set(inspect(connection).get_table_names()) - {"schema_version"}
        first = connection.execute(
            text(
                "SELECT table_name, column_name, extra FROM information_schema.columns "
                "JOIN information_schema.key_column_usage USING (table_schema, table_name,"
                " column_name) WHERE table_schema = DATABASE() AND constraint_name = 'PRIMARY' "
                "AND key_column_usage.ordinal_position = 1"
            )
        ).all()
    assert {row[0]: row[1] for row in first if row[0] in tables} == dict.fromkeys(tables, "userid")
    assert not any("auto_increment" in row[2] for row in first)


def test_two_at_once_do_not_double(site: TestSite, make_component: MakeComponent) -> None:
    part = make_component(
        m0001_slow_py=(
            "import time\nfrom sqlalchemy import text\n"
            "def upgrade(connection):\n"
            "    connection.execute(text('CREATE TABLE runs (n INTEGER)'))\n"
            "    time.sleep(0.2)\n"
            "    connection.execute(text('INSERT INTO runs VALUES (1)'))\n"
        ),
    )
    applied: list[int] = []
    errors: list[BaseException] = []

    def run() -> None:
        databases = Databases(site.settings)
        try:
            applied.append(len(migrate(databases, "global", [part])))
        except BaseException as error:
            errors.append(error)
        finally:
            databases.close()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(applied) == [0, 0, 0, 1]
    assert run_count(site) == 1


def test_a_crash_in_the_middle_is_made_good_by_the_next_run(
    site: TestSite, make_component: MakeComponent, tmp_path: Path
) -> None:
    part = make_component(
        m0001_first_sql=COUNT,
        m0002_crash_py=(
            "import os\nfrom sqlalchemy import text\n"
            "def upgrade(connection):\n"
            "    connection.execute(text('CREATE TABLE IF NOT EXISTS half (n INTEGER)'))\n"
            "    if 'CRASH' in os.environ:\n"
            "        os._exit(77)\n"
            "    connection.execute(text('CREATE TABLE IF NOT EXISTS whole (n INTEGER)'))\n"
        ),
    )
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from lj_services.database import *\n"
        "databases = Databases(DatabaseSettings.model_validate_json(sys.argv[2]))\n"
        f"migrate(databases, 'global', [Component('part', {part.package!r})])\n"
    )
    died = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "packages", site.settings.model_dump_json()],
        env={**os.environ, "CRASH": "1"},
        check=False,
    )
    assert died.returncode == 77
    (state,) = status(site.databases, "global", [part])
    assert state.installed == 1
    assert [m.version for m in migrate(site.databases, "global", [part])] == [2]
    with site.databases.read("global") as connection:
        assert {"half", "whole"} <= set(inspect(connection).get_table_names())
    assert run_count(site) == 1


def test_a_migration_that_fails_says_which_and_keeps_those_before(
    site: TestSite, make_component: MakeComponent
) -> None:
    part = make_component(m0001_first_sql=COUNT, m0002_broken_sql="CREATE NONSENSE;")
    with pytest.raises(MigrationError, match="0002 broken"):
        migrate(site.databases, "global", [part])
    (state,) = status(site.databases, "global", [part])
    assert state.installed == 1
    assert run_count(site) == 1
    with site.databases.write("global") as connection:  # nothing is left locked
        connection.execute(text("INSERT INTO runs VALUES (2)"))


def test_code_older_than_the_schema_is_refused(
    site: TestSite, make_component: MakeComponent
) -> None:
    newer = make_component(m0001_first_sql=COUNT, m0002_second_sql="SELECT 1;")
    migrate(site.databases, "global", [newer])
    older = make_component(m0001_first_sql=COUNT)
    (state,) = status(site.databases, "global", [older])
    assert state.verdict == "too new"
    with pytest.raises(SchemaTooNew, match="newer kit"):
        check_schema(site.databases, [older])
    other = Component(
        "other", make_component(m0001_other_sql="CREATE TABLE o (a INTEGER);").package
    )
    for components in ([older], [other, older]):
        with pytest.raises(SchemaTooNew):
            migrate(site.databases, "global", components)
    with site.databases.read("global") as connection:
        assert "o" not in inspect(connection).get_table_names()


def test_a_schema_behind_the_code_is_refused_at_start(
    site: TestSite, make_component: MakeComponent
) -> None:
    with pytest.raises(SchemaTooOld, match="lj db migrate"):
        check_schema(site.databases, [make_component(m0001_first_sql=COUNT)])
    check_schema(site.databases, [COMPONENT])


@pytest.mark.parametrize(
    "names",
    [["m0002_late_sql"], ["m0001_a_sql", "m0003_c_sql"], ["m0001_a_sql", "m0001_b_sql"],
     ["mfirst_x_sql"], ["m0001_Upper_sql"]],
)  # fmt: skip
def test_misnumbered_migrations_are_refused(
    sqlite_site: TestSite, make_component: MakeComponent, names: list[str]
) -> None:
    part = make_component(**dict.fromkeys(names, COUNT))
    with pytest.raises(MigrationError, match=r"NNNN|0001"):
        migrate(sqlite_site.databases, "global", [part])
