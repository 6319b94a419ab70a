"""Many workers' answers, and what is written down for workers that come later."""

from __future__ import annotations

import pytest

from lj_services.perlbal.language import Context, parse_line
from lj_services.perlbal.workers.journal import Journal
from lj_services.perlbal.workers.merging import merge

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("line", "first", "second", "together"),
    [
        ("states", ["Client wait 3", "."], ["Backend bored 1", "Client wait 4", "."],
         ["Backend bored 1", "Client wait 7", "."]),
        ("queues", ["web-normal.age 7", "web-normal.count 1", "."],
         ["web-normal.age 3", "web-normal.count 2", "."],
         ["web-normal.age 7", "web-normal.count 3", "."]),
        ("nodes", ["10.0.0.1:80 attempts 2", "10.0.0.1:80 lastattempt 50", "."],
         ["10.0.0.1:80 attempts 3", "10.0.0.1:80 lastattempt 40", "10.0.0.1:80 leftout 1.5", "."],
         ["10.0.0.1:80 attempts 5", "10.0.0.1:80 lastattempt 50", "10.0.0.1:80 leftout 1.5", "."]),
        ("show pool p", ["10.0.0.1:80 5", "."], ["10.0.0.1:80 6", "."], ["10.0.0.1:80 11", "."]),
        ("show pool", ["p nodes 2", "."], ["p nodes 2", "."], ["p nodes 2", "."]),
        ("obj", ["Perlbal::Pool = 1", "A = 2", "."], ["Perlbal::Pool = 1", "A = 3", "."],
         ["Perlbal::Pool = 1", "A = 5", "."]),
        ("fd", ["max 100", "cur 5", "."], ["max 100", "cur 6", "."], ["max 100", "cur 11", "."]),
        ("socks summary",
         ["    2 A", "", "Aggregate write buffer: 1.5k", " Open files: 1", "."],
         ["    3 A", "    1 B", "", "Aggregate write buffer: 0.5k", " Open files: 0", "."],
         ["    5 A", "    1 B", "", "Aggregate write buffer: 2.0k", " Open files: 1", "."]),
        ("socks", ["   fd    age", "    5    1s A", "."], ["   fd    age", "    6    2s B", "."],
         ["   fd    age", "    5    1s A; worker=1", "    6    2s B; worker=2", "."]),
        ("stats", ["web   files_sent    9", "."], ["web   files_sent    9", "."],
         ["web   files_sent   18", "."]),
        ("stats", ["a  x    9", "."], ["b  x  999", "a  x   10", "."],
         ["a  x   19", "b  x  999", "."]),
        ("recent", ["web 0.1 /a", "."], ["web 0.2 /b", "."], ["web 0.1 /a", "web 0.2 /b", "."]),
        ("mine", ["hits 1", "."], ["hits 2", "."],
         ["worker 1:", "hits 1", "worker 2:", "hits 2", "."]),
        ("mine", ["hits 1", "."], ["hits 1", "."], ["hits 1", "."]),
        ("node x", ["."], ["ERROR: 'x' is no node"], ["ERROR: 'x' is no node"]),
    ],
)  # fmt: skip
def test_answers_are_put_together(
    line: str, first: list[str], second: list[str], together: list[str]
) -> None:
    assert merge(line, [first, second]) == together


def test_a_service_is_shown_with_the_sums_of_all_workers() -> None:
    first = [
        "SERVICE web", "     listening: 10.0.0.9:80", "  pend clients: 1", "  pend backend: 0",
        " connect-ahead: 2/4", "         nodes:", "                10.0.0.1:80                5",
        ".",
    ]  # fmt: skip
    second = [
        "SERVICE web", "     listening: 10.0.0.9:80", "  pend clients: 2", "  pend backend: 1",
        "   10.0.0.1:80 - connecting - 3s", " connect-ahead: 1/4", "         nodes:",
        "                10.0.0.1:80                7", ".",
    ]  # fmt: skip
    assert merge("show service web", [first, second]) == [
        "SERVICE web", "     listening: 10.0.0.9:80", "  pend clients: 3", "  pend backend: 1",
        "   10.0.0.1:80 - connecting - 3s", " connect-ahead: 3/8", "         nodes:",
        "                10.0.0.1:80               12", ".",
    ]  # fmt: skip


def test_processes_are_summed_and_listed() -> None:
    answers = [
        ["time: 9", f"pid: {pid}", "utime: 1.5 (+0.5)", "stime: 1 (+0)", "reqs: 10 (+4)", "."]
        for pid in (7, 8)
    ]
    merged = merge("proc", answers)
    assert merged[:4] == ["time: 9", "utime: 3 (+1)", "stime: 2 (+0)", "reqs: 20 (+8)"]
    assert merged[4].startswith("worker 1: pid: 7, utime: 1.5")


def write(journal: Journal, line: str, meant: str = "") -> None:
    command = parse_line(line, Context(last_created=meant))
    assert command is not None
    journal.add(command, meant)


def test_of_changes_to_the_same_thing_only_the_last_is_kept() -> None:
    journal = Journal()
    for line in (
        "POOL p ADD 10.0.0.1",
        "SET web.idle_timeout = 3",
        "SET other.idle_timeout = 4",
        "POOL ADD p 10.0.0.2",
        "POOL p REMOVE 10.0.0.1",
        "SET web idle_timeout = 5",
        "DISABLE web",
        "ENABLE web",
    ):
        write(journal, line)
    write(journal, "SET idle_timeout = 6", "web")
    assert [line for line, _meant in journal] == [
        "SET other.idle_timeout = 4",
        "POOL ADD p 10.0.0.2",
        "POOL p REMOVE 10.0.0.1",
        "ENABLE web",
        "SET idle_timeout = 6",
    ]
    assert [meant for _line, meant in journal][-1] == "web"


def test_rules_keep_their_order_and_what_is_needed_comes_before() -> None:
    journal = Journal()
    for line in (
        "LOAD accesscontrol",
        "ACCESS DENY ip 10.0.0.9",
        "ACCESS POLICY deny",
        "ACCESS RESET",
        "ACCESS ALLOW ip 10.0.0.1",
        "ACCESS DENY netmask 10.0.0.0/8",
        "ACCESS POLICY deny",
        "ACCESS ALLOW ip 10.0.0.1",  # a second time it means nothing: the first rule counts
        "ACCESS POLICY allow",
        "LOAD accesscontrol",
    ):
        write(journal, line, "web")
    write(journal, "ACCESS DENY ip 10.0.0.9", "other")
    write(journal, "LOAD stats")
    write(journal, "UNLOAD stats")
    assert [line for line, _meant in journal] == [
        "LOAD accesscontrol",
        "ACCESS RESET",
        "ACCESS ALLOW ip 10.0.0.1",
        "ACCESS DENY netmask 10.0.0.0/8",
        "ACCESS POLICY allow",
        "ACCESS DENY ip 10.0.0.9",
        "UNLOAD stats",
    ]


def test_a_drain_is_told_again_for_what_is_left_of_it() -> None:
    now = 100.0
    journal = Journal(lambda: now)
    for line in (
        "POOL p ADD 10.0.0.1 weight=2",
        "POOL p ADD 10.0.0.1 weight=3",
        "POOL p DRAIN 10.0.0.1 FOR=60",
        "POOL DRAIN p 10.0.0.2",
        "POOL p DRAIN 10.0.0.3 for=60",
        "POOL p ADD 10.0.0.3",
        "POOL p DRAIN 10.0.0.4 for=60",
        "POOL p DRAIN 10.0.0.4 for=0",
    ):
        write(journal, line)
    now = 120.0
    assert [line for line, _meant in journal] == [
        "POOL p ADD 10.0.0.1 weight=3",
        "POOL p DRAIN 10.0.0.1 for=40",
        "POOL DRAIN p 10.0.0.2 for=280",
        "POOL p ADD 10.0.0.3",
    ]
    now = 160.0
    assert [line for line, _meant in journal][1] == "POOL DRAIN p 10.0.0.2 for=240"
    assert [line for line, _meant in journal.drains()] == ["POOL DRAIN p 10.0.0.2 for=240"]


def test_workers_that_let_a_node_in_at_different_times_are_shown_as_one() -> None:
    answers = [["10.0.0.2:80 3", "10.0.0.1:80 drained 9"], ["10.0.0.2:80 4", "10.0.0.1:80 2"]]
    assert merge("show pool p", [[*lines, "."] for lines in answers]) == [
        "10.0.0.2:80 7",
        "10.0.0.1:80 2",
        "10.0.0.1:80 drained 9",
        ".",
    ]
