"""Two clusters, users between them, a writer and workers in processes of their own.

On two MariaDB servers, durable as in production (``innodb_flush_log_at_trx_commit=1``,
``sync_binlog=1``), or in SQLite files.  Shared by the benchmarks of moving users.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from sqlalchemy import func, insert, select, text, update

from bench.harness import Subject
from lj_services.database import Databases, DatabaseSettings, cluster_role, migrate
from lj_services.usercluster import Users
from lj_services.usercluster.balance import store
from lj_services.usercluster.mover import Move, MoverSettings, Worker
from lj_services.usercluster.mover.tables import SWITCHED, user_move
from lj_services.usercluster.tables import usercounter
from tests.support import moving
from tests.support.databases import TestSite, settings_of, site_on_sqlite
from tests.support.mariadb import MariaDB, private_servers

WRITES_A_SECOND = 200
RULES = MoverSettings(min_free=0, purge_rows=5000, purge_pause_ms=0, backoff_s=0.2)
"""As an operator gets them, but for the room that a test machine has, and for the purges."""
_spawn = multiprocessing.get_context("spawn")


def beside_what() -> str:
    """What else the machine did just before, for the notes of a comparison."""
    return f"load average of the machine when it began: {os.getloadavg()[0]:.1f}"


class Bench:
    """A site on two servers, and what was measured on it."""

    def __init__(self, site: TestSite, servers: list[MariaDB], ours: bool) -> None:
        self.ours = ours
        moving.prepare(site.databases)
        migrate(site.databases, "global", [store.COMPONENT])  # workers record rates of writes
        self.site = site
        self.databases = site.databases
        self.servers = servers
        self.users = site.users()
        self.worker = Worker(
            site.databases, self.users, RULES.model_copy(update={"grace_s": 0.0}), moving.RULES
        )
        self.held: dict[int, list[float]] = defaultdict(list)
        self.gaps: dict[int, list[float]] = defaultdict(list)
        self.writers: dict[int, Steady] = {}
        self.memory: dict[int, float] = {}
        self.crowds: list[float] = []
        """Users a minute, of each run with many small ones."""
        self.moved = 0
        """Users who were moved by `workers`, and are kept."""
        self._filled: dict[int, int] = {}
        self._names = iter(range(1_000_000))

    def new_user(self, rows: int, cluster: int = 1) -> int:
        """A user with so many rows."""
        userid = self.users.create(f"u{next(self._names)}", cluster=cluster).userid
        fill(self.databases, cluster, userid, rows // 2)
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


@contextmanager
def embedded_site() -> Iterator[Subject]:
    """Two clusters in SQLite files for the length of the block."""
    with TemporaryDirectory() as folder, site_on_sqlite(Path(folder)) as made:
        yield Subject(Bench(made, [], ours=True))


def fill(databases: Databases, cluster: int, userid: int, notes: int) -> None:
    """Give a user so many notes of about 300 bytes, and as many tags; a server makes them."""
    if databases.writer(cluster_role(cluster)).is_sqlite:
        moving.fill(databases, cluster, userid, notes, size=290)
        return
    body = "CONCAT('note ', seq, ' ', REPEAT(MD5(seq), 9))"
    with databases.write(cluster_role(cluster)) as connection:
        for values in (
            f"note (userid, noteid, version, body) SELECT {userid}, seq, 0, {body}",
            f"tag (userid, word, noteid) SELECT {userid}, CONCAT('w', seq % 7), seq",
        ):
            connection.execute(text(f"INSERT INTO {values} FROM seq_1_to_{notes}"))
        connection.execute(insert(usercounter).values(userid=userid, area="note", max=notes))


def write_steadily(settings: str, userid: int, orders: Connection) -> None:
    """Write to a user at an even rate from ``True`` to ``False``; tell the longest write each time.

    The main function of a process: a writer is a web server somewhere else.
    """
    databases = Databases(DatabaseSettings.model_validate_json(settings))
    users = Users(databases, None, moving.RULES)
    mine = moving.note.c.userid == userid
    number = 0
    while _told(orders):
        longest, due = 0.0, time.monotonic()
        while not orders.poll(max(0.0, due - time.monotonic())):
            number += 1
            began = time.monotonic()
            with users.writing(userid) as connection:
                connection.execute(
                    update(moving.note)
                    .where(mine, moving.note.c.noteid == number % 400 + 1)
                    .values(version=number)
                )
            longest = max(longest, time.monotonic() - began)
            due = max(due + 1 / WRITES_A_SECOND, time.monotonic() - 0.1)
        orders.recv()
        orders.send(longest)
    databases.close()


def _told(orders: Connection) -> bool:
    """Wait for an order; False also when nobody is there any more to give one."""
    try:
        return bool(orders.recv())
    except EOFError:
        return False


class Steady:
    """A process that writes to a user 200 times a second when it is told to."""

    def __init__(self, bench: Bench, userid: int) -> None:
        self._orders, theirs = _spawn.Pipe()
        self._process = _spawn.Process(
            target=write_steadily,
            args=(bench.site.settings.model_dump_json(), userid, theirs),
            daemon=True,
        )
        self._process.start()

    def start(self) -> None:
        """Begin."""
        self._orders.send(True)

    def stop(self) -> float:
        """End; returns the longest write since, waiting included, in seconds."""
        self._orders.send(False)
        return float(self._orders.recv())


def work(settings: str, rules: dict[str, Any], jobs: int, orders: Connection) -> None:
    """A worker until it is told to end: the main function of a process."""
    databases = Databases(DatabaseSettings.model_validate_json(settings))
    worker = Worker(
        databases,
        Users(databases, None, moving.RULES),
        RULES.model_copy(update=rules),
        moving.RULES,
    )
    stop = threading.Event()
    thread = threading.Thread(target=worker.loop, args=(stop,), kwargs={"jobs": jobs})
    thread.start()
    orders.send(True)
    orders.recv()
    stop.set()
    thread.join()
    databases.close()


@contextmanager
def workers(
    bench: Bench, count: int, *, jobs: int = 1, **rules: Any
) -> Iterator[list[psutil.Process]]:
    """So many workers, in a process each, who are ready when the block begins."""
    with ExitStack() as stack:
        started = []
        for _ in range(count):
            orders, theirs = _spawn.Pipe()
            process = _spawn.Process(
                target=work,
                args=(bench.site.settings.model_dump_json(), rules, jobs, theirs),
                daemon=True,
            )
            process.start()
            stack.callback(process.join, 30)
            stack.callback(orders.send, False)
            started.append((process, orders))
        for _, orders in started:
            orders.recv()
        yield [psutil.Process(process.pid) for process, _ in started]


def wait_until_switched(bench: Bench, count: int) -> None:
    """Wait until so many moves have passed their cut-over and wait for the end of their grace."""
    while True:
        with bench.databases.read("global", definitive=True) as connection:
            there = connection.scalar(
                select(func.count())
                .select_from(user_move)
                .where(user_move.c.state == SWITCHED, user_move.c.owner.is_(None))
            )
        if there == count:
            return
        time.sleep(0.05)
