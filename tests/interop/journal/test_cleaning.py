"""Posts in HTML: workers clean them, and without workers they are plain text."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from lj_services.gearman.client import Client
from lj_services.gearman.worker import Job, Worker
from lj_services.journal.cleaning import FUNCTION
from tests.support.job_servers import JobServer, Start, at_work
from tests.support.journal import MakeJournal, Person, TestJournal
from tests.support.process import spawn

pytestmark = pytest.mark.interop

LJ = Path(sys.executable).parent / "lj"
BAD = '<p>Hello <b>you</b><script>alert("x")</script> <img src=x onerror=alert(1)></p>'
NOTICE = "Nobody was there to check your HTML"


@pytest.fixture
def server(job_server: Start) -> JobServer:
    return job_server()


@pytest.fixture
def journal(make_journal: MakeJournal, server: JobServer) -> Iterator[TestJournal]:
    with Client([server.address], dead_retry_s=0.1) as jobs:
        yield make_journal(jobs=jobs, clean_timeout_s=0.5)


def publish(person: Person, body: str, path: str = "/post", **more: str) -> str:
    """Send the form of a post; the page that it leads to."""
    fields = {"subject": "s", "body": body, "security": "public", "markup": "html", **more}
    answer = person.send(path, fields)
    return answer.text


def stored(journal: TestJournal) -> list[tuple[str, int]]:
    found = []
    for role in ("cluster1", "cluster2"):
        with journal.site.databases.read(role, definitive=True) as connection:
            rows = connection.execute(text("SELECT body, markup FROM post ORDER BY postid"))
            found += [(str(body), int(markup)) for body, markup in rows]
    return found


def test_a_worker_cleans_what_an_author_writes(
    journal: TestJournal, server: JobServer, tmp_path: Path
) -> None:
    argv = [str(LJ), "gearman", "worker", "--server", server.address]
    argv.append(f"{FUNCTION}=lj_services.journal.sanitize:clean_html")

    def offered() -> bool:
        return server.status().get(FUNCTION, (0, 0, 0))[2] == 1

    author = journal.visitor("ann").sign_up()
    with spawn(argv, tmp_path / "worker.log", ready=offered):
        assert 'name="markup"' in author.get("/post").text
        journal.kit.cleaner._timeout_s = 30  # the worker loads its library at its first job
        page = publish(author, BAD)
        assert "<p>Hello <b>you</b> </p>" in page
        assert NOTICE not in page
        changed = publish(author, "<i>new</i><script>x</script>", "/~ann/1/edit")
        assert "<i>new</i>" in changed
        edit = author.get("/~ann/1/edit").text
        assert "&lt;i&gt;new&lt;/i&gt;" in edit
        assert "checked" in edit.partition('name="markup"')[2][:30]
        refused = publish(author, "<script>alert(1)</script>")
        assert "Nothing of this is allowed" in refused
        feed = author.get("/~ann/feed").text
        assert "&lt;i&gt;new&lt;/i&gt;" in feed
    assert stored(journal) == [("<i>new</i>", 1)]


def test_without_a_worker_it_is_plain_text_and_the_author_is_told(
    journal: TestJournal, server: JobServer
) -> None:
    author = journal.visitor("ann").sign_up()
    page = publish(author, BAD)
    assert NOTICE in page
    assert "<script>" not in page.replace('<script src="', "")
    assert "&lt;script&gt;" in page
    server.kill()
    again = publish(author, BAD)
    assert NOTICE in again
    assert stored(journal) == [(BAD, 0), (BAD, 0)]
    reader = journal.visitor().get("/~ann/1?unchecked=1").text
    assert NOTICE not in reader  # it is the author's affair


def test_a_worker_that_fails_leaves_nothing_unsafe(journal: TestJournal, server: JobServer) -> None:
    def broken(job: Job) -> bytes:
        raise ValueError("no library")

    author = journal.visitor("ann").sign_up()
    worker = Worker([server.address])
    worker.register(FUNCTION, broken)
    with at_work(worker):
        assert NOTICE in publish(author, BAD)
    assert stored(journal) == [(BAD, 0)]


def test_the_friends_page_shows_the_words(journal: TestJournal, server: JobServer) -> None:
    author = journal.visitor("ann").sign_up()
    reader = journal.visitor("bob").sign_up()
    worker = Worker([server.address])
    worker.register(FUNCTION, lambda job: "<p>Fish &amp; <b>chips</b></p><p>twice</p>")
    with at_work(worker):
        publish(author, "anything")
    reader.befriend(author)
    page = reader.get("/friends").text
    assert "<p>Fish &amp; chips</p>" in page
    assert "<b>chips</b>" in author.get("/~ann").text


def test_a_site_without_job_servers_takes_plain_text_alone(make_journal: MakeJournal) -> None:
    journal = make_journal()
    author = journal.visitor("ann").sign_up()
    assert 'name="markup"' not in author.get("/post").text
    assert "&lt;b&gt;" in publish(author, "<b>x</b>")
    assert stored(journal) == [("<b>x</b>", 0)]
