"""The [database] table: what is wrong is named before anything connects."""

from __future__ import annotations

from pathlib import Path

import pytest

from lj_services.daemon import ConfigError, load_settings
from lj_services.database import (
    Databases,
    DatabaseSettings,
    DatabaseUnreachable,
    DiskFull,
    UnknownRole,
)
from lj_services.database.config import read_password
from lj_services.database.engines import server_label

pytestmark = pytest.mark.unit


def load(folder: Path, toml: str) -> DatabaseSettings:
    file = folder / "database.toml"
    file.write_text(toml)
    return load_settings(DatabaseSettings, file)


def test_a_whole_role(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        """
        [roles.global]
        writer = "mariadb://lj@10.0.0.1:3307/lj_global"
        password_file = "/etc/lj/secrets/global"
        pool_size = 3
        [[roles.global.readers]]
        url = "mysql://lj@/lj_global?unix_socket=/run/mysqld/mysqld.sock"
        weight = 5
        [roles.cluster12]
        writer = "sqlite:////var/lib/lj/cluster12.db"
        """,
    )
    role = settings.roles["global"]
    assert server_label(role.writer) == "10.0.0.1:3307/lj_global"
    assert server_label(role.readers[0].url) == "/run/mysqld/mysqld.sock/lj_global"
    assert server_label(settings.roles["cluster12"].writer) == "/var/lib/lj/cluster12.db"
    assert (role.pool_size, role.readers[0].weight) == (3, 5)
    assert DatabaseSettings.model_validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mariadb://lj:secret@host/lj", "password_file"),
        ("sqlite:///relative.db", "absolute"),
        ("sqlite://", "absolute"),
        ("sqlite:////a.db?mode=ro", "just sqlite"),
        ("postgresql://lj@host/lj", "sqlite, mariadb or mysql"),
        ("mariadb://lj@host", "ends with the database"),
        ("mariadb://lj@host/lj;DROP TABLE user", "ends with the database"),
        ("mariadb://lj@host/lj`", "ends with the database"),
        ("mariadb://lj@/lj", "host or unix_socket"),
        ("mariadb://lj@host/lj?unix_socket=/s", "host or unix_socket"),
        ("mariadb://lj@host/lj?autocommit=1", "unknown option autocommit"),
        ("nonsense", "mariadb://user@host"),
    ],
)
def test_a_url_that_will_not_do_says_what_would(tmp_path: Path, url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=r"roles\.global\.writer") as caught:
        load(tmp_path, f'[roles.global]\nwriter = "{url}"')
    assert says in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["Global", "cluster-1", "x;y", "1cluster", ""])
def test_a_role_that_is_no_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cluster1"):
        load(tmp_path, f'[roles."{name}"]\nwriter = "sqlite:////a.db"')


def test_an_unknown_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean pool_size"):
        load(tmp_path, '[roles.global]\nwriter = "sqlite:////a.db"\npoolsize = 3')


def test_an_unknown_role_names_those_there_are(tmp_path: Path) -> None:
    databases = Databases(load(tmp_path, f'[roles.global]\nwriter = "sqlite:///{tmp_path}/g.db"'))
    with pytest.raises(UnknownRole, match="there are: global"), databases.write("cluster9"):
        pass
    databases.close()


def test_clusters_are_numbered(tmp_path: Path) -> None:
    roles = "".join(
        f'[roles.{name}]\nwriter = "sqlite:///{tmp_path}/{name}.db"\n'
        for name in ("cluster10", "global", "cluster2", "clusterx", "theschwartz1")
    )
    databases = Databases(load(tmp_path, roles))
    assert databases.clusters() == [2, 10]
    databases.close()


def test_a_password_file_is_its_first_line(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("s3cret \nsecond line\n")
    assert read_password(file) == "s3cret "
    assert read_password(None) is None


def test_a_password_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    settings = load(
        tmp_path, '[roles.global]\nwriter = "mariadb://lj@h/lj"\npassword_file = "/none/such"'
    )
    with pytest.raises(DatabaseUnreachable, match="/none/such"):
        Databases(settings)


def test_a_file_that_nobody_made_is_not_made_by_reading(tmp_path: Path) -> None:
    databases = Databases(load(tmp_path, f'[roles.global]\nwriter = "sqlite:///{tmp_path}/g.db"'))
    with pytest.raises(DatabaseUnreachable, match="lj db migrate"), databases.read("global"):
        pass
    assert not (tmp_path / "g.db").exists()
    databases.close()


def test_sqlite_files_are_durable_and_shared(tmp_path: Path) -> None:
    databases = Databases(load(tmp_path, f'[roles.global]\nwriter = "sqlite:///{tmp_path}/g.db"'))
    with databases.write("global") as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1,
                     "busy_timeout": 10_000}  # fmt: skip
    databases.close()


def test_a_full_disk_says_so_and_the_rest_goes_on(tmp_path: Path) -> None:
    databases = Databases(load(tmp_path, f'[roles.global]\nwriter = "sqlite:///{tmp_path}/g.db"'))
    with databases.write("global") as connection:
        connection.exec_driver_sql("CREATE TABLE t (a BLOB)")
        connection.exec_driver_sql("PRAGMA max_page_count = 3")
    with pytest.raises(DiskFull, match="free some"), databases.write("global") as connection:
        connection.exec_driver_sql("INSERT INTO t VALUES (zeroblob(1000000))")
    with databases.write("global") as connection:
        connection.exec_driver_sql("INSERT INTO t VALUES ('x')")
    with databases.read("global") as connection:
        assert connection.exec_driver_sql("SELECT COUNT(*) FROM t").scalar() == 1
    databases.close()
