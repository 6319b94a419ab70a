"""Drawing readers by weight, and how long a dead one is left alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from lj_services.database import Databases, Position
from lj_services.database.engines import Server
from lj_services.database.readers import Reader, Readers
from tests.support.databases import settings_of

pytestmark = pytest.mark.unit


def reader(folder: Path, name: str, weight: int) -> Reader:
    url = f"sqlite:///{folder}/{name}.db"
    (folder / f"{name}.db").touch()
    role = settings_of({"global": url}).roles["global"]
    return Reader(Server("global", role.writer, None, role), weight, max_lag_s=0)


def test_reads_follow_the_weights(tmp_path: Path) -> None:
    three, one, none = (reader(tmp_path, f"r{weight}", weight) for weight in (3, 1, 0))
    readers = Readers([three, one, none], every_s=60)
    first = Counter(next(readers.draw()).weight for _ in range(4000))
    assert 0.70 < first[3] / 4000 < 0.80
    assert first[0] == 0
    assert {found.weight for found in readers.draw()} == {3, 1}


def test_a_dead_reader_is_left_alone_for_longer_each_time(tmp_path: Path) -> None:
    dead = reader(tmp_path, "r", 1)
    rests = []
    for _ in range(8):
        dead.failed("gone", now=1000.0)
        rests.append(dead._look_at - 1000.0)
    for rest, expected in zip(rests, [5, 10, 20, 40, 60, 60, 60, 60], strict=True):
        assert 0.75 * expected <= rest <= 1.25 * expected
    assert len(set(rests)) == len(rests)  # never two processes at once


def test_a_reader_that_failed_is_not_drawn_and_comes_back_after_a_look(tmp_path: Path) -> None:
    only = reader(tmp_path, "r", 1)
    readers = Readers([only], every_s=60)
    assert list(readers.draw()) == [only]
    only.failed("gone")
    assert list(readers.draw()) == []
    readers.look()  # its time is not over
    assert list(readers.draw()) == []
    only._look_at = 0.0
    readers.look()
    assert list(readers.draw()) == [only]
    assert only._failures == 0


def test_a_missing_reader_is_no_trouble(tmp_path: Path) -> None:
    settings = settings_of(
        {"global": f"sqlite:///{tmp_path}/g.db"},
        readers=[{"url": f"sqlite:///{tmp_path}/missing.db"}],
    )
    databases = Databases(settings)
    with databases.write("global") as connection:
        connection.exec_driver_sql("CREATE TABLE t (a INTEGER)")
    for _ in range(3):
        with databases.read("global") as connection:
            assert connection.exec_driver_sql("SELECT COUNT(*) FROM t").scalar() == 0
    (state,) = databases.readers()
    assert not state.up
    databases.close()


def test_positions_travel_as_text() -> None:
    position = Position("cluster1", "0-1-100,1-2-7")
    assert Position.parse(str(position)) == position
    assert Position.parse("global=") == Position("global", "")
    for nonsense in ("", "global", "=0-1-2"):
        with pytest.raises(ValueError, match="position"):
            Position.parse(nonsense)


def test_a_position_without_a_binary_log_means_the_writer(tmp_path: Path) -> None:
    settings = settings_of(
        {"global": f"sqlite:///{tmp_path}/g.db"},
        readers=[{"url": f"sqlite:///{tmp_path}/copy.db"}],
        max_lag_s=0,
    )
    databases = Databases(settings)
    for name, value in (("g", 1), ("copy", 2)):
        only = Databases(settings_of({"global": f"sqlite:///{tmp_path}/{name}.db"}))
        with only.write("global") as connection:
            connection.exec_driver_sql("CREATE TABLE t (a INTEGER)")
            connection.exec_driver_sql(f"INSERT INTO t VALUES ({value})")
        only.close()
    with databases.read("global") as connection:
        assert connection.exec_driver_sql("SELECT a FROM t").scalar() == 2
    with databases.read("global", after=databases.position("global")) as connection:
        assert connection.exec_driver_sql("SELECT a FROM t").scalar() == 1
    with (
        pytest.raises(ValueError, match="another role"),
        databases.read("global", after=Position("cluster1", "0-1-1")),
    ):
        pass
    databases.close()
