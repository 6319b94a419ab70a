"""Rows of every type travel exactly, and sums see every difference, on a real MariaDB."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from lj_services.usercluster.mover import SchemaDiffers, Unclassified, rows_server
from lj_services.usercluster.mover.discovery import Table, compare, staying, stays
from lj_services.usercluster.mover.rows import EVERYTHING, Key, Keys, Range
from lj_services.usercluster.mover.rows_server import ServerRows
from tests.support import moving
from tests.support.databases import TestSite

pytestmark = pytest.mark.interop
ROWS = ServerRows()

EVERY_TYPE = """
CREATE TABLE every (
    userid INT UNSIGNED NOT NULL, id BIGINT UNSIGNED NOT NULL, word VARCHAR(20) NOT NULL,
    raw BINARY(4) NOT NULL,
    tiny TINYINT, big BIGINT UNSIGNED, price DECIMAL(30,10), half FLOAT, whole DOUBLE,
    flags BIT(12), y YEAR, d DATE, t TIME(3), at DATETIME(6), seen TIMESTAMP(6) NULL,
    fixed CHAR(5), old VARCHAR(20) CHARACTER SET latin1, long_text MEDIUMTEXT, bytes BLOB,
    mood ENUM('glad','sad','é'), kinds SET('a','b','c'), doc JSON, peer INET6, ref UUID,
    twice INT AS (tiny * 2) STORED, thrice INT AS (tiny * 3) VIRTUAL,
    PRIMARY KEY (userid, id, word, raw), UNIQUE KEY (userid, big)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin
"""
COLUMNS = (
    "userid, id, word, raw, tiny, big, price, half, whole, flags, y, d, t, at, seen, fixed, old, "
    "long_text, bytes, mood, kinds, doc, peer, ref"
)
VALUES = """
 (7, 18446744073709551615, 'it''s', x'61006200', -128, 18446744073709551615,
  -12345678901234567890.0123456789, 0.1, 1e-308, b'101010101010', 1901, '0000-00-00',
  '-838:59:59.999', '0000-00-00 00:00:00', '2038-01-19 03:14:07.999999', 'ab', x'E9FC', '%s ü 𝄞',
  x'00FF27225C0A1A', 'é', 'a,c', '{"k": [1, null]}', '2001:db8::1',
  '123e4567-e89b-12d3-a456-426614174000'),
 (7, 1, '', x'00000000', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
  NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
 (7, 1, 'NULL', x'ffffffff', 0, 0, 0, 3.4028234e38, -0.0, b'0', 0, '9999-12-31', '00:00:00',
  '2024-02-30 24:00:00', '1970-01-01 00:00:01', '', '', '', '', 'glad', '', 'null', '::', NULL)
"""


@pytest.fixture
def one(mariadb_site: TestSite) -> moving.Fixture:
    one = moving.Fixture(mariadb_site)
    for role in ("cluster1", "cluster2"):
        with one.databases.write(role) as connection:
            connection.execute(text(EVERY_TYPE))
    with one.databases.write("cluster1") as connection:
        connection.execute(text("SET SESSION sql_mode = 'ALLOW_INVALID_DATES'"))
        connection.exec_driver_sql(f"INSERT INTO every ({COLUMNS}) VALUES {VALUES}")
        connection.execute(text("SET SESSION sql_mode = DEFAULT"))
    return one


def table(one: moving.Fixture, name: str = "every") -> Table:
    with one.databases.read("cluster1") as connection:
        found = ROWS.schema(connection, "cluster 1").table(name)
    assert found is not None
    return found


def dumped(one: moving.Fixture, role: str) -> list[tuple[object, ...]]:
    """Every column as the server's own hexadecimal: nothing that a driver could change."""
    parts = ", ".join(f"HEX({name})" for name in COLUMNS.split(", "))
    query = f"SELECT {parts}, twice, thrice FROM every ORDER BY userid, id, word, raw"
    with one.databases.read(role) as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def test_every_type_arrives_as_it_was(one: moving.Fixture) -> None:
    every = table(one)
    with one.databases.write("cluster1") as connection:
        chunk = ROWS.chunk(connection, every, 7, EVERYTHING, None, lock=True)
        here = ROWS.sum(connection, every, 7, EVERYTHING)
    with one.databases.write("cluster2") as connection:
        ROWS.put(connection, every, chunk.rows)
        ROWS.put(connection, every, chunk.rows)  # again: no harm
        assert ROWS.sum(connection, every, 7, EVERYTHING) == here
    assert here.count == chunk.count == 3
    assert len(chunk.rows) == 1, "they come as one text"
    assert dumped(one, "cluster2") == dumped(one, "cluster1")


@pytest.mark.parametrize(
    "change",
    [
        "half = 0.10000001",
        "word = 'It''s'",
        "fixed = NULL",
        "bytes = x'00FF27225C0A1B'",
        "doc = '{\"k\": [1,null]}'",
        "flags = NULL",
        "at = '0000-00-00 00:00:00.000001'",
        "kinds = 'a,b'",
        "old = x'E9FD'",
        "tiny = -127",
    ],
)
def test_a_sum_sees_it(one: moving.Fixture, change: str) -> None:
    every = table(one)
    with moving.undone(one.databases, "cluster1") as connection:
        before = ROWS.sum(connection, every, 7, EVERYTHING)
        each = ROWS.each(connection, every, 7, EVERYTHING)
        connection.exec_driver_sql(f"UPDATE every SET {change} WHERE id > 1")
        after = ROWS.sum(connection, every, 7, EVERYTHING)
        changed = ROWS.each(connection, every, 7, EVERYTHING)
    assert (after.first, after.second) != (before.first, before.second)
    assert len(set(each.items()) ^ set(changed.items())) == 2


def test_chunks_walk_the_whole_key(one: moving.Fixture) -> None:
    every = table(one)
    with one.databases.write("cluster1") as connection:
        whole = ROWS.chunk(connection, every, 7, EVERYTHING, None, lock=False)
        walked, counts = walk(connection, every, 1)
        edge = ROWS.edge(connection, every, 7, None, 2)
        low = ROWS.sum(connection, every, 7, Range(None, edge))
        high = ROWS.sum(connection, every, 7, Range(edge))
        whole_sum = ROWS.sum(connection, every, 7, EVERYTHING)
    assert walked == b",".join(whole.rows)
    assert counts == [1, 1, 1, 0]
    assert edge == (1, "NULL", b"\xff\xff\xff\xff")
    assert (low.count, high.count) == (2, 1)
    assert (low.first ^ high.first, low.second ^ high.second) == (whole_sum.first, whole_sum.second)


def walk(connection: Connection, table: Table, rows: int) -> tuple[bytes, list[int]]:
    """All of a user's rows in chunks of so many, as they are put, and how many each had."""
    parts: list[bytes] = []
    counts = []
    after: Key | None = None
    while True:
        chunk = ROWS.chunk(connection, table, 7, Range(after), rows, lock=True)
        parts += chunk.rows
        counts.append(chunk.count)
        after = chunk.last
        if after is None:
            return b",".join(parts), counts


def test_long_rows_come_in_smaller_chunks_or_one_by_one(
    one: moving.Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = table(one)
    with one.databases.write("cluster1") as connection:
        whole = ROWS.chunk(connection, every, 7, EVERYTHING, None, lock=True)
        longest = max(map(len, whole.rows[0].split(b"),(")))
        for together in (longest + 100, 100):
            monkeypatch.setattr(rows_server, "_TOGETHER_BYTES", together)
            single = ROWS.chunk(connection, every, 7, EVERYTHING, None, lock=True)
            assert (len(single.rows), single.count) == (3, 3)
            assert b",".join(single.rows) == whole.rows[0]
            walked, counts = walk(connection, every, 3)
            assert walked == whole.rows[0]
            assert sum(counts) == 3
            assert max(counts) < 3


def test_a_chunk_waits_for_the_writers_of_its_rows(one: moving.Fixture) -> None:
    every = table(one)
    with moving.undone(one.databases, "cluster1") as writer:
        writer.exec_driver_sql("UPDATE every SET tiny = 5 WHERE userid = 7 AND id = 1")
        with moving.undone(one.databases, "cluster1") as connection:
            connection.execute(text("SET SESSION innodb_lock_wait_timeout = 0"))
            unlocked = ROWS.chunk(connection, every, 7, Range(), 3, lock=False)
            assert (unlocked.count, b",5," in unlocked.rows[0]) == (3, False)
            with pytest.raises(DBAPIError, match="Lock wait timeout"):
                ROWS.chunk(connection, every, 7, Range(), 3, lock=True)
            connection.execute(text("SET SESSION innodb_lock_wait_timeout = DEFAULT"))


def test_backslashes_arrive_whatever_the_mode_of_the_server(one: moving.Fixture) -> None:
    every = table(one)
    server = one.databases.writer("cluster2")
    set_mode = text("SET GLOBAL sql_mode = :mode")
    with one.databases.write("cluster1") as connection:
        connection.exec_driver_sql("UPDATE every SET long_text = _utf8mb4 x'615C62275C5C00'")
        chunk = ROWS.chunk(connection, every, 7, EVERYTHING, None, lock=True)
        mode = connection.scalar(text("SELECT @@GLOBAL.sql_mode"))
        connection.execute(set_mode, {"mode": f"{mode},NO_BACKSLASH_ESCAPES"})
        server.close()  # from now on its connections begin with that mode
        try:
            with one.databases.write("cluster2") as destination:
                ROWS.put(destination, every, chunk.rows)
        finally:
            connection.execute(set_mode, {"mode": mode})
            server.close()
    assert dumped(one, "cluster2") == dumped(one, "cluster1")


def test_beginnings_of_keys(one: moving.Fixture) -> None:
    every = table(one)
    with moving.undone(one.databases, "cluster1") as connection:
        for prefixes, count in (
            ([(1,)], 2),
            ([(1, "NULL")], 1),
            ([(1, "NULL", b"\xff\xff\xff\xff"), (2**64 - 1,)], 2),
            ([()], 3),
            ([(5,)], 0),
        ):
            span = Keys(tuple(prefixes))
            assert ROWS.sum(connection, every, 7, span).count == count
            assert ROWS.chunk(connection, every, 7, span, None, lock=True).count == count
        assert ROWS.erase(connection, every, 7, Keys(((1, "NULL"),)), None) == 1
        assert ROWS.erase(connection, every, 7, EVERYTHING, 1) == 1
        assert ROWS.erase(connection, every, 7, EVERYTHING, 10) == 1


@pytest.mark.parametrize(
    ("ddl", "why"),
    [
        ("CREATE TABLE x (id INT PRIMARY KEY) ENGINE=InnoDB", "no column userid"),
        ("CREATE TABLE x (id INT PRIMARY KEY, userid INT) ENGINE=InnoDB", "must come first"),
        ("CREATE TABLE x (userid INT) ENGINE=InnoDB", "must come first"),
        ("CREATE TABLE x (userid INT PRIMARY KEY) ENGINE=MyISAM", "engine is MyISAM"),
        ("CREATE TABLE x (userid INT, d DOUBLE, PRIMARY KEY (userid, d)) ENGINE=InnoDB", "order"),
        ("CREATE TABLE x (userid INT PRIMARY KEY, p POINT) ENGINE=InnoDB", "point"),
        (
            "CREATE TABLE x (userid INT PRIMARY KEY, FOREIGN KEY (userid) "
            "REFERENCES tally (userid)) ENGINE=InnoDB",
            "foreign keys",
        ),
        ("CREATE TRIGGER x BEFORE INSERT ON note FOR EACH ROW SET NEW.version = 1", "triggers"),
        (
            "CREATE TABLE x (userid INT, b VARCHAR(99), PRIMARY KEY (userid, b(9))) ENGINE=InnoDB",
            "beginning of a column",
        ),
    ],
)
def test_a_table_that_cannot_be_moved(one: moving.Fixture, ddl: str, why: str) -> None:
    if "REFERENCES" in ddl:
        ddl = ddl.replace("INT PRIMARY", "INTEGER PRIMARY")
    with one.databases.write("cluster1") as connection:
        connection.exec_driver_sql(ddl)
    failed = moving.move(one.worker, one.bob, 2)
    failed = moving.run_until(one.worker, failed.move_id, "failed")
    assert why in str(failed.error)
    assert moving.fences(one.databases, one.bob) == {1: "active"}
    one.assert_on(1)


def test_a_table_that_stays(one: moving.Fixture) -> None:
    for role in ("cluster1", "cluster2"):
        with one.databases.write(role) as connection:
            connection.exec_driver_sql("CREATE TABLE x_local (id INT PRIMARY KEY) ENGINE=InnoDB")
    with one.databases.read("cluster1") as connection:
        with pytest.raises(Unclassified):
            ROWS.schema(connection, "cluster 1")
        stays("x_local", "nobody's")
        assert "x_local" in staying()
        assert ROWS.schema(connection, "cluster 1").table("x_local") is None


def test_sides_that_differ_are_told_apart(one: moving.Fixture) -> None:
    with one.databases.write("cluster2") as connection:
        connection.exec_driver_sql("ALTER TABLE note MODIFY body VARCHAR(3000)")
        connection.exec_driver_sql("CREATE INDEX by_version ON note (userid, version)")
    with one.databases.read("cluster1") as connection:
        here = ROWS.schema(connection, "cluster 1")
    with one.databases.read("cluster2") as connection:
        there = ROWS.schema(connection, "cluster 2")
    with pytest.raises(SchemaDiffers) as refused:
        compare(("cluster 1", here), ("cluster 2", there))
    assert "note.body varchar(3000)" in str(refused.value)
    assert "by_version" in str(refused.value)
    failed = moving.run_until(one.worker, moving.move(one.worker, one.bob, 2).move_id, "failed")
    assert "lj db migrate" in str(failed.error)
    one.assert_on(1)
