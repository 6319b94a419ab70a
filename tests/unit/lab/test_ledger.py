"""A ledger of acknowledged commits, and what it proves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pymysql
import pytest

from tools.lab.ledger import Entry, Writer, longest_gap_s, lost, newest, read

pytestmark = pytest.mark.unit


def test_reads_whole_lines_alone(tmp_path: Path) -> None:
    file = tmp_path / "ledger"
    assert read(file) == []
    file.write_text("1 10.000\n2 10.500\n3 11.2")
    assert read(file) == [Entry(1, 10.0), Entry(2, 10.5)]


def test_the_newest_of_many_are_read_without_the_others(tmp_path: Path) -> None:
    file = tmp_path / "ledger"
    assert newest(file) == []
    file.write_text("".join(f"{number} {number}.000\n" for number in range(1000)) + "1000 1")
    assert newest(file)[-2:] == [Entry(998, 998.0), Entry(999, 999.0)]
    assert len(newest(file)) < 30
    file.write_text("1 10.000\n2 10.500\n")
    assert newest(file) == read(file)


def test_finds_what_was_lost() -> None:
    entries = [Entry(1, 0.0), Entry(2, 1.0), Entry(4, 2.0)]
    assert lost(entries, [1, 2, 3, 4]) == []  # 3 was never answered, and may be there
    assert lost(entries, [1, 4]) == [2]


def test_measures_the_longest_silence() -> None:
    entries = [Entry(1, 0.0), Entry(2, 8.0), Entry(3, 9.0), Entry(4, 12.0)]
    assert longest_gap_s(entries) == 8.0
    assert longest_gap_s(entries, since_s=8.5) == 3.0
    assert longest_gap_s(entries[:1]) == 0.0


class Server:
    """A connection whose commits are answered, or not."""

    def __init__(self, fails: list[bool]) -> None:
        self._fails = fails
        self.connections = 0

    def connect(self) -> Any:
        self.connections += 1
        return self

    def cursor(self) -> Any:
        return self

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def execute(self, *_: object) -> None:
        pass

    def commit(self) -> None:
        if self._fails.pop(0):
            raise pymysql.err.OperationalError(2013, "Lost connection")


def test_only_what_was_answered_is_an_entry_and_a_lost_connection_is_made_anew() -> None:
    server = Server([False, True, False])
    writer = Writer(server.connect, clock=lambda: 5.0)
    found = [writer.commit(number) for number in (1, 2, 3)]
    assert found == [Entry(1, 5.0), None, Entry(3, 5.0)]
    assert server.connections == 2
