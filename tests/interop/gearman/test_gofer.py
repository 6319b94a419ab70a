"""Programs that share a few database connections by way of a gofer; MariaDB behind it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from lj_services.daemon import HostPort
from lj_services.gearman import gofer
from lj_services.gearman.admin_client import AdminClient
from lj_services.gearman.client import Client
from tests.support.gofer import ROLE, GoferSite, gofer_site
from tests.support.job_servers import C_SERVER
from tests.support.mariadb import MariaDB
from tests.support.process import wait_for

pytestmark = pytest.mark.interop

SETTINGS = (
    f"roles.{ROLE}.read_connections=20",
    f"roles.{ROLE}.write_connections=4",
    "frame=4096",
)


@pytest.fixture(scope="module")
def site(mariadb: MariaDB, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GoferSite]:
    folder = tmp_path_factory.mktemp("gofer")
    with mariadb.database("lj_gofer") as url, gofer_site(folder, url) as made:
        made.run("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT) ENGINE=InnoDB")
        made.start(*SETTINGS)
        yield made


@pytest.fixture
def empty(site: GoferSite) -> GoferSite:
    site.run("DELETE FROM t")
    return site


def test_a_thousand_connections_share_twenty(site: GoferSite) -> None:
    with Client([site.server.address], max_idle_connections=40) as client:
        connections = [gofer.connect(client, ROLE, read_only=True) for _ in range(1000)]

        def use(connection: gofer.Connection) -> tuple[object, ...] | None:
            return connection.cursor().execute("SELECT CONNECTION_ID(), SLEEP(0.01)").fetchone()

        with ThreadPoolExecutor(40) as threads:
            rows = list(threads.map(use, connections))
    used = {row[0] for row in rows if row is not None}
    assert len(rows) == 1000
    assert 1 < len(used) <= 20


def test_each_call_is_committed_and_a_transaction_is_one_call(empty: GoferSite) -> None:
    with empty.connect() as connection:
        cursor = connection.cursor()
        cursor.execute("INSERT INTO t VALUES (?, ?)", (1, "it's 100%s ?"))
        assert empty.rows("SELECT b FROM t") == [("it's 100%s ?",)]
        assert connection.autocommit
        with pytest.raises(gofer.IntegrityError):
            connection.transaction(
                [("INSERT INTO t VALUES (2, 'x')", ()), ("INSERT INTO t VALUES (1, 'x')", ())]
            )
        assert len(empty.rows("SELECT a FROM t")) == 1
        changed, found = connection.transaction(
            [("UPDATE t SET b = ?", ("y",)), ("SELECT a, b FROM t FOR UPDATE", ())]
        )
        assert (changed.rowcount, found.rows) == (1, [(1, "y")])
        cursor.execute("SELECT b FROM t")  # sees what was written
        assert cursor.fetchall() == [("y",)]


def test_rows_come_in_pieces_and_can_be_had_one_by_one(empty: GoferSite) -> None:
    with empty.connect() as connection:
        rows = [(number, "x" * 100) for number in range(3000)]
        connection.cursor().executemany("INSERT INTO t VALUES (?, ?)", rows)
        query = "SELECT a, b FROM t ORDER BY a"
        assert connection.cursor().execute(query).fetchall() == rows
        assert list(connection.stream(query)) == rows
        first = connection.stream(query)
        assert [next(first) for _ in range(3)] == rows[:3]
        first.close()  # the rest is not wanted
        assert connection.cursor().execute("SELECT count(*) FROM t").fetchone() == (3000,)
        with pytest.raises(gofer.ProgrammingError):
            list(connection.stream("SELECT a FROM none"))


def test_a_lease_holds_a_transaction_that_others_do_not_see(empty: GoferSite) -> None:
    with empty.connect(lease_s=20) as holder, empty.connect() as other:
        cursor = holder.cursor()
        cursor.execute("INSERT INTO t VALUES (1, 'x')")
        cursor.execute("UPDATE t SET b = 'y' WHERE a = ?", (1,))
        assert cursor.execute("SELECT b FROM t").fetchall() == [("y",)]
        assert other.cursor().execute("SELECT b FROM t").fetchall() == []
        with pytest.raises(gofer.IntegrityError):
            cursor.execute("INSERT INTO t VALUES (1, 'z')")
        holder.commit()  # the failed statement alone was undone
        assert other.cursor().execute("SELECT b FROM t").fetchall() == [("y",)]
        cursor.execute("DELETE FROM t")
        holder.rollback()
        assert other.cursor().execute("SELECT b FROM t").fetchall() == [("y",)]


def test_a_lease_that_ran_out_is_rolled_back_and_says_so(empty: GoferSite) -> None:
    with empty.connect(lease_s=0.1) as holder:
        cursor = holder.cursor()
        cursor.execute("INSERT INTO t VALUES (1, 'x')")
        cursor.execute("SELECT SLEEP(0.5)")  # a call that takes longer stops the clock
        with empty.connect() as other:  # waits for the row until it is rolled back
            other.cursor().execute("INSERT INTO t VALUES (1, 'y')")
        with pytest.raises(gofer.TransactionLost):
            cursor.execute("INSERT INTO t VALUES (2, 'x')")
        with pytest.raises(gofer.TransactionLost):
            holder.commit()
        holder.rollback()
        cursor.execute("INSERT INTO t VALUES (3, 'x')")
        holder.commit()
    assert empty.rows("SELECT a, b FROM t") == [(1, "y"), (3, "x")]


def test_leases_never_take_all_connections(empty: GoferSite) -> None:
    holders = [empty.connect(lease_s=20) for _ in range(3)]
    for number, holder in enumerate(holders[:2]):
        holder.cursor().execute("INSERT INTO t VALUES (?, 'x')", (number,))
    with pytest.raises(gofer.OperationalError, match="all 2 leases"):
        holders[2].cursor().execute("INSERT INTO t VALUES (2, 'x')")
    with empty.connect() as other:
        other.cursor().execute("INSERT INTO t VALUES (3, 'x')")
    holders[0].close()
    holders[2].cursor().execute("INSERT INTO t VALUES (2, 'x')")
    for holder in holders[1:]:
        holder.close()
    assert empty.rows("SELECT a FROM t") == [(3,)]


def test_a_deadlock_is_told_and_its_transaction_is_gone(empty: GoferSite) -> None:
    empty.run("INSERT INTO t VALUES (1, 'x'), (2, 'x')")
    with empty.connect(lease_s=20) as one, empty.connect(lease_s=20) as two:
        one.cursor().execute("UPDATE t SET b = 'one' WHERE a = 1")
        two.cursor().execute("UPDATE t SET b = 'two' WHERE a = 2")
        failed: list[gofer.Error] = []

        def cross(connection: gofer.Connection, row: int) -> None:
            try:
                connection.cursor().execute("UPDATE t SET b = 'both' WHERE a = ?", (row,))
                connection.commit()
            except gofer.Error as error:
                failed.append(error)
                connection.rollback()

        threads = [threading.Thread(target=cross, args=each) for each in ((one, 2), (two, 1))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert [type(error) for error in failed] == [gofer.TransactionLost]
    assert sorted(b for (b,) in empty.rows("SELECT b FROM t")) in (["both", "one"], ["both", "two"])


def test_what_is_not_offered_is_refused_or_answered_by_nobody(site: GoferSite) -> None:
    with site.connect() as connection:
        with pytest.raises(gofer.ProgrammingError, match="SET is not allowed"):
            connection.cursor().execute("SET SESSION autocommit = 0")
        with pytest.raises(gofer.InterfaceError, match="lease of 100 s"):
            site.connect(lease_s=100).cursor().execute("SELECT 1")
    other = gofer.connect([site.server.address], "global", timeout_s=0.2)
    with other, pytest.raises(gofer.OperationalError, match="no result within"):
        other.cursor().execute("SELECT 1")
    reading = site.connect(read_only=True)
    with pytest.raises(gofer.ProgrammingError, match="for reading"):
        reading.cursor().execute("DELETE FROM t")
    reading.close()
    with pytest.raises(gofer.InterfaceError):
        reading.cursor()
    for wrong in ({"coalesce": True}, {"lease_s": 1, "read_only": True}, {"timeout_s": 0}):
        with pytest.raises(gofer.InterfaceError):
            site.connect(**wrong)


def coalesced(site: GoferSite, start: Callable[[], object], callers: int) -> set[object]:
    """What `callers` get who all asked before `start` lets a gofer answer."""
    rows: list[object] = []

    def ask() -> None:
        with site.connect(read_only=True, coalesce=True) as connection:
            rows.append(connection.cursor().execute("SELECT UUID()").fetchone())

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(callers)]
    for thread in threads:
        thread.start()
    server = HostPort.parse(site.server.address)
    with Client([site.server.address]) as client:

        def waiting() -> int:
            with AdminClient(server) as admin:
                keys = admin._list("show unique jobs")
            return max(
                (client.status_of_unique(key).waiting_clients or 0 for key in keys), default=0
            )

        wait_for(lambda: waiting() == callers, "all callers to share one job")
    start()
    for thread in threads:
        thread.join(30)
    assert len(rows) == callers
    return set(rows)


@pytest.mark.parametrize("program", [None, C_SERVER], ids=["ours", "C"])
def test_equal_reads_are_one_if_the_caller_allows_it(
    mariadb: MariaDB, tmp_path_factory: pytest.TempPathFactory, program: str | None
) -> None:
    folder = tmp_path_factory.mktemp("coalesce")
    more = {} if program is None else {"program": program}
    with mariadb.database("lj_gofer_same") as url, gofer_site(folder, url, **more) as site:
        assert len(coalesced(site, site.start, 6)) == 1
        with site.connect(read_only=True) as connection:
            cursor = connection.cursor()
            assert len({cursor.execute("SELECT UUID()").fetchone() for _ in range(3)}) == 3
