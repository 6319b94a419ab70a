"""Moving users: how long their writes are held, how fast rows travel, how many users an hour.

Two MariaDB servers, durable as in production (``innodb_flush_log_at_trx_commit=1``,
``sync_binlog=1``).  The pause is measured on a user who is written to 200 times a second, as
the mover sees it (from the freeze's first statement to the tombstone) and as the writer does
(the longest time from the beginning of a write to its commit, during the whole move).  The user
moves to and fro.

The copy is compared with ``mariadb-dump --where | mariadb`` of the same rows between the same
servers.  Many small users are compared with the plainest way there is: one worker that makes each
user read-only and copies row by row.
"""

from __future__ import annotations

import statistics
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from sqlalchemy import delete, insert, select, update

import lj_services
from bench.harness import Comparison, Contender, Load, Subject
from lj_services.database import cluster_role
from lj_services.usercluster.mover import Move
from lj_services.usercluster.tables import user, user_home
from tests.support import moving
from tests.support.databases import TestSite, settings_of
from tests.support.mariadb import MariaDB, private_servers

TITLE = "Moving users"
WRITES_A_SECOND = 200
SMALL_ROWS = 200


class Bench:
    """A site on two servers, and what was measured on it."""

    def __init__(self, site: TestSite, servers: list[MariaDB], ours: bool) -> None:
        self.ours = ours
        moving.prepare(site.databases)
        self.site = site
        self.databases = site.databases
        self.servers = servers
        self.users = site.users()
        self.worker = moving.worker(site, self.users, grace_s=0.0, lease_s=15.0, purge_rows=5000)
        self.held: dict[int, list[float]] = defaultdict(list)
        self.gaps: dict[int, list[float]] = defaultdict(list)
        self._filled: dict[int, int] = {}
        self._names = iter(range(1_000_000))

    def new_user(self, rows: int, cluster: int = 1) -> int:
        """A user with so many rows."""
        userid = self.users.create(f"u{next(self._names)}", cluster=cluster).userid
        moving.fill(self.databases, cluster, userid, rows // 2, size=300)
        return userid

    def user_of(self, rows: int) -> int:
        """The one user of that size who is moved to and fro."""
        if rows not in self._filled:
            self._filled[rows] = self.new_user(rows)
        return self._filled[rows]

    def move(self, userid: int) -> Move:
        """To the other cluster, as far as the cut-over."""
        moved = moving.move(self.worker, userid, 3 - moving.home(self.databases, userid))
        assert moved.state == "switched", moved.error
        return moved

    def purge(self, moved: Move) -> None:
        """Then the old rows."""
        moving.run_until(self.worker, moved.move_id, "done", timeout_s=600)


@contextmanager
def site(ours: bool = True) -> Iterator[Subject]:
    """Two servers for the length of the block."""
    with private_servers() as make:
        options = ("--innodb-buffer-pool-size=256M", "--innodb-log-file-size=128M")
        servers = [make(1, options), make(2, options)]
        for server, databases in ((0, ("lj_global", "lj_cluster1")), (1, ("lj_cluster2",))):
            servers[server].query(*(f"CREATE DATABASE {name}" for name in databases))
        urls = {
            "global": servers[0].url("lj_global"),
            "cluster1": servers[0].url("lj_cluster1"),
            "cluster2": servers[1].url("lj_cluster2"),
        }
        made = TestSite(settings_of(urls, pool_size=16), "mariadb")
        try:
            yield Subject(Bench(made, servers, ours))
        finally:
            made.databases.close()


class Steady(threading.Thread):
    """Writes to a user at an even rate, and notes how long each write took."""

    def __init__(self, bench: Bench, userid: int) -> None:
        super().__init__(daemon=True)
        self.took: list[float] = []
        self._bench = bench
        self._userid = userid
        self._stop_asked = threading.Event()

    def run(self) -> None:
        number = 0
        due = time.monotonic()
        mine = moving.note.c.userid == self._userid
        while not self._stop_asked.is_set():
            number += 1
            began = time.monotonic()
            with self._bench.users.writing(self._userid) as connection:
                connection.execute(
                    update(moving.note)
                    .where(mine, moving.note.c.noteid == number % 400 + 1)
                    .values(version=number)
                )
            self.took.append(time.monotonic() - began)
            due = max(due + 1 / WRITES_A_SECOND, time.monotonic() - 0.1)
            self._stop_asked.wait(max(0.0, due - time.monotonic()))

    def stop(self) -> None:
        self._stop_asked.set()
        self.join()


def pauses(subject: Subject, rows: int, moves: int) -> float:
    """Move under writes; the median time under the fence, in milliseconds."""
    bench: Bench = subject.value
    userid = bench.user_of(rows)
    held = []
    for _ in range(moves):
        writer = Steady(bench, userid)
        writer.start()
        time.sleep(0.2)
        moved = bench.move(userid)
        time.sleep(0.1)
        writer.stop()
        held.append((bench.worker.moves.get(moved.move_id).freeze_us or 0) / 1000)
        bench.gaps[rows].append(max(writer.took) * 1000)
        bench.purge(moved)
    bench.held[rows] += held
    return statistics.median(held)


def p99(subject: Subject, rows: int) -> float:
    """The 99th percentile of all pauses so far, in milliseconds."""
    bench: Bench = subject.value
    held = sorted(bench.held[rows])
    return held[min(len(held) - 1, round(len(held) * 0.99))]


def gap(subject: Subject, rows: int) -> float:
    """The median over all moves so far of the longest write, in milliseconds."""
    bench: Bench = subject.value
    return statistics.median(bench.gaps[rows])


def copy_rate(subject: Subject, rows: int) -> float:
    """Rows a second from the first to the last chunk of a move."""
    bench: Bench = subject.value
    userid = bench.user_of(rows)
    moved = bench.move(userid)
    at = {event.state: event.at for event in reversed(bench.worker.moves.events(moved.move_id))}
    bench.purge(moved)
    return int(moved.progress["rows"]) / ((at["catching_up"] - at["copying"]) / 1000)


def dump_rate(subject: Subject, rows: int) -> float:
    """Rows a second of ``mariadb-dump --where | mariadb``."""
    bench: Bench = subject.value
    userid = bench.user_of(rows)
    at = moving.home(bench.databases, userid)
    here, there = bench.servers[at - 1], bench.servers[2 - at]
    began = time.monotonic()
    dump = subprocess.Popen(
        [
            *("mariadb-dump", "--no-defaults", "-uroot", f"--socket={here.socket}"),
            *("--no-create-info", "--single-transaction", "--skip-triggers"),
            *(f"--where=userid={userid}", f"lj_cluster{at}", "note", "tag", "usercounter"),
        ],
        stdout=subprocess.PIPE,
    )
    load = ["mariadb", "--no-defaults", "-uroot", f"--socket={there.socket}"]
    subprocess.run([*load, f"lj_cluster{3 - at}"], stdin=dump.stdout, check=True)
    assert dump.wait() == 0
    took = time.monotonic() - began
    with bench.databases.write(cluster_role(3 - at)) as connection:
        for table in moving.TABLES:
            connection.execute(delete(table).where(table.c.userid == userid))
    return rows / took


def crowd_by_workers(subject: Subject, users: int) -> float:
    """Users a minute, 4 moves at once."""
    bench: Bench = subject.value
    asked = [bench.new_user(SMALL_ROWS) for _ in range(users)]
    # Purging is not timed here, as the plain way does not delete anything either.
    worker = moving.worker(bench.site, bench.users, grace_s=3600.0, lease_s=15.0)
    began = time.monotonic()
    for userid in asked:
        worker.moves.enqueue(userid, 2)
    worker.loop(threading.Event(), jobs=4, until_idle=True)
    took = time.monotonic() - began
    assert {moving.home(bench.databases, userid) for userid in asked} == {2}
    return users / took * 60


def crowd_row_by_row(subject: Subject, users: int) -> float:
    """Users a minute, each read-only for as long as its rows are copied one by one."""
    bench: Bench = subject.value
    asked = [bench.new_user(SMALL_ROWS) for _ in range(users)]
    began = time.monotonic()
    for userid in asked:
        bench.users.set_readonly(userid, True)
        for table in moving.TABLES:
            with bench.databases.read("cluster1", definitive=True) as source:
                rows = source.execute(select(table).where(table.c.userid == userid)).mappings()
                copies = [dict(row) for row in rows]
            for row in copies:
                with bench.databases.write("cluster2") as destination:
                    destination.execute(insert(table).values(**row))
        with bench.databases.write("cluster2") as destination:
            destination.execute(
                insert(user_home).values(userid=userid, state="active", epoch=2, readonly=True)
            )
        with bench.databases.write("global") as connection:
            connection.execute(
                update(user).where(user.c.userid == userid).values(clusterid=2, epoch=2)
            )
        bench.users.set_readonly(userid, False)
    return users / (time.monotonic() - began) * 60


def comparisons(quick: bool) -> Iterator[Comparison]:
    """Pauses by size; copying; many small users."""
    ours = Contender("lj users move", lj_services.__version__, site)
    loads = []
    for rows in (1_000, 25_000) if quick else (1_000, 25_000, 100_000):
        moves = 3 if quick else 4
        size = f"{rows:,} rows"
        loads += [
            Load(f"{size}: held, median", "ms", partial(pauses, rows=rows, moves=moves), "lower"),
            Load(f"{size}: held, 99 %", "ms", partial(p99, rows=rows), "lower"),
            Load(f"{size}: longest write, median", "ms", partial(gap, rows=rows), "lower"),
        ]
    yield Comparison(
        f"How long a user's writes are held, under {WRITES_A_SECOND} writes a second",
        ours=ours,
        loads=loads,
        goal="median under 20 ms, 99 % under 50 ms, whatever the size",
        notes=[
            "held: from the freeze's first statement to the tombstone, as the mover measures it",
            "longest write: the slowest single write of the whole move, waiting included",
        ],
    )
    version = subprocess.run(["mariadb-dump", "--version"], capture_output=True, text=True)
    theirs = partial(site, False)
    peer = Contender("mariadb-dump --where | mariadb", version.stdout.split()[2], theirs)
    rows = 20_000 if quick else 100_000
    yield Comparison(
        "Copying",
        ours=ours,
        peer=peer,
        loads=[Load(f"{rows:,} rows", "rows/s", partial(by_name, "copy", count=rows))],
        goal="at least as fast",
    )
    count = 20 if quick else 100
    yield Comparison(
        f"Users of {SMALL_ROWS} rows",
        ours=Contender("4 moves at once", lj_services.__version__, site),
        peer=Contender("read-only, row by row, one worker", "", theirs),
        loads=[Load(f"{count} users", "users/min", partial(by_name, "crowd", count=count))],
        goal="at least 10 times as many",
    )


def by_name(what: str, subject: Subject, count: int) -> float:
    """Ours or the peer's way, by which of the two sites it is."""
    ours = {"copy": copy_rate, "crowd": crowd_by_workers}
    peers = {"copy": dump_rate, "crowd": crowd_row_by_row}
    return (ours if subject.value.ours else peers)[what](subject, count)
