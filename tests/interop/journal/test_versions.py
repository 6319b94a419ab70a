"""Journals of both versions side by side, on both engines."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import event, func, select

from lj_services.database import cluster_role
from lj_services.journal import comments, posts
from lj_services.journal.errors import TooMany
from lj_services.journal.recent import RecentCache
from lj_services.journal.security import Security
from lj_services.journal.tables import comment, post
from lj_services.usercluster import User, Users, UserSettings, numberspaces, versions
from lj_services.usercluster.upgrade import Upgrader
from tests.support.databases import TestSite
from tests.support.journal import TestJournal

pytestmark = pytest.mark.interop

MOST = 3
RULES = UserSettings(min_free=0)


@pytest.fixture
def journal(site: TestSite) -> Iterator[TestJournal]:
    made = TestJournal(site, None, max_comments=MOST)
    yield made
    made.kit.recents.close()


def a_post(journal: TestJournal, name: str, version: int) -> tuple[Users, User, int]:
    users = journal.site.users(new_schema_ver=version)
    owner = users.create(name, cluster=1)
    draft = posts.Draft("Hello", "Text.", Security.PUBLIC)
    return users, owner, posts.write(users, journal.kit.recents, owner, draft)


def say(users: Users, recents: RecentCache, owner: User, postid: int, most: int = MOST) -> int:
    return comments.write(users, recents, owner, owner, postid, 0, "Yes.", most=most)


def places(site: TestSite, owner: User, postid: int) -> tuple[int, int, int]:
    """What the post says of places and comments, and how many rows there are."""
    with site.databases.read(cluster_role(1), definitive=True) as connection:
        row = connection.execute(
            select(post.c.places, post.c.comments).where(
                post.c.userid == owner.userid, post.c.postid == postid
            )
        ).one()
        rows = connection.scalar(
            select(func.count()).where(comment.c.userid == owner.userid, comment.c.postid == postid)
        )
    return row.places, row.comments, int(rows or 0)


def test_the_limit_holds_in_both_versions_and_across_the_step(journal: TestJournal) -> None:
    recents = journal.kit.recents
    old, new = a_post(journal, "old", 1), a_post(journal, "new", 2)
    for users, owner, postid in (old, new):
        gone = say(users, recents, owner, postid)
        say(users, recents, owner, postid)
        comments.remove(users, recents, owner, owner, postid, gone)
    assert places(journal.site, *old[1:]) == (0, 1, 2)
    assert places(journal.site, *new[1:]) == (2, 1, 2)
    done = Upgrader(journal.site.databases, old[0], RULES).upgrade(old[1], 2)
    assert (done.before, done.user.schema_ver) == (1, 2)
    assert places(journal.site, *old[1:]) == (2, 1, 2)
    for users, owner, postid in (old, new):
        say(users, recents, owner, postid)
        with pytest.raises(TooMany):
            say(users, recents, owner, postid)
        assert places(journal.site, owner, postid) == (3, 2, 3)
        with users.reading(owner) as connection:
            assert posts.find(connection, owner.userid, postid, Security.PUBLIC).comments == 2


def test_a_post_without_comments_has_no_places(journal: TestJournal) -> None:
    users, owner, postid = a_post(journal, "old", 1)
    Upgrader(journal.site.databases, users, RULES).upgrade(owner, 2)
    assert places(journal.site, owner, postid) == (0, 0, 0)


def test_in_version_2_a_comment_counts_no_rows(journal: TestJournal) -> None:
    counted: dict[int, int] = {}
    engine = journal.site.databases.writer("cluster1")._engines["write"]
    for version in (1, 2):
        users, owner, postid = a_post(journal, f"v{version}", version)
        seen: list[str] = []

        def note(_connection: object, _cursor: object, sql: str, *_rest: object) -> None:
            seen.append(sql)  # noqa: B023

        event.listen(engine, "before_cursor_execute", note)
        say(users, journal.kit.recents, owner, postid)
        event.remove(engine, "before_cursor_execute", note)
        counted[version] = sum("count(" in sql.lower() for sql in seen)
    assert counted == {1: 1, 2: 0}


def test_comments_written_during_the_step_are_all_counted(journal: TestJournal) -> None:
    users, owner, postid = a_post(journal, "old", 1)
    recents = journal.kit.recents
    errors: list[BaseException] = []
    first = threading.Event()

    def talk() -> None:
        try:
            for _ in range(30):
                say(users, recents, owner, postid, most=1000)
                first.set()
        except BaseException as error:
            errors.append(error)
            first.set()

    talkers = [threading.Thread(target=talk) for _ in range(2)]
    for thread in talkers:
        thread.start()
    assert first.wait(20)
    Upgrader(journal.site.databases, users, RULES).upgrade(owner, 2)
    for thread in talkers:
        thread.join()
    assert errors == []
    assert places(journal.site, owner, postid) == (60, 60, 60)


def test_whoever_imports_the_journal_knows_its_versions_and_numbers() -> None:
    assert versions.newest() >= 2
    assert {"post", "comment", "session", "friend"} <= set(numberspaces.declared())
