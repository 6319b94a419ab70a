"""The cached newest posts: their form, their merging, and that no old value stays."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from lj_services.database import CommitUnknown
from lj_services.journal import posts
from lj_services.journal.errors import NotFound
from lj_services.journal.friendspage import merged_page, parse_place
from lj_services.journal.leases import CHANGING, CHANGING_S, LEASE, Leases
from lj_services.journal.posts import Draft
from lj_services.journal.recent import Recent, RecentCache, encode
from lj_services.journal.security import Security
from lj_services.usercluster.tables import user_home
from tests.support.journal import MakeJournal, TestJournal

pytestmark = pytest.mark.unit

ROW = st.tuples(
    st.just(7),
    st.integers(1, 2**32 - 1),
    st.sampled_from([0, 1]),
    st.integers(0, 2**63),
    st.integers(0, 5000),
    st.text(max_size=20).filter(lambda text: text.isprintable()),
    st.just("glad"),
    st.just(""),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.just(0),
)


@given(st.lists(ROW, max_size=6), st.booleans())
def test_what_is_encoded_comes_back(rows: list[Any], more: bool) -> None:
    recent = Recent(7, encode("ann", rows, more=more, length=1000))
    assert recent.more == more
    assert [entry[:3] for entry in recent.entries] == [(r[3], r[1], r[2]) for r in rows]
    for index, row in enumerate(rows):
        found = recent.excerpt(index)
        assert (found.author, found.postid, found.subject, found.body) == (
            "ann",
            row[1],
            row[5],
            row[8],
        )


VALUE = encode(
    "ann", [(7, n, 0, 100 - n, 0, "s", "", "", "body", 0) for n in (3, 2, 1)], more=True, length=99
)


@pytest.mark.parametrize(
    ("body", "kept", "cut"),
    [
        ("<p>One &amp; two</p><p>three</p>", "One & two\n\nthree", False),
        ("<p>" + "word " * 30, "word word …", True),
        ("<b>short</b>" + "<br>" * 40, "short", True),  # what comes behind is not known
        ("a &lt;script&gt;", "a <script>", False),
    ],
)
def test_of_html_the_words_are_kept(body: str, kept: str, cut: bool) -> None:
    """Of its beginning, which may end in the middle of a tag."""
    length = 40
    row = (7, 1, 0, 5, 0, "s", "", "", body[: length + 1], 1)
    found = Recent(7, encode("ann", [row], more=False, length=length)).excerpt(0)
    if kept.endswith("…"):
        assert found.body.startswith("word word")
        assert "<" not in found.body
    else:
        assert found.body == kept
    assert found.cut is cut
    assert "<script" not in found.html


def test_a_value_that_is_cut_short_is_noticed() -> None:
    for length in range(len(VALUE)):
        with pytest.raises(ValueError, match="value of recent posts"):
            Recent(7, VALUE[:length])


@given(st.binary(max_size=100))
def test_garbage_is_noticed(garbage: bytes) -> None:
    try:
        Recent(7, garbage)
    except (ValueError, UnicodeDecodeError):
        pass
    else:
        assert garbage.startswith(b"LJR1")


def _write(journal: TestJournal, name: str, subject: str) -> int:
    user = journal.users.find(name)
    draft = Draft(subject, "Text.", Security.PUBLIC)
    return posts.write(journal.users, journal.kit.recents, user, draft)


def _subjects(journal: TestJournal, userid: int) -> list[str]:
    found, failed = journal.kit.recents.get_many([userid])
    assert not failed
    recent = found[userid]
    return [recent.excerpt(index).subject for index in range(len(recent.entries))]


def test_a_fill_that_is_overtaken_by_a_write_is_dropped(
    journal: TestJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = journal.users.create("ann")
    _write(journal, "ann", "old")
    real = RecentCache._query
    values = []

    def slow(self: RecentCache, *args: Any) -> Any:
        value = real(self, *args)
        if not values:
            values.append(value)
            _write(journal, "ann", "new")  # after the fill has read, before it stores
        return value

    monkeypatch.setattr(RecentCache, "_query", slow)
    assert _subjects(journal, user.userid) == ["old"]
    assert _subjects(journal, user.userid) == ["new", "old"]
    monkeypatch.setattr(RecentCache, "_query", None)  # and now it is kept
    assert _subjects(journal, user.userid) == ["new", "old"]


def test_a_fill_that_started_before_a_write_committed(
    journal: TestJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = journal.users.create("ann")
    _write(journal, "ann", "old")
    seen_in_between: list[list[str]] = []
    real = journal.users.writing

    @contextmanager
    def writing(whom: Any) -> Iterator[Any]:
        with real(whom) as connection:
            yield connection
            if not seen_in_between:
                seen_in_between.append(_subjects(journal, user.userid))

    monkeypatch.setattr(journal.users, "writing", writing)
    _write(journal, "ann", "new")
    assert seen_in_between == [["old"]]
    assert _subjects(journal, user.userid) == ["new", "old"]


def test_a_writer_that_is_killed_after_its_commit_leaves_no_old_value(
    journal: TestJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert journal.cache is not None
    user = journal.users.create("ann")
    _write(journal, "ann", "old")
    assert _subjects(journal, user.userid) == ["old"]
    monkeypatch.setattr(Leases, "_end", lambda *_: None)  # never comes to it
    _write(journal, "ann", "new")
    assert journal.cache.get((user.userid, f"recent:{user.userid}")).startswith(CHANGING)
    assert _subjects(journal, user.userid) == ["new", "old"]
    assert journal.cache.get((user.userid, f"recent:{user.userid}")).startswith(CHANGING)


def test_a_writer_that_can_not_tell_whether_it_committed_leaves_no_old_value(
    journal: TestJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert journal.cache is not None
    user = journal.users.create("ann")
    key = (user.userid, f"recent:{user.userid}")
    _write(journal, "ann", "old")
    committing: list[Any] = []
    real = journal.users.writing

    @contextmanager
    def writing(whom: Any) -> Iterator[Any]:
        committing.append(real(whom))
        yield committing[0].__enter__()
        raise CommitUnknown("the connection broke during COMMIT")

    monkeypatch.setattr(journal.users, "writing", writing)
    with pytest.raises(CommitUnknown):
        _write(journal, "ann", "new")
    assert _subjects(journal, user.userid) == ["old"]
    assert journal.cache.get(key).startswith(CHANGING)
    committing[0].__exit__(None, None, None)  # and now the server comes to it
    assert _subjects(journal, user.userid) == ["new", "old"]


def test_a_writer_that_fails_lets_the_cache_be_filled(journal: TestJournal) -> None:
    assert journal.cache is not None
    user = journal.users.create("ann")
    with pytest.raises(NotFound):
        posts.remove(journal.users, journal.kit.recents, user, 1)
    assert _subjects(journal, user.userid) == []
    assert journal.cache.get((user.userid, f"recent:{user.userid}")).startswith(b"LJR1")


@pytest.mark.parametrize("first_to_end", ["a", "b"])
def test_of_two_changes_that_overlap_either_may_be_killed(
    journal: TestJournal, first_to_end: str
) -> None:
    assert journal.cache is not None
    user = journal.users.create("ann")
    key = (user.userid, f"recent:{user.userid}")
    _write(journal, "ann", "old")
    assert _subjects(journal, user.userid) == ["old"]
    changes = {name: journal.kit.recents.changing(user.userid) for name in "ab"}
    for change in changes.values():
        change.__enter__()
    changes.pop(first_to_end).__exit__(None, None, None)
    assert _subjects(journal, user.userid) == ["old"]  # and this is not kept, since:
    assert journal.cache.get(key).startswith(CHANGING)
    _write(journal, "ann", "new")  # the other one commits; and is killed, let's say
    assert _subjects(journal, user.userid) == ["new", "old"]
    assert journal.cache.get(key).startswith(CHANGING)
    for change in changes.values():
        change.__exit__(None, None, None)
    assert _subjects(journal, user.userid) == ["new", "old"]
    assert journal.cache.get(key).startswith(b"LJR1")


def test_a_change_that_never_ended_is_forgotten_though_others_come_and_go(
    journal: TestJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert journal.cache is not None
    user = journal.users.create("ann")
    killed = journal.kit.recents.changing(user.userid)
    killed.__enter__()
    _write(journal, "ann", "one")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + CHANGING_S + 1)
    _write(journal, "ann", "two")
    assert _subjects(journal, user.userid) == ["two", "one"]
    assert journal.cache.get((user.userid, f"recent:{user.userid}")).startswith(b"LJR1")


@pytest.mark.parametrize(
    ("home", "kept"),
    [
        ({"state": "active"}, True),
        ({"state": "frozen"}, False),  # the new home may have taken writes by now
        ({"state": "moved"}, False),
        ({"state": "importing"}, False),
        ({"epoch": 7}, False),  # gone, and back
    ],
)
def test_what_was_read_at_a_home_that_is_left_is_not_kept(
    journal: TestJournal, home: dict[str, Any], kept: bool
) -> None:
    assert journal.cache is not None
    user = journal.users.create("ann")
    other = journal.users.create("ben", cluster=user.clusterid)
    for name in ("ann", "ben"):
        _write(journal, name, "old")
    with journal.site.databases.write(f"cluster{user.clusterid}") as connection:
        connection.execute(update(user_home).where(user_home.c.userid == user.userid).values(home))
    found, failed = journal.kit.recents.get_many([user.userid, other.userid])
    assert sorted(found) == [user.userid, other.userid]
    assert not failed
    cached = {
        userid: journal.cache.get((userid, f"recent:{userid}")).startswith(b"LJR1")
        for userid in found
    }
    assert cached == {user.userid: kept, other.userid: True}


def test_a_lease_of_another_reader_is_shared(journal: TestJournal) -> None:
    assert journal.cache is not None
    user = journal.users.create("ann")
    key = (user.userid, f"recent:{user.userid}")
    journal.cache.add(key, LEASE, 10)
    assert _subjects(journal, user.userid) == []
    assert journal.cache.get(key).startswith(b"LJR1")


@pytest.mark.parametrize("value", [b"LJR1", b"rubbish", "text", 7, None, [1]])
def test_rubbish_in_the_cache_is_a_miss(journal: TestJournal, value: Any) -> None:
    assert journal.cache is not None
    user = journal.users.create("ann")
    _write(journal, "ann", "one")
    journal.cache.set((user.userid, f"recent:{user.userid}"), value)
    assert _subjects(journal, user.userid) == ["one"]


def test_warm_pages_ask_the_cache_once_and_no_database(
    journal: TestJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert journal.cache is not None
    users = [journal.users.create(f"user{n}", cluster=1 + n % 2) for n in range(12)]
    for user in users:
        _write(journal, user.name, "hello")
    userids = [user.userid for user in users]
    queries = []
    real = RecentCache._query
    monkeypatch.setattr(RecentCache, "_query", lambda *args: queries.append(args[1]) or real(*args))
    journal.kit.recents.get_many(userids)
    assert sorted(queries) == [1, 2]  # one for each cluster
    queries.clear()
    with journal.cache.trace() as trace:
        found, _ = journal.kit.recents.get_many(userids)
    assert len(found) == 12
    assert not queries
    assert [answer.outcome for answer in trace.answers] == ["hit"] * 12


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["public", "friends", "private"])),
        min_size=1,
        max_size=40,
    ),
    st.integers(1, 7),
)
def test_paging_shows_every_open_post_once_in_order(
    journals: Any, written: list[tuple[int, str]], limit: int
) -> None:
    journal, recents, number = journals
    number.append(0)
    users = [journal.users.create(f"h{len(number)}_{n}", cluster=1 + n % 2) for n in range(3)]
    expected = []
    for who, level in written:
        draft = Draft("s", "b", Security[level.upper()])
        postid = posts.write(journal.users, recents, users[who], draft)
        cleared = Security.FRIENDS if who else Security.PUBLIC
        if draft.security <= cleared:
            expected.append((users[who].userid, postid))
    shown, place = [], None
    while True:
        page = merged_page(
            recents,
            [user.userid for user in users],
            lambda owner: Security.PUBLIC if owner == users[0].userid else Security.FRIENDS,
            limit=limit,
            before=parse_place(place),
        )
        assert not page.failed
        shown += [(post.userid, post.postid, post.posted_ms) for post in page.posts]
        place = page.next
        if place is None:
            break
        assert len(page.posts) == limit
    assert {(userid, postid) for userid, postid, _ in shown} == set(expected)
    assert len(shown) == len(expected)
    order = [(ms, userid, postid) for userid, postid, ms in shown]
    assert order == sorted(order, reverse=True)


@pytest.fixture
def journals(make_journal: MakeJournal) -> Any:
    journal = make_journal(recent_posts=4)
    return journal, journal.kit.recents, []


def test_posts_rise_in_time_though_the_clock_steps_back(
    journal: TestJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = journal.users.create("ann")
    _write(journal, "ann", "first")
    monkeypatch.setattr(posts, "now_ms", lambda: 1000)
    _write(journal, "ann", "second")
    recent = journal.kit.recents.get_many([user.userid])[0][user.userid]
    assert recent.entries[0][0] == recent.entries[1][0] + 1
