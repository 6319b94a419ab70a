"""What a gofer takes for a statement, and what it makes of question marks."""

from __future__ import annotations

import re
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lj_services.gearman.gofer.errors import ProgrammingError
from lj_services.gearman.gofer.statements import Statement

pytestmark = pytest.mark.unit

BOTH = pytest.mark.parametrize("mysql", [True, False], ids=["mysql", "sqlite"])


@BOTH
@pytest.mark.parametrize(
    ("sql", "verb", "marks"),
    [
        ("SELECT ?", "select", 1),
        ("  (select '?', \"?\", `?` FROM t /* ? */ WHERE a = ? -- ?\n AND b = ?)", "select", 2),
        ("/* why */ Insert INTO t VALUES (?, 'it''s ?', ?);", "insert", 2),
        ("-- first\nDELETE FROM t", "delete", 0),
        ("", "", 0),
    ],
)
def test_verb_and_marks(mysql: bool, sql: str, verb: str, marks: int) -> None:
    found = Statement(sql, mysql=mysql)
    assert (found.verb, found.marks) == (verb, marks)
    assert found.text() == sql


@BOTH
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1; DELETE FROM t",
        "SELECT 1 /* ; */; -- ;\n DELETE FROM t",
        "SELECT /*! 1, */ 2",
        "SELECT /*M!100100 1, */ 2",
        "SELECT 'open",
        'SELECT "open',
        "SELECT 1 /* open",
        "SELECT a FROM t INTO OUTFILE '/tmp/x'",
        "select a from t into /* hm */ dumpfile '/tmp/x'",
    ],
)
def test_what_is_refused(mysql: bool, sql: str) -> None:
    with pytest.raises(ProgrammingError):
        Statement(sql, mysql=mysql)


def test_backslashes_escape_quotes_for_mysql_only() -> None:
    trick = r"SELECT '\'; DELETE FROM t; -- '"
    assert Statement(trick, mysql=True).verb == "select"
    with pytest.raises(ProgrammingError, match="one statement"):
        Statement(trick, mysql=False)
    other = r"SELECT '\\'; DELETE FROM t"
    with pytest.raises(ProgrammingError, match="one statement"):
        Statement(other, mysql=True)


def test_mysqls_comments() -> None:
    assert Statement("SELECT 5--1, ?", mysql=True).marks == 1
    assert Statement("SELECT 5--1, ?", mysql=False).marks == 0
    assert Statement("SELECT ? # ?", mysql=True).marks == 1


@pytest.mark.parametrize(
    ("sql", "written"),
    [
        ("SELECT ?", "SELECT %s"),
        ("SELECT 'a%sb', ?, 7 %s", "SELECT 'a%' 'sb', %s, 7 % s"),
        ("SELECT 'a%sb'", "SELECT 'a%sb'"),
        ("SELECT '50%', ?", "SELECT '50%', %s"),
    ],
)
def test_question_marks_become_placeholders_of_mysqls_driver(sql: str, written: str) -> None:
    assert Statement(sql, mysql=True).for_mysql() == written


def test_a_name_that_looks_like_a_placeholder_is_refused() -> None:
    with pytest.raises(ProgrammingError, match="name"):
        Statement("SELECT `a%sb`, ?", mysql=True).for_mysql()


def test_white_space_and_comments_make_no_other_statement() -> None:
    one = Statement("SELECT a,  b -- why\n  FROM t\tWHERE c = 'x  y' ;", mysql=True)
    two = Statement("SELECT a, b FROM t /* hm */ WHERE c = 'x  y'", mysql=True)
    assert one.normal() == two.normal() == "SELECT a, b FROM t WHERE c = 'x  y'"


@pytest.mark.parametrize(
    ("sql", "locks"),
    [
        ("SELECT 1 FROM t FOR  UPDATE", True),
        ("SELECT 1 FROM t LOCK IN SHARE MODE", True),
        ("SELECT 'for update' FROM t", False),
    ],
)
def test_selects_that_lock(sql: str, locks: bool) -> None:
    assert Statement(sql, mysql=True).locks is locks


def test_parameters_are_counted() -> None:
    with pytest.raises(ProgrammingError, match="2 question marks, but 1"):
        Statement("SELECT ?, ?", mysql=True).check([(1, 2), (3,)])


@pytest.mark.parametrize("name", [":a", "@a", "#a", "$a", "'x'#a"])
def test_sqlite_names_no_parameters(name: str) -> None:
    with pytest.raises(ProgrammingError, match="question marks here, not names"):
        Statement(f"SELECT {name}", mysql=False)
    assert Statement("SELECT a$b, ':a', \"#a\" -- @a", mysql=False).marks == 0


PIECES = st.lists(
    st.sampled_from(["'", '"', "`", "\\", "?", ";", "-- ", "/*", "*/", "#", "\n", "a", "%s", "''"]),
    max_size=12,
)


@given(PIECES)
def test_sqlite_runs_no_second_statement_of_what_is_taken(pieces: list[str]) -> None:
    """What this takes for one statement, SQLite takes for one, too."""
    sql = "SELECT " + "".join(pieces)
    try:
        statement = Statement(sql, mysql=False)
    except ProgrammingError:
        return
    assert statement.text() == sql
    said = ""
    try:
        sqlite3.connect(":memory:").execute(sql, [1] * statement.marks)
    except sqlite3.Error as error:
        said = str(error)  # mostly that it is no SQL, which the database says well enough
    # But neither that there is a second statement, nor another number of parameters.
    assert not re.search("one statement|bindings", said), (sql, said)
