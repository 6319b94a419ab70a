"""kill -9 under load: every post that was acknowledged is there; without caches all goes on."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.support.journal import PASSWORD, Person, token_in
from tests.support.journal_site import RunningSite, running_site, sqlite_urls
from tests.support.mariadb import MariaDB
from tests.support.memcached import Start
from tests.support.process import wait_for

pytestmark = pytest.mark.faults

WRITERS = 4
KILLS = 4


@pytest.fixture(params=["sqlite", "mariadb"])
def site(
    request: pytest.FixtureRequest, tmp_path: Path, our_memcached: Start
) -> Iterator[RunningSite]:
    with ExitStack() as stack:
        databases = sqlite_urls(tmp_path)
        if request.param == "mariadb":
            server: MariaDB = request.getfixturevalue("mariadb")
            databases = {
                role: stack.enter_context(server.database(f"lj_{role}")) for role in databases
            }
        yield stack.enter_context(running_site(tmp_path, databases, [our_memcached().port]))


class Writer(threading.Thread):
    """Posts as fast as it can, and notes what was acknowledged."""

    def __init__(self, person: Person, stop: threading.Event) -> None:
        super().__init__()
        self.person = person
        self.stop = stop
        self.acknowledged: list[tuple[int, str]] = []
        self.sent = 0

    def run(self) -> None:
        while not self.stop.is_set():
            subject = f"{self.person.name} number {self.sent}"
            self.sent += 1
            try:
                token = token_in(self.person.get("/post").text)
                answer = self.person.client.post(
                    "/post",
                    data={"csrf": token, "subject": subject, "body": "x", "security": "public"},
                    follow_redirects=False,
                )
            except httpx.HTTPError:
                time.sleep(0.02)  # the site is down; it comes back
                continue
            if answer.status_code == 303:
                postid = int(answer.headers["location"].rsplit("/", 1)[1])
                self.acknowledged.append((postid, subject))


def test_every_acknowledged_post_is_there(site: RunningSite) -> None:
    dice = random.Random(7)
    stop = threading.Event()
    people = [site.person(f"writer{number}").sign_up(PASSWORD) for number in range(WRITERS)]
    reader = site.person("reader").sign_up(PASSWORD)
    for person in people:
        reader.befriend(person)
    writers = [Writer(person, stop) for person in people]
    for writer in writers:
        writer.start()
    try:
        for _ in range(KILLS):
            before = [len(writer.acknowledged) for writer in writers]
            wait_for(
                lambda before=before: all(
                    len(w.acknowledged) > n + 2 for w, n in zip(writers, before, strict=True)
                ),
                "posts between two kills",
                timeout_s=60,
            )
            reader.get("/friends")
            time.sleep(dice.uniform(0, 0.2))
            site.kill()
            site.start()
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert sum(len(writer.acknowledged) for writer in writers) >= WRITERS * KILLS * 3
    for writer in writers:
        stored = {}
        path = f"/~{writer.person.name}"
        while path:
            page = reader.get(path).text
            for piece in page.split('<h2 dir="auto"><a href="')[1:]:
                address, _, title = piece.partition('">')
                stored[int(address.rsplit("/", 1)[1])] = title.split("</a>")[0]
            path = ""
            if 'rel="next" href="' in page:
                path = page.split('rel="next" href="')[1].split('"')[0]
        lost = [entry for entry in writer.acknowledged if stored.get(entry[0]) != entry[1]]
        assert lost == []
        assert len(set(stored.values())) == len(stored), "a post is there twice"
    # And no friends page keeps an old picture of it.
    shown = reader.get("/friends").text
    newest = max(writers, key=lambda writer: writer.acknowledged[-1][0]).acknowledged[-1][1]
    for writer in writers:
        latest = reader.get(f"/~{writer.person.name}").text.split('<h2 dir="auto">')[1]
        title = latest.split('">')[1].split("</a>")[0]
        assert title in shown
    assert newest


def test_pages_go_on_while_cache_servers_die(tmp_path: Path, our_memcached: Start) -> None:
    caches = [our_memcached(fresh=True) for _ in range(2)]
    with running_site(tmp_path, sqlite_urls(tmp_path), [cache.port for cache in caches]) as site:
        ann = site.person("ann").sign_up(PASSWORD)
        friends = [site.person(f"friend{number}").sign_up(PASSWORD) for number in range(6)]
        for friend in friends:
            ann.befriend(friend)
            friend.post(f"First of {friend.name}.")
        assert ann.get("/friends").text.count("First of ") == 6
        for dead, cache in enumerate(caches, 1):
            cache.running.kill()
            for friend in friends:
                friend.post(f"Without {dead} of {friend.name}.")
            page = ann.get("/friends")
            assert page.status_code == 200
            assert page.text.count(f"Without {dead} of ") == 6
            assert page.text.count("First of ") == 6


def test_a_drain_finishes_what_is_in_flight(site: RunningSite) -> None:
    ann = site.person("ann").sign_up(PASSWORD)
    stop = threading.Event()
    writer = Writer(ann, stop)
    writer.start()
    wait_for(lambda: len(writer.acknowledged) > 3, "posts")
    assert site.running.terminate() == 0, site.running.output
    stop.set()
    writer.join()
    site.start()
    assert writer.acknowledged[-1][1] in site.person().get("/~ann").text
