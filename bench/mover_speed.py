"""Moving users: how fast rows travel, and how many small users a minute.

The copy is compared with ``mariadb-dump --where | mariadb`` of the same rows between such
servers.  Both clusters have other users: into a table without any row InnoDB loads a dump in a
quicker way than into a cluster in use.  Many small users are compared with the plainest way there
is: one worker that makes each user read-only and copies row by row, with a commit for each table or
for each row.  What that does in a minute does not depend on how many users there are, so it is
given fewer.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from sqlalchemy import delete, insert, select, update

import lj_services
from bench._movers import Bench, beside_what, site, wait_until_switched, workers
from bench.harness import Comparison, Contender, Load, Subject
from lj_services.database import cluster_role
from lj_services.usercluster.tables import user, user_home
from tests.support import moving

TITLE = "Moving users: speed"
ROUNDS = 3
SMALL_ROWS = 200
OTHER_ROWS = 20_000
WORKERS = 4
USERS_ROW_BY_ROW = 30


@contextmanager
def inhabited(ours: bool = True) -> Iterator[Subject]:
    """A site with some more users on each cluster."""
    with site(ours) as subject:
        for cluster in (1, 2):
            subject.value.new_user(OTHER_ROWS, cluster)
        yield subject


def copy_rate(subject: Subject, rows: int) -> float:
    """Rows a second from the first to the last chunk of a move."""
    bench: Bench = subject.value
    userid = bench.user_of(rows)
    # The user goes to and fro; but as a rule a cluster that gets users has not just sent some, and
    # no feed of it is still open that reads all that is copied to it.
    bench.worker.feeds.close()
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
    """Users a minute, by 4 workers, from the first order to the last tombstone."""
    bench: Bench = subject.value
    asked = [bench.new_user(SMALL_ROWS) for _ in range(users)]
    # Purging is not timed here, as the plain way does not delete anything either.
    with workers(bench, WORKERS, grace_s=3600.0):
        before = bench.moved
        began = time.monotonic()
        for userid in asked:
            bench.worker.moves.enqueue(userid, 2)
        wait_until_switched(bench, before + users)
        took = time.monotonic() - began
    bench.moved += users
    assert {moving.home(bench.databases, userid) for userid in asked} == {2}
    bench.crowds.append(users / took * 60)
    return bench.crowds[-1]


def crowd_once_more(subject: Subject, _users: int) -> float:
    """What `crowd_by_workers` found, one run after the other: for another peer."""
    bench: Bench = subject.value
    return bench.crowds.pop(0)


def crowd_row_by_row(subject: Subject, users: int, together: int) -> float:
    """Users a minute, each read-only for as long as its rows are copied one by one.

    Args:
        subject: the site.
        users: how many are to be moved.
        together: rows that are committed together at most, of one table.
    """
    bench: Bench = subject.value
    users = min(users, USERS_ROW_BY_ROW)
    asked = [bench.new_user(SMALL_ROWS) for _ in range(users)]
    began = time.monotonic()
    for userid in asked:
        bench.users.set_readonly(userid, True)
        for table in moving.TABLES:
            with bench.databases.read("cluster1", definitive=True) as source:
                rows = source.execute(select(table).where(table.c.userid == userid)).mappings()
                copies = [dict(row) for row in rows]
            for start in range(0, len(copies), together):
                with bench.databases.write("cluster2") as destination:
                    for row in copies[start : start + together]:
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
    """Copying; many small users."""
    ours = Contender("lj users move", lj_services.__version__, inhabited)
    version = subprocess.run(["mariadb-dump", "--version"], capture_output=True, text=True)
    theirs = partial(inhabited, False)
    peer = Contender("mariadb-dump --where | mariadb", version.stdout.split()[2], theirs)
    rows = 20_000 if quick else 100_000
    yield Comparison(
        "Copying",
        ours=ours,
        peer=peer,
        loads=[Load(f"{rows:,} rows", "rows/s", partial(by_name, "copy", count=rows))],
        goal="at least as fast",
        notes=[beside_what()],
    )
    count = 10 if quick else 1_000
    yield Comparison(
        f"Users of {SMALL_ROWS} rows",
        ours=Contender("4 workers", lj_services.__version__, site),
        peer=Contender("read-only, row by row, one worker", "", partial(site, False)),
        loads=[
            Load(f"{count:,} users, {how}", "users/min", partial(by_name, what, count=count))
            for what, how in (
                ("crowd, by table", "the peer commits each table"),
                ("crowd, by row", "the peer commits each row"),
            )
        ],
        goal="at least 10 times as many",
        notes=[
            f"the peer moved {min(count, USERS_ROW_BY_ROW)} of them; ours are the same runs in "
            "both lines",
            beside_what(),
        ],
    )


def by_name(what: str, subject: Subject, count: int) -> float:
    """Ours or the peer's way, by which of the two sites it is."""
    ours = {
        "copy": copy_rate,
        "crowd, by table": crowd_by_workers,
        "crowd, by row": crowd_once_more,
    }
    peers = {
        "copy": dump_rate,
        "crowd, by table": partial(crowd_row_by_row, together=SMALL_ROWS),
        "crowd, by row": partial(crowd_row_by_row, together=1),
    }
    return (ours if subject.value.ours else peers)[what](subject, count)
