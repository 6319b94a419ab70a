"""The plan as a file: written, read, edited, refused."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lj_services.usercluster.balance.plan import Move, Plan, Why
from lj_services.usercluster.balance.plan_file import PlanFileError, read, read_file, write
from lj_services.usercluster.balance.planner import make_plan
from lj_services.usercluster.balance.rules import BalanceRules, ClusterState
from tests.unit.usercluster.balance.snapshots import cluster, evenly, snapshot

pytestmark = pytest.mark.unit
MADE = datetime(2007, 3, 31, 22, 15, tzinfo=UTC)
GOOD = """\
lj-balance-plan 1
made 2007-03-31T22:15:00Z
move user=1 bytes=100 rows=2 from=1 to=2 why=disk
move user=2 bytes=100 rows=2 from=1 to=3 why=drain
end
"""


def plan_of(moves: list[Move]) -> Plan:
    return Plan(moves, (), sum(m.size for m in moves), 1.0, 1.5, 1.05)


def text_of(plan: Plan) -> str:
    return "".join(write(plan, MADE))


MOVES = st.lists(
    st.builds(
        Move,
        userid=st.integers(1, 2**32 - 1),
        size=st.integers(0, 2**60),
        rows=st.integers(0, 2**32 - 1),
        src=st.integers(1, 50),
        dst=st.integers(51, 100),
        why=st.sampled_from(Why),
    ),
    unique_by=lambda move: move.userid,
    max_size=20,
)


@given(MOVES)
def test_what_is_written_is_read(moves: list[Move]) -> None:
    found = read(text_of(plan_of(moves)))
    assert found.moves == moves
    assert found.made == MADE


@given(st.text(max_size=200) | st.text(alphabet="move userfrombt=123#\n -1", max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    for whole in (text, GOOD.replace("end\n", text + "\nend\n")):
        try:
            read(whole)
        except PlanFileError as refusal:
            assert refusal.errors  # noqa: PT017  either outcome is right


def test_a_plan_says_what_it_leads_to():
    site = snapshot(
        [cluster(1, 600), cluster(2, 200)], evenly(1, 1, 60, 10) + evenly(2, 101, 20, 10)
    )
    text = text_of(make_plan(site, BalanceRules()))
    assert text.startswith("# 18 moves of 180 bytes; to reach every target takes at least 180.\n")
    assert "1.500 now, 1.050 after it; at best 1.000" in text
    (before,) = [line.split() for line in text.splitlines() if line.startswith("#       1 ")]
    assert before == ["#", "1", "up", "1000", "420", "600", "420", "?", "?", "0", "18"]


def test_editing_by_hand():
    text = GOOD.replace("move user=2", "# move user=2").replace(
        "end", "  move  to=3 from=2 user=77   # a friend asked\n\nend"
    )
    assert read(text).moves == [
        Move(1, 100, 2, 1, 2, Why.DISK),
        Move(77, 0, 0, 2, 3, Why.OPERATOR),
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("user=2", "user=two", "line 4, user: 'two' is not one; write a whole number from 1"),
        ("user=2", "user=0", "line 4, user: '0' is not one"),
        ("user=2", "user=1", "line 4, user: 1 is moved in line 3 already; keep one"),
        ("to=3", "to=1", "line 4, to: the user is on cluster 1 already; change it"),
        (
            "to=3",
            "to=99999",
            "line 4, to: '99999' is not one; write a whole number from 1 to",
        ),
        (" to=3", "", "line 4, to: it is missing; add to=NUMBER"),
        ("why=drain", "why=mood", "line 4, why: 'mood' is no reason; write one of disk, writes"),
        ("rows=2 from=1 to=3", "row=2 from=1 to=3", "line 4, row=2: no such field"),
        ("to=3", "to=3 to=2", "line 4, to: it is there twice; keep one"),
        ("move user=2", "moev user=2", "line 4, moev: no such line; lines begin with made, move"),
        ("made 2007-03-31T22:15:00Z", "made yesterday", "line 2, made: this is no time"),
        ("made 2007-03-31T22:15:00Z\n", "", "line 4, made: it is missing"),
        ("plan 1", "plan 2", "line 1: this is no plan of version 1; begin with"),
        ("end\n", "", "line 4, end: the last line is missing: was the file cut off?"),
        ("end\n", "end\nmove user=9 from=1 to=2\n", "line 6: there is more after end in line 5"),
        (GOOD, "", "line 0: the file is empty"),
        ("bytes=100 rows=2 from=1 to=3", "bytes=1e3 rows=2 from=1 to=3", "line 4, bytes: '1e3'"),
    ],
)
def test_errors_name_line_field_and_remedy(old, new, message):
    with pytest.raises(PlanFileError) as refusal:
        read(GOOD.replace(old, new), "p.plan")
    assert message in str(refusal.value)
    assert str(refusal.value).startswith("p.plan: ")


def test_all_errors_are_told_at_once_but_not_a_thousand():
    with pytest.raises(PlanFileError) as refusal:
        read(GOOD.replace("end", "move user=x from=1 to=2\n" * 1000 + "end"))
    assert len(refusal.value.errors) == 1000
    assert "and 980 more" in str(refusal.value)
    assert len(str(refusal.value)) < 3000


def test_moves_are_checked_against_the_site():
    states = dict.fromkeys((1, 2, 3), ClusterState.UP)
    read(GOOD).check(states)
    with pytest.raises(PlanFileError, match="line 4, to: there is no cluster 3; there are 1, 2"):
        read(GOOD).check({1: ClusterState.UP, 2: ClusterState.UP})
    with pytest.raises(PlanFileError, match="line 3, to: cluster 2 is draining; choose one"):
        read(GOOD).check({**states, 2: ClusterState.DRAINING})
    with pytest.raises(PlanFileError, match="line 3, from: cluster 1 is dead"):
        read(GOOD).check({**states, 1: ClusterState.DEAD})


def test_files_that_are_no_text(tmp_path):
    with pytest.raises(PlanFileError, match="can't be read"):
        read_file(tmp_path / "missing.plan")
    (tmp_path / "b.plan").write_bytes(b"\xff\xfe")
    with pytest.raises(PlanFileError, match=r"b\.plan: .*no UTF-8"):
        read_file(tmp_path / "b.plan")
