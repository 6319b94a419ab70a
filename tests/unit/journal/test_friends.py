"""Friends on two clusters: what crashes and overlapping requests may leave behind."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from sqlalchemy import select

from lj_services.database import cluster_role
from lj_services.journal import friends
from lj_services.journal.errors import NotAllowed, TooMany
from lj_services.journal.tables import friend, friendof
from lj_services.usercluster import User, UserReadOnly
from tests.support.journal import TestJournal

pytestmark = pytest.mark.unit


class Crash(BaseException):
    """The process ends here."""


@pytest.fixture
def ann_and_ben(journal: TestJournal) -> tuple[User, User]:
    return journal.users.create("ann", cluster=1), journal.users.create("ben", cluster=2)


def state(journal: TestJournal, ann: User, ben: User) -> tuple[bool, bool]:
    """(the truth, the copy)"""
    with journal.site.databases.read(cluster_role(ann.clusterid)) as connection:
        truth = friends.trusts(connection, ann.userid, ben.userid)
    with journal.site.databases.read(cluster_role(ben.clusterid)) as connection:
        copy = ann.userid in friends.listed_by(connection, ben.userid, most=10)
    return truth, copy


def change(journal: TestJournal, what: str, ann: User, ben: User) -> None:
    if what == "add":
        friends.add(journal.users, ann.userid, ben, most=10)
    else:
        friends.remove(journal.users, ann.userid, ben)


def test_adding_and_removing(journal: TestJournal, ann_and_ben: tuple[User, User]) -> None:
    ann, ben = ann_and_ben
    for what, expected in (("add", True), ("add", True), ("remove", False), ("remove", False)):
        change(journal, what, ann, ben)
        assert state(journal, ann, ben) == (expected, expected)
        assert state(journal, ben, ann) == (False, False)


@pytest.mark.parametrize("what", ["add", "remove"])
@pytest.mark.parametrize("transactions", [0, 1, 2])
def test_a_crash_between_two_clusters_shows_less_never_more(
    journal: TestJournal,
    ann_and_ben: tuple[User, User],
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    transactions: int,
) -> None:
    ann, ben = ann_and_ben
    if what == "remove":
        change(journal, "add", ann, ben)
    real, done = journal.users.writing, 0

    @contextmanager
    def writing(whom: Any) -> Iterator[Any]:
        nonlocal done
        if done == transactions:
            raise Crash
        done += 1
        with real(whom) as connection:
            yield connection

    monkeypatch.setattr(journal.users, "writing", writing)
    try:
        change(journal, what, ann, ben)
    except Crash:
        pass
    else:
        assert (what, transactions) == ("add", 2)
    truth, copy = state(journal, ann, ben)
    assert truth or not copy
    monkeypatch.setattr(journal.users, "writing", real)
    change(journal, what, ann, ben)
    assert state(journal, ann, ben) == (what == "add", what == "add")


class Steps:
    """Runs requests in threads, one transaction at a time, in a given order."""

    def __init__(self, journal: TestJournal, monkeypatch: pytest.MonkeyPatch) -> None:
        self.real = journal.users.writing
        self.turn = [threading.Semaphore(0), threading.Semaphore(0)]
        self.done = threading.Semaphore(0)
        self.ended = [False, False]
        self.number = threading.local()
        monkeypatch.setattr(journal.users, "writing", self.writing)

    @contextmanager
    def writing(self, whom: Any) -> Iterator[Any]:
        self.turn[self.number.value].acquire()
        with self.real(whom) as connection:
            yield connection
        self.done.release()

    def run(self, requests: list[Any], order: tuple[int, ...]) -> Iterator[None]:
        def body(number: int) -> None:
            self.number.value = number
            requests[number]()
            self.ended[number] = True

        threads = [threading.Thread(target=body, args=(n,)) for n in range(2)]
        for thread in threads:
            thread.start()
        for number in order:
            self.turn[number].release()
            self.done.acquire(timeout=10)
            yield
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()


LENGTHS = {"add": 2, "remove": 3}


@pytest.mark.parametrize("kinds", [("add", "remove"), ("remove", "remove"), ("add", "add")])
@pytest.mark.parametrize("listed", [False, True])
def test_every_order_of_two_overlapping_requests(
    journal: TestJournal,
    monkeypatch: pytest.MonkeyPatch,
    kinds: tuple[str, str],
    listed: bool,
) -> None:
    steps = Steps(journal, monkeypatch)
    pieces = [0] * LENGTHS[kinds[0]] + [1] * LENGTHS[kinds[1]]
    for number, order in enumerate(sorted(set(itertools.permutations(pieces)))):
        ann = journal.users.create(f"ann{number}", cluster=1)
        ben = journal.users.create(f"ben{number}", cluster=2)
        if listed:
            with monkeypatch.context() as undone:
                undone.setattr(journal.users, "writing", steps.real)
                change(journal, "add", ann, ben)
        requests = [partial(change, journal, kind, ann, ben) for kind in kinds]
        for _ in steps.run(requests, order):
            truth, copy = state(journal, ann, ben)
            assert truth or not copy, order
        truth, copy = state(journal, ann, ben)
        assert truth == copy, order


def test_limits_and_refusals(journal: TestJournal, ann_and_ben: tuple[User, User]) -> None:
    ann, ben = ann_and_ben
    with pytest.raises(NotAllowed, match="yourself"):
        friends.add(journal.users, ann.userid, ann, most=10)
    friends.add(journal.users, ann.userid, ben, most=1)
    eve = journal.users.create("eve")
    with pytest.raises(TooMany, match="1 friends"):
        friends.add(journal.users, ann.userid, eve, most=1)
    friends.add(journal.users, ann.userid, ben, most=1)  # who is listed already is no more


def test_a_crowd_of_strangers_hides_no_friend(
    journal: TestJournal, ann_and_ben: tuple[User, User]
) -> None:
    _, ben = ann_and_ben
    for name in ("x1", "x2", "x3"):
        friends.add(journal.users, journal.users.create(name).userid, ben, most=10)
    eve = journal.users.create("eve", cluster=1)
    friends.add(journal.users, eve.userid, ben, most=10)
    friends.add(journal.users, ben.userid, eve, most=10)
    with journal.site.databases.read(cluster_role(ben.clusterid)) as connection:
        known = friends.edges(connection, ben.userid, most=2)
    assert (known.friends, known.trusted_by) == ([eve.userid], {eve.userid})


def test_a_read_only_friend_can_not_be_taken_off_half_way(
    journal: TestJournal, ann_and_ben: tuple[User, User]
) -> None:
    ann, ben = ann_and_ben
    change(journal, "add", ann, ben)
    journal.users.set_readonly(ben.userid, True)
    with pytest.raises(UserReadOnly):
        change(journal, "remove", ann, ben)
    assert state(journal, ann, ben) == (True, True)
    journal.users.set_readonly(ben.userid, False)
    change(journal, "remove", ann, ben)
    assert state(journal, ann, ben) == (False, False)


def test_rows_lie_where_they_belong(journal: TestJournal, ann_and_ben: tuple[User, User]) -> None:
    ann, ben = ann_and_ben
    change(journal, "add", ann, ben)
    for role, friend_rows, copies in (("cluster1", 1, 0), ("cluster2", 0, 1)):
        with journal.site.databases.read(role) as connection:
            assert len(connection.execute(select(friend)).all()) == friend_rows
            assert len(connection.execute(select(friendof)).all()) == copies
