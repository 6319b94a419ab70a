"""Reading and writing by role, the same on both engines."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import exc, text

from lj_services.database import (
    DatabaseBusy,
    Databases,
    DatabaseUnreachable,
    PoolExhausted,
    ReadOnlyConnection,
)
from tests.support.databases import TestSite, settings_of, site_on_mariadb, site_on_sqlite
from tests.support.mariadb import MariaDB

pytestmark = pytest.mark.interop


@pytest.fixture
def table(site: TestSite) -> TestSite:
    with site.databases.write("global") as connection:
        connection.execute(
            text("CREATE TABLE t (a INTEGER PRIMARY KEY, b VARCHAR(40) CHECK (b <> 'no'))")
        )
    return site


def rows(databases: Databases) -> list[int]:
    with databases.read("global") as connection:
        return list(connection.scalars(text("SELECT a FROM t ORDER BY a")))


def test_commit_at_the_end_and_rollback_on_an_error(table: TestSite) -> None:
    with table.databases.write("global") as connection:
        connection.execute(text("INSERT INTO t (a) VALUES (1)"))
    with (  # noqa: PT012
        pytest.raises(ZeroDivisionError),
        table.databases.write("global") as connection,
    ):
        connection.execute(text("INSERT INTO t (a) VALUES (2)"))
        raise ZeroDivisionError
    with table.databases.write("global") as connection:
        connection.execute(text("INSERT INTO t (a) VALUES (3)"))
    assert rows(table.databases) == [1, 3]


def test_a_write_in_a_read_block_is_refused(table: TestSite) -> None:
    with (
        pytest.raises(ReadOnlyConnection, match=r"databases\.write"),
        table.databases.read("global") as connection,
    ):
        connection.execute(text("INSERT INTO t (a) VALUES (1)"))
    assert rows(table.databases) == []


def test_the_callers_own_mistakes_keep_their_errors(table: TestSite) -> None:
    with table.databases.write("global") as connection:
        connection.execute(text("INSERT INTO t (a) VALUES (1)"))
    with pytest.raises(exc.IntegrityError), table.databases.write("global") as connection:
        connection.execute(text("INSERT INTO t (a) VALUES (1)"))


def test_a_read_block_sees_one_moment(table: TestSite) -> None:
    with table.databases.read("global") as reading:
        before = reading.scalar(text("SELECT COUNT(*) FROM t"))
        with table.databases.write("global") as writing:
            writing.execute(text("INSERT INTO t (a) VALUES (1)"))
        assert reading.scalar(text("SELECT COUNT(*) FROM t")) == before == 0
    assert rows(table.databases) == [1]


def test_text_and_bytes_come_back_as_they_went_in(site: TestSite) -> None:
    strange = "héé 日本 𝄞 %s %(x)s :y ' \" \\"
    blob = bytes(range(256))
    with site.databases.write("global") as connection:
        connection.execute(text("CREATE TABLE u (a VARCHAR(100), b BLOB)"))
        connection.execute(text("INSERT INTO u VALUES (:a, :b)"), {"a": strange, "b": blob})
    with site.databases.read("global") as connection:
        row = connection.execute(text("SELECT a, b FROM u")).one()
    assert row.a == strange
    assert bytes(row.b) == blob
    with site.databases.read("global") as connection:  # a byte-wise collation
        assert connection.scalar(text("SELECT COUNT(*) FROM u WHERE a = :a"), {"a": "HÉÉ"}) == 0


def test_a_full_pool_waits(mariadb: MariaDB) -> None:
    with site_on_mariadb(mariadb, pool_size=2, pool_wait_s=10) as site:
        done: list[float] = []

        def work() -> None:
            with site.databases.write("global") as connection:
                connection.execute(text("SELECT SLEEP(0.1)"))
            done.append(time.monotonic())

        threads = [threading.Thread(target=work) for _ in range(8)]
        start = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(done) == 8
        assert done[-1] - start >= 0.4  # two at a time


@pytest.mark.parametrize("mode", ["read", "write"])
def test_a_pool_that_stays_full_says_so(mariadb: MariaDB, mode: str) -> None:
    with site_on_mariadb(mariadb, pool_size=1, pool_wait_s=0.2) as site:
        use = getattr(site.databases, mode)
        with use("global"):
            start = time.monotonic()
            with pytest.raises(PoolExhausted, match="pool_size"), use("global"):
                pass
            assert 0.15 < time.monotonic() - start < 2
        with use("global") as connection:
            assert connection.scalar(text("SELECT 1")) == 1


def test_reading_beside_an_open_write_needs_no_second_writer(site: TestSite) -> None:
    with site.databases.write("global"), site.databases.read("global") as connection:
        assert connection.scalar(text("SELECT 1")) == 1


def test_sqlite_writers_of_other_processes_are_waited_for(tmp_path: Path) -> None:
    with site_on_sqlite(tmp_path, lock_wait_s=1) as site:
        other = Databases(site.settings)
        try:
            with site.databases.write("global"):
                start = time.monotonic()
                with pytest.raises(DatabaseBusy, match="again"), other.write("global"):
                    pass
                assert time.monotonic() - start > 0.9
            with other.write("global") as connection:
                connection.execute(text("CREATE TABLE t (a INTEGER)"))
        finally:
            other.close()


def test_locks_and_deadlocks_are_told_as_busy(mariadb: MariaDB) -> None:
    with site_on_mariadb(mariadb, lock_wait_s=1) as site:
        with site.databases.write("global") as connection:
            connection.execute(text("CREATE TABLE t (a INTEGER PRIMARY KEY)"))
            connection.execute(text("INSERT INTO t VALUES (1)"))
        with site.databases.write("global") as holder:
            holder.execute(text("SELECT a FROM t WHERE a = 1 FOR UPDATE"))
            with pytest.raises(DatabaseBusy), site.databases.write("global") as connection:
                connection.execute(text("SELECT a FROM t WHERE a = 1 FOR UPDATE"))


def test_a_connection_killed_while_idle_is_replaced(
    mariadb: MariaDB, mariadb_site: TestSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lj_services.database.engines.PING_AFTER_S", 0.0)
    with mariadb_site.databases.write("global") as connection:
        first = connection.scalar(text("SELECT CONNECTION_ID()"))
    mariadb.query(f"KILL {first}")
    with mariadb_site.databases.write("global") as connection:
        assert connection.scalar(text("SELECT CONNECTION_ID()")) != first


def test_a_connection_that_breaks_in_the_block_is_told_and_not_reused(
    mariadb: MariaDB, mariadb_site: TestSite
) -> None:
    with (  # noqa: PT012
        pytest.raises(DatabaseUnreachable),
        mariadb_site.databases.write("global") as connection,
    ):
        first = connection.scalar(text("SELECT CONNECTION_ID()"))
        mariadb.query(f"KILL {first}")
        connection.execute(text("SELECT 1"))
    with mariadb_site.databases.write("global") as connection:
        assert connection.scalar(text("SELECT CONNECTION_ID()")) != first


def test_sessions_are_as_the_design_wants_them(mariadb_site: TestSite) -> None:
    asked = text("SELECT @@time_zone, @@collation_connection, @@tx_isolation, @@tx_read_only")
    with mariadb_site.databases.write("global") as connection:
        assert tuple(connection.execute(asked).one()) == (
            "+00:00", "utf8mb4_bin", "READ-COMMITTED", 0,
        )  # fmt: skip
    with mariadb_site.databases.read("global") as connection:
        assert tuple(connection.execute(asked).one()) == (
            "+00:00", "utf8mb4_bin", "REPEATABLE-READ", 1,
        )  # fmt: skip


def test_too_many_connections_is_waited_for(mariadb: MariaDB, mariadb_site: TestSite) -> None:
    mariadb.query(
        "CREATE OR REPLACE USER few@localhost WITH MAX_USER_CONNECTIONS 1",
        "GRANT ALL ON *.* TO few@localhost",
    )
    settings = settings_of({"global": mariadb.url("lj_global", user="few")})
    one, two = Databases(settings), Databases(settings)
    try:
        entered = threading.Event()

        def hold() -> None:
            with one.write("global") as connection:
                entered.set()
                connection.execute(text("SELECT SLEEP(0.6)"))
            one.close()

        thread = threading.Thread(target=hold)
        thread.start()
        entered.wait(5)
        with two.write("global") as connection:
            assert connection.scalar(text("SELECT 1")) == 1
        thread.join()
    finally:
        two.close()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"user": "nobody"}, "password_file"),
        ({"database": "lj_nowhere"}, "no such database"),
    ],
)
def test_what_the_server_refuses_says_what_to_do(
    mariadb: MariaDB, mariadb_site: TestSite, change: dict[str, str], says: str
) -> None:
    url = mariadb.url(**{"database": "lj_global", **change})
    databases = Databases(settings_of({"global": url}))
    with pytest.raises(DatabaseUnreachable, match=says), databases.write("global"):
        pass
    databases.close()


def test_a_password_file_is_used(mariadb: MariaDB, mariadb_site: TestSite, tmp_path: Path) -> None:
    mariadb.query(
        "CREATE OR REPLACE USER secret@localhost IDENTIFIED BY 'pa%40 :/?#ss'",
        "GRANT ALL ON *.* TO secret@localhost",
    )
    file = tmp_path / "password"
    file.write_text("pa%40 :/?#ss\n")
    url = mariadb.url("lj_global", user="secret")
    databases = Databases(settings_of({"global": url}, password_file=str(file)))
    with databases.write("global") as connection:
        assert connection.scalar(text("SELECT CURRENT_USER()")) == "secret@localhost"
    databases.close()


def test_tcp_works_as_the_socket_does(mariadb: MariaDB, mariadb_site: TestSite) -> None:
    mariadb.query("CREATE OR REPLACE USER tcp@'127.0.0.1'", "GRANT ALL ON *.* TO tcp@'127.0.0.1'")
    url = mariadb.tcp_url("lj_global", user="tcp")
    for scheme in ("mariadb", "mysql"):
        databases = Databases(settings_of({"global": url.replace("mariadb", scheme)}))
        with databases.write("global") as connection:
            assert connection.scalar(text("SELECT DATABASE()")) == "lj_global"
        databases.close()


def test_the_driver_does_not_ping_before_every_statement(
    mariadb: MariaDB, mariadb_site: TestSite
) -> None:
    def pings() -> int:
        ((_, count),) = mariadb.query("SHOW GLOBAL STATUS LIKE 'Com_admin_commands'")
        return int(count)

    with mariadb_site.databases.read("global") as connection:
        before = pings()
        for _ in range(50):
            connection.execute(text("SELECT 1"))
        assert pings() - before < 10
