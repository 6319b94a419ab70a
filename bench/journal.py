"""The friends page of a user with 200 friends over 4 clusters, with a warm cache and without one.

A whole site: ``lj journal serve`` on SQLite, four memcached servers, one reader with one
keep-alive connection.  Every friend has 12 posts of about 600 characters.
"""

from __future__ import annotations

import http.client
import importlib.metadata
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from sqlalchemy import insert

import lj_services
from bench.harness import Comparison, Contender, Load, Subject
from bench.memcached import memcached_version
from lj_services.cli.db import COMPONENTS
from lj_services.cli.site import SiteSettings
from lj_services.daemon import load_settings
from lj_services.database import Databases, cluster_role, migrate
from lj_services.journal import tables
from lj_services.journal.accounts import Accounts
from lj_services.journal.config import JournalSettings
from lj_services.usercluster import Users
from tests.support.process import accepts, free_port, spawn

TITLE = "The friends page"

FRIENDS = 200
CLUSTERS = 4
POSTS = 12
CACHES = 4
_WORDS = "rain bakery window letter harbour evening bicycle kettle garden".split()  # noqa: SIM905


class Reader:
    """A logged-in browser with one connection.

    Args:
        port: the site's.
        cookie: of the session.
    """

    def __init__(self, port: int, cookie: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._headers = {"Cookie": f"lj_session={cookie}"}

    def get(self, path: str) -> str:
        self._connection.request("GET", path, headers=self._headers)
        answer = self._connection.getresponse()
        page = answer.read().decode()
        assert answer.status == 200, (path, answer.status)
        return page

    def close(self) -> None:
        self._connection.close()


def fill(settings: SiteSettings) -> str:
    """Make the users and what they have; returns the reader's cookie."""
    dice = random.Random(2007)
    databases = Databases(settings.database)
    try:
        for role in databases.roles():
            migrate(databases, role, COMPONENTS)
        users = Users(databases, None, settings.users)
        reader = users.create("reader", cluster=1)
        friends = [users.create(f"friend{n}", cluster=1 + n % CLUSTERS) for n in range(FRIENDS)]
        now = time.time_ns() // 1_000_000
        for cluster in range(1, CLUSTERS + 1):
            own = [friend.userid for friend in friends if friend.clusterid == cluster]
            rows = [
                {
                    "userid": userid,
                    "postid": number,
                    "security": dice.choice((0, 0, 0, 1, 2)),
                    "posted_ms": now - dice.randrange(10**6) - (POSTS - number) * 10**7,
                    "edited_ms": None,
                    "comments": dice.randrange(20),
                    "subject": " ".join(dice.choices(_WORDS, k=4)),
                    "mood": dice.choice(_WORDS),
                    "music": "",
                    "body": " ".join(dice.choices(_WORDS, k=90)),
                }
                for userid in own
                for number in range(1, POSTS + 1)
            ]
            edges = [
                {"userid": userid, "friendid": reader.userid, "seq": 1, "since_ms": now}
                for userid in own
            ]
            with databases.write(cluster_role(cluster)) as connection:
                connection.execute(insert(tables.post), rows)
                connection.execute(insert(tables.friend), edges)
        with databases.write(cluster_role(reader.clusterid)) as connection:
            for friend in friends:
                connection.execute(
                    insert(tables.friend).values(
                        userid=reader.userid, friendid=friend.userid, seq=1, since_ms=now
                    )
                )
                connection.execute(
                    insert(tables.friendof).values(
                        userid=reader.userid, friendid=friend.userid, seq=1, live=True
                    )
                )
        return Accounts(databases, users, JournalSettings(), b"").log_in(reader, "bench")
    finally:
        databases.close()


@contextmanager
def site(*, cached: bool) -> Iterator[Subject]:
    """A running site for the length of the block."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        caches = [free_port() for _ in range(CACHES)] if cached else []
        for port in caches:
            argv = ["memcached", "-u", "root", "-l", "127.0.0.1", "-p", str(port), "-t", "1"]
            stack.enter_context(spawn(argv, folder / f"{port}.log", ready=partial(accepts, port)))
        names = ["global", *(cluster_role(number) for number in range(1, CLUSTERS + 1))]
        lines = []
        for name in names:
            lines += [f"[database.roles.{name}]", f'writer = "sqlite:///{folder}/{name}.db"']
        lines += ["[users]", "min_free = 0"]
        if cached:
            servers = ", ".join(f'{{ address = "127.0.0.1:{port}" }}' for port in caches)
            lines += ["[memcached]", f"servers = [ {servers} ]"]
        site_file = folder / "site.toml"
        site_file.write_text("\n".join(lines) + "\n")
        cookie = fill(load_settings(SiteSettings, site_file))
        port = free_port()
        lj = str(Path(sys.executable).parent / "lj")
        argv = [lj, "--site", str(site_file), "journal", "serve", "--listen", f"127.0.0.1:{port}"]
        running = stack.enter_context(
            spawn(argv, folder / "journal.log", ready=lambda: accepts(port))
        )
        reader = Reader(port, cookie)
        stack.callback(reader.close)
        page = reader.get("/friends")
        assert page.count('<article class="post">') == JournalSettings().friends_page_size
        yield Subject(reader, running.pid)


def server_time(count: int) -> Callable[[Subject], float]:
    """The median of what the page's footer says, in ms: log-in, queries, cache, template."""

    def run(subject: Subject) -> float:
        times = []
        for _ in range(count):
            found = re.search(r"<li>page: ([\d.]+) ms", subject.value.get("/friends?debug=1"))
            assert found is not None
            times.append(float(found[1]))
        return statistics.median(times)

    return run


def over_http(count: int) -> Callable[[Subject], float]:
    """The median time from the request to the last byte of the page, in ms."""

    def run(subject: Subject) -> float:
        times = []
        for _ in range(count):
            start = time.perf_counter()
            subject.value.get("/friends")
            times.append((time.perf_counter() - start) * 1000)
        return statistics.median(times)

    return run


def comparisons(quick: bool) -> Iterator[Comparison]:
    """What `python -m bench journal` runs."""
    count = 20 if quick else 100
    version = (
        f"{lj_services.__version__}, starlette {importlib.metadata.version('starlette')}, "
        f"jinja2 {importlib.metadata.version('jinja2')}"
    )
    yield Comparison(
        f"{FRIENDS} friends over {CLUSTERS} clusters, a page of 25 posts",
        ours=Contender(
            f"{CACHES} cache servers, warm",
            f"{version}, {memcached_version()}",
            partial(site, cached=True),
        ),
        peer=Contender("the same site without a cache", version, partial(site, cached=False)),
        loads=[
            Load("server time", "ms", server_time(count), better="lower"),
            Load("over HTTP, as the browser sees it", "ms", over_http(count), better="lower"),
        ],
        goal="under 10 ms of server time with a warm cache.",
        notes=[
            "Server time is what the page's own footer says: from the log-in's look-up to the "
            "rendered page.  With a warm cache that is one query for the session, two for the "
            "reader's friends, and one multi-get for each cache server.",
        ],
    )
