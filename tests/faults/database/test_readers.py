"""Readers that die, hang or fall behind are left out, and taken back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from sqlalchemy import text

from lj_services.database import (
    CommitUnknown,
    Databases,
    DatabaseSettings,
    DatabaseUnreachable,
    Position,
    ReaderState,
    WriterReadOnly,
)
from lj_services.database import readers as readers_module
from tests.support.mariadb import MariaDB, replicate
from tests.support.process import wait_for

pytestmark = pytest.mark.faults

Pair = tuple[MariaDB, MariaDB]


@pytest.fixture
def databases(mariadb_pair: Pair, monkeypatch: pytest.MonkeyPatch) -> Iterator[Databases]:
    """``global`` on the pair, looked at often, with a table that has replicated."""
    monkeypatch.setattr(readers_module, "DEAD_FIRST_S", 0.5)
    monkeypatch.setattr(readers_module, "DEAD_LONGEST_S", 0.5)
    writer, replica = mariadb_pair
    writer.query("CREATE OR REPLACE DATABASE lj", "CREATE TABLE lj.t (a INTEGER PRIMARY KEY)")
    ((seen,),) = writer.query("SELECT @@gtid_binlog_pos")
    assert replica.query(f"SELECT MASTER_GTID_WAIT('{seen}', 20)") == [(0,)]
    role = {
        "writer": writer.url("lj"),
        "readers": [{"url": replica.url("lj")}],
        "health_interval_s": 0.1,
        "max_lag_s": 2,
        "connect_timeout_s": 1,
        "read_timeout_s": 1,
        "position_wait_s": 0.5,
    }
    databases = Databases(DatabaseSettings.model_validate({"roles": {"global": role}}))
    yield databases
    databases.close()


def server_id(databases: Databases) -> int:
    with databases.read("global") as connection:
        return int(connection.scalar(text("SELECT @@server_id")) or 0)


def reader(databases: Databases) -> ReaderState:
    (only,) = databases.readers()
    return only


def until(databases: Databases, up: bool, why: str = "") -> None:
    wait_for(
        lambda: reader(databases).up is up and why in reader(databases).why_not,
        f"the reader to be {'up' if up else f'left out ({why})'}; it is {reader(databases)}",
    )


def test_reads_go_to_the_replica_and_writes_to_the_writer(databases: Databases) -> None:
    assert server_id(databases) == 2
    with databases.write("global") as connection:
        assert connection.scalar(text("SELECT @@server_id")) == 1
    with databases.read("global", definitive=True) as connection:
        assert connection.scalar(text("SELECT @@server_id")) == 1


def test_a_killed_replica_is_left_out_and_taken_back(
    databases: Databases, mariadb_pair: Pair
) -> None:
    _, replica = mariadb_pair
    assert server_id(databases) == 2
    replica.kill()
    # The pooled connection breaks under the first read at most; then the writer answers.
    broken = 0
    for _ in range(20):
        try:
            assert server_id(databases) == 1
        except DatabaseUnreachable:
            broken += 1
    assert broken <= 1
    until(databases, False)
    replica.start()
    until(databases, True)
    assert server_id(databases) == 2


def test_a_replica_that_hangs_costs_one_timeout(databases: Databases, mariadb_pair: Pair) -> None:
    _, replica = mariadb_pair
    assert server_id(databases) == 2
    replica.hang()
    try:
        until(databases, False)
        start = time.monotonic()
        for _ in range(20):
            assert server_id(databases) == 1
        assert time.monotonic() - start < 1.0
    finally:
        replica.resume()
    until(databases, True)


@pytest.mark.parametrize("thread", ["SQL_THREAD", "IO_THREAD"])
def test_stopped_replication_counts_as_lag(
    databases: Databases, mariadb_pair: Pair, thread: str
) -> None:
    _, replica = mariadb_pair
    assert server_id(databases) == 2
    replica.query(f"STOP SLAVE {thread}")
    until(databases, False, "replication is stopped")
    assert server_id(databases) == 1
    replica.query(f"START SLAVE {thread}")
    until(databases, True)


def test_a_reader_that_replicates_from_nowhere_is_left_out(
    databases: Databases, mariadb_pair: Pair
) -> None:
    writer, replica = mariadb_pair
    assert server_id(databases) == 2
    replica.query("STOP SLAVE", "RESET SLAVE ALL")
    until(databases, False, "max_lag_s = 0")
    assert server_id(databases) == 1
    replicate(writer, replica)
    until(databases, True)


def test_a_replica_behind_is_left_out_until_it_has_caught_up(
    databases: Databases, mariadb_pair: Pair
) -> None:
    writer, replica = mariadb_pair
    assert server_id(databases) == 2
    replica.query("STOP SLAVE", "CHANGE MASTER TO MASTER_DELAY=30", "START SLAVE")
    writer.query("INSERT INTO lj.t VALUES (1)")  # and its replica waits on it
    until(databases, False, "behind")
    assert server_id(databases) == 1
    replica.query("STOP SLAVE", "CHANGE MASTER TO MASTER_DELAY=0", "START SLAVE")
    until(databases, True)


def test_read_your_writes_on_a_replica(databases: Databases) -> None:
    for number in range(50):
        with databases.write("global") as connection:
            connection.execute(text("INSERT INTO t VALUES (:a)"), {"a": number})
        seen = databases.position("global")
        with databases.read("global", after=seen) as connection:
            assert connection.scalar(text("SELECT @@server_id")) == 2
            assert connection.scalar(text("SELECT MAX(a) FROM t")) == number


def test_the_writer_answers_when_the_replica_does_not_catch_up(
    databases: Databases, mariadb_pair: Pair
) -> None:
    _, replica = mariadb_pair
    assert server_id(databases) == 2
    replica.query("STOP SLAVE SQL_THREAD")
    with databases.write("global") as connection:
        connection.execute(text("INSERT INTO t VALUES (1)"))
    seen = databases.position("global")
    start = time.monotonic()
    with databases.read("global", after=seen) as connection:
        assert connection.scalar(text("SELECT COUNT(*) FROM t")) == 1
        assert connection.scalar(text("SELECT @@server_id")) == 1
    assert time.monotonic() - start < 3
    replica.query("START SLAVE SQL_THREAD")


def test_a_writer_that_turned_read_only_is_told_and_left(
    databases: Databases, mariadb_pair: Pair
) -> None:
    writer, _ = mariadb_pair
    writer.query(
        "CREATE OR REPLACE USER app@localhost", "GRANT SELECT, INSERT ON lj.* TO app@localhost"
    )
    mine = Databases(
        DatabaseSettings.model_validate(
            {"roles": {"global": {"writer": writer.url("lj", user="app")}}}
        )
    )
    with mine.write("global") as connection:
        first = connection.scalar(text("SELECT CONNECTION_ID()"))
    writer.query("SET GLOBAL read_only = 1")
    with pytest.raises(WriterReadOnly), mine.write("global") as connection:
        connection.execute(text("INSERT INTO t VALUES (7)"))
    writer.query("SET GLOBAL read_only = 0")
    with mine.write("global") as connection:
        assert connection.scalar(text("SELECT CONNECTION_ID()")) != first
        connection.execute(text("INSERT INTO t VALUES (7)"))
    mine.close()


def test_a_writer_that_hangs_is_given_up(databases: Databases, mariadb_pair: Pair) -> None:
    writer, _ = mariadb_pair
    with databases.write("global") as connection:
        connection.execute(text("INSERT INTO t VALUES (1)"))
    writer.hang()
    try:
        start = time.monotonic()
        with pytest.raises(DatabaseUnreachable), databases.write("global") as connection:
            connection.execute(text("INSERT INTO t VALUES (2)"))
        assert time.monotonic() - start < 10
    finally:
        writer.resume()
    with databases.write("global") as connection:
        connection.execute(text("INSERT INTO t VALUES (3)"))


def test_a_commit_without_an_answer_is_told_as_unknown(
    databases: Databases, mariadb_pair: Pair
) -> None:
    writer, _ = mariadb_pair
    try:
        with (  # noqa: PT012
            pytest.raises(CommitUnknown),
            databases.write("global") as connection,
        ):
            connection.execute(text("INSERT INTO t VALUES (1)"))
            writer.hang()
    finally:
        writer.resume()
    with databases.read("global", definitive=True) as connection:
        assert connection.scalar(text("SELECT COUNT(*) FROM t")) in (0, 1)


def test_while_the_writer_is_away_its_replica_answers(
    databases: Databases, mariadb_pair: Pair
) -> None:
    writer, _ = mariadb_pair
    assert server_id(databases) == 2
    with databases.write("global") as connection:
        connection.execute(text("INSERT INTO t VALUES (1)"))
    seen = databases.position("global")
    writer.kill()
    until(databases, False, "it has lost its source")
    # A pooled connection may break under the first read.
    with suppress(DatabaseUnreachable):
        server_id(databases)
    for after in (None, seen):
        with databases.read("global", after=after) as connection:
            assert connection.scalar(text("SELECT @@server_id")) == 2
            assert connection.scalar(text("SELECT a FROM t")) == 1
    # What is nowhere but on the writer is not made up.
    with pytest.raises(DatabaseUnreachable), databases.read("global", definitive=True):
        pass
    newer = Position("global", f"1-1-{int(seen.gtid.rpartition('-')[2]) + 1}")
    with pytest.raises(DatabaseUnreachable), databases.read("global", after=newer):
        pass
    writer.start()
    until(databases, True)
    assert server_id(databases) == 2


def test_a_replica_that_was_stopped_does_not_answer_for_the_writer(
    databases: Databases, mariadb_pair: Pair
) -> None:
    writer, replica = mariadb_pair
    assert server_id(databases) == 2
    replica.query("STOP SLAVE IO_THREAD")
    until(databases, False, "replication is stopped")
    writer.kill()
    with pytest.raises(DatabaseUnreachable):
        server_id(databases)
    writer.start()
    replica.query("START SLAVE IO_THREAD")
    until(databases, True)


def test_what_a_replica_has_not_replayed_yet_leaves_it_out(
    databases: Databases, mariadb_pair: Pair
) -> None:
    writer, replica = mariadb_pair
    assert server_id(databases) == 2
    replica.query("STOP SLAVE", "CHANGE MASTER TO MASTER_DELAY=30", "START SLAVE")
    writer.query("INSERT INTO lj.t VALUES (1)")
    until(databases, False, "behind")
    writer.kill()
    until(databases, False, "replication is stopped (Slave_IO_Running: Connecting)")
    with pytest.raises(DatabaseUnreachable):
        server_id(databases)
    writer.start()
    replica.query("STOP SLAVE", "CHANGE MASTER TO MASTER_DELAY=0", "START SLAVE")
    until(databases, True)


def test_of_a_writer_that_hangs_one_read_pays_the_timeout(
    databases: Databases, mariadb_pair: Pair
) -> None:
    writer, replica = mariadb_pair
    assert server_id(databases) == 2
    replica.query("SET GLOBAL slave_net_timeout = 1", "STOP SLAVE", "START SLAVE")
    until(databases, True)
    writer.hang()
    try:
        until(databases, False, "it has lost its source")
        start = time.monotonic()
        with suppress(DatabaseUnreachable):
            server_id(databases)
        for _ in range(20):
            assert server_id(databases) == 2
        assert time.monotonic() - start < 5
    finally:
        writer.resume()
        replica.query("SET GLOBAL slave_net_timeout = 60", "STOP SLAVE", "START SLAVE")
    until(databases, True)
