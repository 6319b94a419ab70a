"""The survey counts on both engines what is there, resumes, and reads little at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text

from lj_services.database import cluster_role, migrate
from lj_services.usercluster import Users
from lj_services.usercluster.balance import store
from lj_services.usercluster.balance.rules import SurveyRules
from lj_services.usercluster.balance.survey import due, survey
from lj_services.usercluster.balance.tables import SchemaNotCounted, counted_tables
from tests.support.databases import TestSite

pytestmark = pytest.mark.interop

# Rows are cut at awkward places: a key of three columns, one of them text.
ENTRY = """
CREATE TABLE entry (
    userid INTEGER NOT NULL, area VARCHAR(8) NOT NULL, entryid INTEGER NOT NULL,
    body {text} NULL, picture BLOB NULL,
    PRIMARY KEY (userid, area, entryid)
) {engine}
"""
RULES = SurveyRules(batch_users=3, chunk_rows=4, pace=1)


@pytest.fixture
def surveyed(site: TestSite) -> Iterator[TestSite]:
    migrate(site.databases, "global", [store.COMPONENT])
    sqlite = site.engine == "sqlite"
    for number in (1, 2):
        with site.databases.write(cluster_role(number)) as connection:
            connection.execute(
                text(
                    ENTRY.format(
                        text="TEXT" if sqlite else "MEDIUMTEXT",
                        engine="" if sqlite else "ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
                    )
                )
            )
    return site


def write_entries(users: Users, userid: int, count: int, body: str = "") -> None:
    with users.writing(userid) as connection:
        for i in range(count):
            connection.execute(
                text("INSERT INTO entry VALUES (:userid, :area, :id, :body, NULL)"),
                {"userid": userid, "area": "LT"[i % 2], "id": i, "body": body},
            )


def sizes(site: TestSite) -> dict[int, Any]:
    with site.databases.read("global") as connection:
        rows = connection.execute(text("SELECT * FROM balance_user")).mappings().all()
    return {row["userid"]: row for row in rows}


def test_every_users_rows_and_bytes(surveyed: TestSite) -> None:
    users = surveyed.users()
    expected = {}
    for i in range(11):
        made = users.create(f"u{i}", cluster=1)
        write_entries(users, made.userid, i * 3, "zażółć" * i)  # 10 bytes, 6 characters
        expected[made.userid] = (i * 3, i * 3 * (20 + 2 * 8 + 1 + 10 * i))
    stranger = users.create("stranger", cluster=2)

    reads: list[float] = []
    done = survey(surveyed.databases, 1, RULES, sleep=reads.append)

    found = {userid: (row["row_count"], row["bytes"]) for userid, row in sizes(surveyed).items()}
    assert found == expected
    assert stranger.userid not in found
    assert (done.users, done.rows, done.bytes) == (
        11,
        sum(rows for rows, _ in expected.values()),
        sum(size for _, size in expected.values()),
    )
    assert done.tables == ("entry", "usercounter")
    # No query counted more than 4 of the 165 rows.
    assert len(reads) > 165 / 4


def test_only_what_is_old_is_counted_again(surveyed: TestSite) -> None:
    users = surveyed.users()
    userids = [users.create(f"u{i}", cluster=1).userid for i in range(5)]
    assert due(surveyed.databases, 1, RULES) == 5
    assert survey(surveyed.databases, 1, RULES).users == 5
    assert due(surveyed.databases, 1, RULES) == 0
    assert survey(surveyed.databases, 1, RULES).users == 0
    with surveyed.databases.write("global") as connection:
        connection.execute(
            text("UPDATE balance_user SET surveyed_at = surveyed_at - 90000 WHERE userid = :u"),
            {"u": userids[2]},
        )
    write_entries(users, userids[2], 2)
    assert survey(surveyed.databases, 1, RULES).users == 1
    assert sizes(surveyed)[userids[2]]["row_count"] == 2


def test_a_survey_that_was_killed_goes_on_where_it_was(surveyed: TestSite) -> None:
    users = surveyed.users()
    for i in range(10):
        users.create(f"u{i}", cluster=1)

    class Killed(BaseException):
        pass

    def kill(done: Any) -> None:
        if done.users >= 6:
            raise Killed

    with pytest.raises(Killed):
        survey(surveyed.databases, 1, RULES, progress=kill)
    assert len(sizes(surveyed)) == 6
    assert survey(surveyed.databases, 1, RULES).users == 4
    assert len(sizes(surveyed)) == 10


def test_a_user_who_has_moved_is_counted_anew_and_known_to_have_moved(surveyed: TestSite) -> None:
    users = surveyed.users()
    userid = users.create("bob", cluster=1).userid
    survey(surveyed.databases, 1, RULES)
    store.record_write_rates(surveyed.databases, {userid: 2.5, 999: 1.0})
    assert sizes(surveyed)[userid]["moved_at"] is None
    with surveyed.databases.write("global") as connection:
        connection.execute(text("UPDATE user SET clusterid = 2 WHERE userid = :u"), {"u": userid})
    assert due(surveyed.databases, 1, RULES) == 0
    assert survey(surveyed.databases, 2, RULES).users == 1
    row = sizes(surveyed)[userid]
    assert row["clusterid"] == 2
    assert row["moved_at"] == row["surveyed_at"]
    assert row["write_rate"] == 2.5


def test_sizes_of_those_who_left_while_they_were_counted_are_not_recorded(
    surveyed: TestSite,
) -> None:
    userid = surveyed.users().create("bob", cluster=1).userid
    with surveyed.databases.write("global") as connection:
        assert store.record_sizes(connection, 2, {userid: (1, 1)}, 0) == 0
    assert sizes(surveyed) == {}


def test_a_table_that_would_have_to_be_read_whole_is_refused(surveyed: TestSite) -> None:
    with surveyed.databases.write("cluster1") as connection:
        connection.execute(text("CREATE TABLE odd (id INTEGER PRIMARY KEY, userid INTEGER)"))
        connection.execute(text("CREATE TABLE ours (id INTEGER PRIMARY KEY)"))
    with pytest.raises(SchemaNotCounted, match="primary key of odd:"):
        survey(surveyed.databases, 1, RULES)
    with surveyed.databases.read("cluster2") as connection:
        assert [one.name for one in counted_tables(connection)] == ["entry", "usercounter"]


def test_the_clusters_disk_is_measured(surveyed: TestSite) -> None:
    survey(surveyed.databases, 1, RULES)
    with surveyed.databases.read("global") as connection:
        (row,) = connection.execute(text("SELECT * FROM balance_cluster")).mappings()
    assert 0 < row["data_bytes"] < row["disk_total"]
    assert 0 < row["disk_free"] <= row["disk_total"]
