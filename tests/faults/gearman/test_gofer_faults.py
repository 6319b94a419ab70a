"""Gofers and job servers that die in the middle of calls."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lj_services.gearman import gofer
from lj_services.gearman.client import Client
from tests.support.gofer import ROLE, GoferSite, gofer_site
from tests.support.mariadb import MariaDB
from tests.support.process import wait_for

pytestmark = pytest.mark.faults


@pytest.fixture
def site(mariadb: MariaDB, tmp_path: Path) -> Iterator[GoferSite]:
    with mariadb.database("lj_gofer_faults") as url, gofer_site(tmp_path, url) as made:
        made.run("CREATE TABLE t (a INTEGER) ENGINE=InnoDB")  # no key: it takes anything twice
        yield made


def sleeping(mariadb: MariaDB) -> bool:
    """Whether a statement sleeps in the database."""
    query = "SELECT 1 FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%'"
    return bool(mariadb.query(query))


def test_a_gofer_that_is_killed_in_a_transaction_did_nothing_and_the_next_does_it_once(
    site: GoferSite, mariadb: MariaDB
) -> None:
    first = site.start()
    answers: list[object] = []

    def write() -> None:
        with site.connect(timeout_s=60) as connection:
            statements = [("INSERT INTO t VALUES (?)", (1,)), ("SELECT SLEEP(?)", (1,))]
            answers.append([result.rowcount for result in connection.transaction(statements)])

    caller = threading.Thread(target=write, daemon=True)
    caller.start()
    wait_for(lambda: sleeping(mariadb), "the transaction to be in its middle")
    first.kill()
    assert site.rows("SELECT a FROM t") == []
    site.start()
    caller.join(60)
    assert answers == [[1, 1]]
    assert site.rows("SELECT a FROM t") == [(1,)]


def test_a_gofer_that_is_killed_with_a_lease_leaves_nothing(
    site: GoferSite, mariadb: MariaDB
) -> None:
    holder = site.start()
    connection = site.connect(lease_s=20, timeout_s=2)
    connection.cursor().execute("INSERT INTO t VALUES (1)")
    holder.kill()
    site.start()
    with pytest.raises(gofer.TransactionLost):
        connection.cursor().execute("INSERT INTO t VALUES (2)")
    with pytest.raises(gofer.TransactionLost):
        connection.commit()
    connection.rollback()
    wait_for(
        lambda: mariadb.query("SELECT count(*) FROM information_schema.innodb_trx") == [(0,)],
        "the database to roll back",
    )
    connection.cursor().execute("INSERT INTO t VALUES (3)")
    connection.commit()
    assert site.rows("SELECT a FROM t") == [(3,)]


def test_reads_go_on_when_a_gofer_is_killed(site: GoferSite, mariadb: MariaDB) -> None:
    first = site.start("frame=1024")
    site.run("INSERT INTO t SELECT seq FROM seq_1_to_5000")
    rows: list[object] = []

    def read() -> None:
        with site.connect(timeout_s=60) as connection:
            sql = "SELECT SLEEP(0.5), a FROM t WHERE a <= 1 UNION ALL SELECT 0, a FROM t"
            rows.extend(connection.cursor().execute(sql).fetchall())

    caller = threading.Thread(target=read, daemon=True)
    caller.start()
    wait_for(lambda: sleeping(mariadb), "the query to run")
    first.kill()
    site.start("frame=1024")
    caller.join(60)
    assert len(rows) == 5001


def test_writes_are_done_once_while_job_servers_and_gofers_come_and_go(site: GoferSite) -> None:
    """What was acknowledged is there once; what is unknown is there once or not at all."""
    gofers = [site.start(), site.start(workers=2)]
    acknowledged: list[int] = []
    unknown: list[int] = []
    refused: list[int] = []
    stop = threading.Event()

    def write(caller: int) -> None:
        with Client([site.server.address], dead_retry_s=0.05) as client:
            connection = gofer.connect(client, ROLE, timeout_s=3)
            number = caller
            while not stop.is_set():
                number += 10
                try:
                    connection.cursor().execute("INSERT INTO t VALUES (?)", (number,))
                    acknowledged.append(number)
                except gofer.CallUnknown:
                    unknown.append(number)
                except gofer.OperationalError:
                    refused.append(number)
                    stop.wait(0.02)

    callers = [threading.Thread(target=write, args=(n,), daemon=True) for n in range(8)]
    for caller in callers:
        caller.start()

    def more() -> None:
        there = len(acknowledged)
        wait_for(lambda: len(acknowledged) > there + 50, "writes to go on", timeout_s=60)

    for turn in range(4):
        more()
        if turn % 2:
            site.server.kill()
            site.server.start()
        else:
            gofers.pop(0).kill()
            gofers.append(site.start(workers=2))
    more()
    stop.set()
    for caller in callers:
        caller.join(30)
        assert not caller.is_alive()
    counts = dict(site.rows("SELECT a, count(*) FROM t GROUP BY a"))
    assert {counts.get(number) for number in acknowledged} == {1}
    assert {counts.get(number, 0) for number in unknown} <= {0, 1}
    assert not counts.keys() & set(refused)


def test_sigterm_lets_calls_and_leases_finish(site: GoferSite, mariadb: MariaDB) -> None:
    running = site.start()
    holder = site.connect(lease_s=5)
    holder.cursor().execute("INSERT INTO t VALUES (1)")
    answers: list[object] = []

    def write() -> None:
        with site.connect() as connection:
            statements = [("INSERT INTO t VALUES (?)", (2,)), ("SELECT SLEEP(?)", (0.5,))]
            answers.append(len(connection.transaction(statements)))

    caller = threading.Thread(target=write, daemon=True)
    caller.start()
    wait_for(lambda: sleeping(mariadb), "the call to run")
    running.process.terminate()
    wait_for(lambda: "draining" in running.output, "the gofer to drain")
    holder.cursor().execute("INSERT INTO t VALUES (3)")
    holder.commit()
    caller.join(30)
    assert answers == [2]
    assert running.process.wait(30) == 0
    assert sorted(site.rows("SELECT a FROM t")) == [(1,), (2,), (3,)]
    # The function of the calls in its transactions is not kept for nobody.
    assert set(site.server.status()) == {f"gofer.{ROLE}.read", f"gofer.{ROLE}.write"}
