"""What a gofer does with a request, on SQLite and without job servers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lj_services.database import Databases, DatabaseSettings, migrate
from lj_services.gearman.gofer import executor as module
from lj_services.gearman.gofer.config import GoferSettings
from lj_services.gearman.gofer.errors import (
    CallUnknown,
    IntegrityError,
    InterfaceError,
    OperationalError,
    ProgrammingError,
)
from lj_services.gearman.gofer.executor import COMPONENT, Executor
from lj_services.gearman.gofer.messages import FrameReader, Request, Result
from lj_services.gearman.gofer.service import pooled

pytestmark = pytest.mark.unit

ROLE = "cluster1"


@pytest.fixture
def databases(tmp_path: Path) -> Iterator[Databases]:
    made = Databases(site(tmp_path))
    migrate(made, ROLE, [COMPONENT])
    with made.write(ROLE) as connection:
        connection.exec_driver_sql("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)")
    yield made
    made.close()


def site(folder: Path) -> DatabaseSettings:
    return DatabaseSettings.model_validate(
        {"roles": {ROLE: {"writer": f"sqlite:///{folder}/c.db"}}}
    )


def offering(databases: Databases, **role: Any) -> Executor:
    return Executor(databases, GoferSettings.model_validate({"roles": {ROLE: role}, "frame": 1024}))


def call(number: int) -> str:
    """A call's name; another one each second, as its time is a part of it."""
    return f"{int(time.time()):08x}{number:024x}"


def asked(do: Any, *statements: Any, number: int = 1, **more: Any) -> Request:
    rows = [(sql, [list(values)]) for sql, *values in statements]
    return Request(do, rows, call=call(number), until=time.time() + 60, **more)


def results(*frames: bytes) -> list[Result]:
    reader = FrameReader()
    for frame in frames:
        reader.feed(frame)
    assert reader.error is None
    return reader.results


def stored(databases: Databases) -> list[Any]:
    with databases.read(ROLE, definitive=True) as connection:
        return [tuple(row) for row in connection.exec_driver_sql("SELECT a, b FROM t ORDER BY a")]


def test_a_write_that_is_delivered_twice_is_done_once(databases: Databases) -> None:
    executor = offering(databases)
    request = asked("write", ("INSERT INTO t (b) VALUES (?)", "x"), ("SELECT count(*) FROM t",))
    first = executor.write(ROLE, request)
    assert executor.write(ROLE, request) == first
    assert stored(databases) == [(1, "x")]
    inserted, counted = results(first)
    assert (inserted.rowcount, inserted.lastrowid) == (1, 1)
    assert counted.rows == [(1,)]


def test_a_second_delivery_that_fails_on_its_own_rows_is_answered_as_the_first(
    databases: Databases,
) -> None:
    executor = offering(databases)
    request = asked("write", ("INSERT INTO t VALUES (7, ?)", "x"))
    first = executor.write(ROLE, request)
    assert executor.write(ROLE, request) == first
    with pytest.raises(IntegrityError):
        executor.write(ROLE, asked("write", ("INSERT INTO t VALUES (7, 'y')",), number=2))
    assert stored(databases) == [(7, "x")]


def test_a_long_answer_is_not_kept_and_a_second_delivery_says_so(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_KEPT", 10)
    executor = offering(databases)
    request = asked("write", ("INSERT INTO t VALUES (7, 'x')",))
    executor.write(ROLE, request)
    with pytest.raises(CallUnknown, match="committed before"):
        executor.write(ROLE, request)
    assert stored(databases) == [(7, "x")]


def test_a_transaction_is_all_or_nothing(databases: Databases) -> None:
    executor = offering(databases)
    request = asked("write", ("INSERT INTO t VALUES (1, 'x')",), ("INSERT INTO none VALUES (1)",))
    with pytest.raises(ProgrammingError, match="no such table"):
        executor.write(ROLE, request)
    assert stored(databases) == []


def test_a_held_transaction_answers_a_second_delivery_and_commits_once(
    databases: Databases,
) -> None:
    executor = offering(databases)
    held, _ = executor.hold(ROLE, asked("lease", ("INSERT INTO t (b) VALUES ('x')",)))
    step = asked("step", ("INSERT INTO t (b) VALUES ('y')",), number=2)
    assert held.step(step) == held.step(step)
    commit = asked("commit", number=3)
    answer = held.commit(commit)
    assert executor.known(ROLE, commit.call) == answer
    assert [b for _, b in stored(databases)] == ["x", "y"]
    other, _ = executor.hold(ROLE, asked("lease", ("INSERT INTO t (b) VALUES ('z')",), number=4))
    other.rollback()
    other.rollback()
    assert len(stored(databases)) == 2


def test_a_read_cannot_write(databases: Databases) -> None:
    executor = offering(databases)
    with pytest.raises(ProgrammingError, match="for reading"):
        executor.read(ROLE, asked("read", ("INSERT INTO t VALUES (1, 'x')",)), print)


def test_rows_are_sent_in_pieces_unless_they_shall_be_whole(databases: Databases) -> None:
    executor = offering(databases)
    rows = [[number, "x" * 50] for number in range(1000)]
    many = Request(
        "write", [("INSERT INTO t VALUES (?, ?)", rows)], call=call(1), until=time.time() + 60
    )
    (written,) = results(executor.write(ROLE, many))
    assert written.rowcount == 1000
    frames: list[bytes] = []
    query = ("SELECT a, b FROM t ORDER BY a",)
    last = executor.read(ROLE, asked("read", query), frames.append)
    assert len(frames) > 50
    assert max(map(len, frames)) < 1200
    (read,) = results(*frames, last)
    assert read.rows == [tuple(row) for row in rows]
    frames.clear()
    (read,) = results(executor.read(ROLE, asked("read", query, whole=True), frames.append))
    assert frames == []
    assert len(read.rows) == 1000


def test_verbs_and_statements_that_are_not_allowed(databases: Databases) -> None:
    narrow = offering(databases, verbs=["select"])
    with pytest.raises(ProgrammingError, match=r"DELETE is not allowed for cluster1.*verbs"):
        narrow.write(ROLE, asked("write", ("DELETE FROM t",)))
    exact = offering(databases, statements=["SELECT b FROM t WHERE a = ?"])
    exact.read(ROLE, asked("read", ("SELECT b  FROM t\nWHERE a = ?", 1)), print)
    with pytest.raises(ProgrammingError, match="statements"):
        exact.read(ROLE, asked("read", ("SELECT b FROM t WHERE a = 1 OR a = ?", 1)), print)


@pytest.mark.parametrize(
    ("sql", "values", "match"),
    [("SELECT ?", (), "1 question marks, but 0"), ("SELECT 1; SELECT 2", (), "one statement")],
)
def test_wrong_statements(databases: Databases, sql: str, values: Any, match: str) -> None:
    with pytest.raises(ProgrammingError, match=match):
        offering(databases).read(ROLE, asked("read", (sql, *values)), print)


def test_a_call_that_nobody_waits_for_is_not_done(databases: Databases) -> None:
    executor = offering(databases)
    late = Request(
        "write", [("INSERT INTO t VALUES (1, 'x')", [[]])], call=call(1), until=time.time() - 60
    )
    with pytest.raises(OperationalError, match="too late"):
        executor.write(ROLE, late)
    with pytest.raises(InterfaceError, match="until when"):
        executor.write(ROLE, Request("write", late.statements, call=call(1)))
    assert stored(databases) == []


def test_old_answers_are_forgotten(databases: Databases) -> None:
    executor = offering(databases)
    new = asked("write", ("INSERT INTO t VALUES (1, 'x')",))
    executor.write(ROLE, new)
    old = Request(
        "write",
        [("INSERT INTO t VALUES (2, 'x')", [[]])],
        call=f"{int(time.time()) - module.KEEP_S - 10:08x}{0:024x}",
        until=time.time() + 60,
    )
    executor.write(ROLE, old)
    assert executor.forget_old(ROLE) == 1
    assert executor.known(ROLE, new.call) is not None
    assert executor.known(ROLE, old.call) is None


def test_only_roles_of_the_site_can_be_offered(tmp_path: Path) -> None:
    offered = GoferSettings.model_validate({"roles": {"cluster2": {}}})
    with pytest.raises(ValueError, match=r"roles\.cluster2: the site has no such role"):
        pooled(site(tmp_path), offered)
    sized = GoferSettings.model_validate({"roles": {ROLE: {"read_connections": 33}}})
    assert pooled(site(tmp_path), sized).roles[ROLE].pool_size == 34
