"""The rules of moves, tried in every order that hypothesis can think of."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import select, update

from lj_services.usercluster.mover.errors import ClaimLost, EndAsked, MoveRefused
from lj_services.usercluster.mover.moves import Moves
from lj_services.usercluster.mover.states import NEXT, Move
from lj_services.usercluster.mover.tables import (
    AFTER_COMMIT,
    BEFORE_COMMIT,
    CANCELLED,
    FINAL,
    FROZEN,
    SWITCHED,
    user_move,
)
from lj_services.usercluster.tables import user
from tests.support import moving
from tests.support.databases import site_on_sqlite

pytestmark = pytest.mark.unit


def test_every_state_has_its_place() -> None:
    states = {*BEFORE_COMMIT, *AFTER_COMMIT, *FINAL}
    assert set(NEXT) | {after for those in NEXT.values() for after in those} == states
    assert not set(NEXT) & set(FINAL)
    for state in BEFORE_COMMIT:
        assert SWITCHED not in NEXT[state] or state == FROZEN
        assert CANCELLED in NEXT[state]
    for state in AFTER_COMMIT:
        assert not set(NEXT[state]) & set(BEFORE_COMMIT)


class Rules(RuleBasedStateMachine):
    """Two users, workers who are as slow and as dead as they like, an operator."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.context = site_on_sqlite(Path(self.folder.name))
        site = self.context.__enter__()
        self.databases = site.databases
        moving.prepare(site.databases)
        users = site.users()
        self.people = [users.create(name, cluster=1).userid for name in ("ann", "bob")]
        self.moves = Moves(site.databases)
        self.held: list[Move] = []
        """What workers think they have; all but the newest claim of a move are stale."""
        self.newest: dict[int, int] = {}
        self.finals: dict[int, str] = {}

    def teardown(self) -> None:
        if hasattr(self, "context"):
            self.context.__exit__(None, None, None)
            self.folder.cleanup()

    def is_newest(self, move: Move) -> bool:
        found = self.moves.get(move.move_id)
        return (found.claim, found.state, found.owner) == (move.claim, move.state, move.owner)

    @rule(who=st.integers(0, 1), dst=st.integers(1, 2))
    def ask(self, who: int, dst: int) -> None:
        before = self.moves.list(userid=self.people[who], states=BEFORE_COMMIT)
        home = self.moves.home(self.people[who])
        try:
            made = self.moves.enqueue(self.people[who], dst)
        except MoveRefused:
            assert before or (home is not None and home[0] == dst)
        else:
            assert not before
            assert home == (made.src, made.home_epoch)

    @rule(which=st.integers(0, 5), lease_s=st.sampled_from([0.0, 60.0]))
    def claim(self, which: int, lease_s: float) -> None:
        due = self.moves.due()
        if not due:
            return
        move = self.moves.claim(due[which % len(due)], f"worker {len(self.held)}", lease_s)
        assert move.claim == self.newest.get(move.move_id, 0) + 1
        self.newest[move.move_id] = move.claim
        self.held.append(move)

    @rule(which=st.integers(0, 20), to=st.integers(0, 5))
    def advance(self, which: int, to: int) -> None:
        if not self.held:
            return
        at = which % len(self.held)
        move = self.held[at]
        choices = [state for state in NEXT.get(move.state, ()) if state != SWITCHED]
        if not choices:
            return
        allowed = self.is_newest(move)
        state = choices[to % len(choices)]
        asked = self.moves.get(move.move_id).ending is not None
        try:
            self.held[at] = self.moves.advance(move, state, "so")
        except ClaimLost:
            assert not allowed
        except EndAsked:
            assert state == FROZEN
            assert asked
        else:
            assert allowed

    @rule(which=st.integers(0, 20))
    def commit(self, which: int) -> None:
        frozen = [move for move in self.held if move.state == FROZEN]
        if not frozen:
            return
        move = frozen[which % len(frozen)]
        allowed = self.is_newest(move)
        asked = self.moves.get(move.move_id).ending is not None
        try:
            done = self.moves.commit_point(move, freeze_us=1)
        except EndAsked:
            assert asked
        except ClaimLost:
            assert not allowed
        else:
            assert allowed
            assert not asked
            assert self.moves.home(move.userid) == (move.dst, move.home_epoch + 1)
            self.held[self.held.index(move)] = done

    @rule(which=st.integers(0, 20))
    def heartbeat(self, which: int) -> None:
        if not self.held:
            return
        move = self.held[which % len(self.held)]
        allowed = self.is_newest(move) or move.state == FROZEN
        try:
            self.moves.heartbeat(move, 0.0)
        except ClaimLost:
            assert not allowed

    @rule(which=st.integers(0, 20))
    def cancel(self, which: int) -> None:
        known = self.moves.list()
        if not known:
            return
        move = known[which % len(known)]
        try:
            self.moves.end(move.move_id, CANCELLED, "by an operator")
        except MoveRefused:
            assert move.state not in BEFORE_COMMIT

    @rule()
    def leases_run_out(self) -> None:
        with self.databases.write("global") as connection:
            connection.execute(update(user_move).values(lease_until=0, due_at=0))

    @invariant()
    def one_move_and_one_home(self) -> None:
        if not hasattr(self, "moves"):
            return
        known = self.moves.list()
        active = [move.userid for move in known if move.state in BEFORE_COMMIT]
        assert len(active) == len(set(active))
        for move in known:
            if move.move_id in self.finals:
                assert move.state == self.finals[move.move_id], "a final state was left"
            if move.final:
                self.finals[move.move_id] = move.state
        with self.databases.read("global") as connection:
            homes = {
                int(userid): int(epoch)
                for userid, epoch in connection.execute(select(user.c.userid, user.c.epoch))
            }
        for userid in self.people:
            switched = [m for m in known if m.userid == userid and m.switched_at is not None]
            assert homes[userid] == 1 + len(switched), "an epoch for each switch, and no other"


TestRules = Rules.TestCase
TestRules.settings = settings(
    max_examples=15,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
