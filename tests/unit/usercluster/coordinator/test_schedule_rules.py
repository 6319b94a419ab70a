"""The schedule's rules, held against a table of moves, workers that die, and restarts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from lj_services.usercluster.coordinator.jobs import SIDES, Job, Kind, Side
from lj_services.usercluster.coordinator.limits import Condition, Limits
from lj_services.usercluster.coordinator.scheduling import Schedule
from lj_services.usercluster.mover.tables import BEFORE_COMMIT, FROZEN

pytestmark = pytest.mark.unit

CLUSTERS = (1, 2, 3)
WORKERS = ("ann", "ben", "cid")
LEASE = 1000
GRACE = 5000

clusters = st.sampled_from(CLUSTERS)
sides = st.sampled_from(SIDES)
users = st.integers(1, 12)
moves = st.integers(1, 40)
scopes = st.one_of(
    st.just("all"),
    st.builds("{}:{}".format, sides, clusters),
    st.builds("move:{}".format, st.integers(1, 12)),
)


class Rules(RuleBasedStateMachine):
    """`table` is the truth in `global`; `holding` is what each worker that lives was told."""

    @initialize(
        first=st.lists(st.tuples(users, clusters, clusters), min_size=6, max_size=14),
        slots=st.integers(1, 5),
    )
    def begin(self, first: list[tuple[int, int, int]], slots: int) -> None:
        self.now = 1_000_000
        self.table: dict[int, Job] = {}
        self.limits: dict[tuple[Side, int], Limits] = {}
        self.pauses: dict[str, str] = {}
        self.conditions: dict[int, Condition] = {}
        self.slots: dict[str, int] = {}
        self.holding: dict[int, float | None] = {}
        self.not_asked_since: dict[tuple[Side, int], set[int]] = {}
        self.start()
        for worker in WORKERS:
            self.join(worker, slots)
        for userid, src, dst in first:
            self.ask(userid, src, dst, 0)

    def start(self) -> None:
        self.schedule = Schedule(self.limit)
        self.schedule.settling = True
        self.look_at_all()
        self.give_orders()

    def limit(self, side: Side, cluster: int) -> Limits:
        return self.limits.get((side, cluster), Limits(moves=2, purges=1))

    def give_orders(self) -> None:
        self.schedule.pauses = dict(self.pauses)
        self.schedule.conditions = dict(self.conditions)

    def look_at_all(self) -> None:
        before = set(self.schedule.jobs)
        self.schedule.replace(
            [job for job in self.table.values() if not job.final], before, self.now
        )

    def leased(self, job: Job) -> bool:
        return job.owner is not None and job.lease_until > self.now

    def running(self, side: Side, cluster: int) -> list[Job]:
        """What runs on a side by the coordinator's leave."""
        return [
            job
            for job in self.table.values()
            if self.leased(job)
            and job.owner != "stranger"
            and job.cluster(side) == cluster
            and job.kind in (Kind.MOVE, Kind.THAW)
        ]

    # --- The world ---

    @rule(userid=users, src=clusters, dst=clusters, priority=st.integers(-1, 1))
    def ask(self, userid: int, src: int, dst: int, priority: int) -> None:
        active = any(
            job.userid == userid and job.state in BEFORE_COMMIT for job in self.table.values()
        )
        if src != dst and not active and len(self.table) < 40:
            number = len(self.table) + 1
            job = Job(number, userid, src, dst, "queued", priority=priority)
            self.table[number] = job
            self.schedule.learn(job, self.now)

    @rule(worker=st.sampled_from(WORKERS), slots=st.integers(0, 4))
    def join(self, worker: str, slots: int) -> None:
        self.slots[worker] = slots
        self.schedule.joined(worker, slots)

    @rule(worker=st.sampled_from(WORKERS))
    def crash(self, worker: str) -> None:
        """Its process is gone, and comes again: its leases stay until they run out."""
        self.schedule.left(worker)
        self.schedule.joined(worker, self.slots[worker])
        for number in [n for n in self.holding if self.table[n].owner == worker]:
            del self.holding[number]

    @rule(passed=st.integers(1, 700), look=st.booleans())
    def time_passes(self, passed: int, look: bool) -> None:
        self.now += passed
        for number in self.holding:
            self.put(number, lease_until=self.now + LEASE, learn=False)
        if look:
            for number in list(self.schedule.running):
                self.schedule.learn(self.table[number], self.now)

    def put(self, number: int, *, learn: bool = True, **values: object) -> None:
        self.table[number] = replace(self.table[number], **values)  # type: ignore[arg-type]
        if learn:
            self.schedule.learn(self.table[number], self.now)

    @rule(number=moves)
    def a_stranger_claims(self, number: int) -> None:
        job = self.table.get(number)
        if job and not job.final and not self.leased(job) and job.due_at <= self.now:
            self.put(
                number,
                learn=False,
                owner="stranger",
                claim=job.claim + 1,
                lease_until=self.now + LEASE,
            )

    @rule()
    def restart(self) -> None:
        """The coordinator dies; the next one knows the table, and who connects again."""
        self.start()
        for worker, slots in self.slots.items():
            self.schedule.joined(worker, slots)

    @rule()
    def settled(self) -> None:
        """Every worker that lives has reported to the coordinator."""
        for number in list(self.holding):
            self.report(number)
        self.schedule.settling = False

    @rule()
    def look(self) -> None:
        self.look_at_all()

    # --- Operators ---

    @rule(scope=scopes)
    def pause(self, scope: str) -> None:
        self.pauses[scope] = "because"
        self.give_orders()

    @rule(scope=scopes)
    def resume(self, scope: str) -> None:
        self.pauses.pop(scope, None)
        self.give_orders()

    @rule(
        side=sides,
        cluster=clusters,
        most=st.integers(0, 3),
        rows=st.sampled_from([0.0, 10.0, 90.0, 1000.0]),
    )
    def set_rate(self, side: Side, cluster: int, most: int, rows: float) -> None:
        self.limits[side, cluster] = Limits(moves=most, purges=most, rows_s=rows)
        self.not_asked_since[side, cluster] = {job.move_id for job in self.running(side, cluster)}

    @rule(cluster=clusters, lag=st.sampled_from([0.0, 99.0]), busy=st.sampled_from([0.1, 0.99]))
    def condition(self, cluster: int, lag: float, busy: float) -> None:
        self.conditions[cluster] = Condition(lag, None, "db2", busy, "db1")
        self.give_orders()

    @rule(number=moves)
    def cancel(self, number: int) -> None:
        job = self.table.get(number)
        if job and job.state in BEFORE_COMMIT:
            self.put(number, ending="cancelled", due_at=0)

    @rule(number=moves, priority=st.integers(-2, 2))
    def prioritise(self, number: int, priority: int) -> None:
        job = self.table.get(number)
        if job and not job.final:
            self.put(number, priority=priority)

    # --- Workers ---

    @rule(turns=st.integers(1, 3))
    def everyone_asks(self, turns: int) -> None:
        for _ in range(turns):
            for worker in WORKERS:
                self.get_job(worker)

    @rule(worker=st.sampled_from(WORKERS))
    def get_job(self, worker: str) -> None:
        before = {
            (side, cluster): len(self.running(side, cluster))
            for side in SIDES
            for cluster in CLUSTERS
        }
        purging = {
            cluster: sum(
                self.leased(job) and job.kind is Kind.PURGE and job.src == cluster
                for job in self.table.values()
                if job.owner != "stranger"
            )
            for cluster in CLUSTERS
        }
        picked = self.schedule.pick(worker, self.now)
        if isinstance(picked, str):
            assert picked, "no reason is given"
            return
        truth = self.table[picked.move_id]
        if self.leased(truth) or truth.final or truth.due_at > self.now:
            assert truth.owner == "stranger", "what somebody has was picked"
            self.schedule.refused(picked.move_id, truth, self.now)
            return
        # The rules, by the table and the orders alone.
        has = sum(self.leased(job) and job.owner == worker for job in self.table.values())
        assert has < self.slots.get(worker, 0), "over the worker's places"
        assert not any(
            self.leased(job) and job.owner != "stranger" and job.userid == truth.userid
            for job in self.table.values()
        ), "two moves of one user"
        if truth.kind is Kind.MOVE:
            for side in SIDES:
                cluster = truth.cluster(side)
                assert before[side, cluster] < self.limit(side, cluster).moves, "over a limit"
        if truth.kind is Kind.PURGE:
            assert purging[truth.src] < self.limit("src", truth.src).purges, "over a limit"
        if truth.kind is not Kind.MEND:
            assert not set(truth.scopes()) & set(self.pauses), "paused"
            touched = [truth.src] if truth.kind is Kind.PURGE else [truth.src, truth.dst]
            for cluster in touched:
                found = self.conditions.get(cluster, Condition())
                assert found.against(cluster, Limits()) is None, "lagging or busy"
        self.put(
            picked.move_id,
            learn=False,
            owner=worker,
            claim=truth.claim + 1,
            lease_until=self.now + LEASE,
        )
        told = self.schedule.granted(self.table[picked.move_id], self.now)
        self.holding[picked.move_id] = told.rate
        for waiting in self.not_asked_since.values():
            waiting.discard(picked.move_id)

    @precondition(lambda self: self.holding)
    @rule(which=st.integers(0, 100))
    def reports(self, which: int) -> None:
        self.report(sorted(self.holding)[which % len(self.holding)])

    def report(self, number: int) -> None:
        job = self.table[number]
        self.schedule.told(number, self.holding[number])
        told = self.schedule.instruct(number)
        assert told.why
        if job.kind not in (Kind.MEND, Kind.THAW):
            assert told.hand_back == bool(set(job.scopes()) & set(self.pauses))
        for waiting in self.not_asked_since.values():
            waiting.discard(number)
        if told.hand_back:
            del self.holding[number]
            self.put(number, owner=None, lease_until=0, due_at=0)
        else:
            self.holding[number] = told.rate

    @precondition(lambda self: self.holding)
    @rule(which=st.integers(0, 100), to=st.sampled_from(["on", "frozen", "done", "failed"]))
    def goes_on(self, which: int, to: str) -> None:
        number = sorted(self.holding)[which % len(self.holding)]
        job = self.table[number]
        given_back = {"owner": None, "lease_until": 0}
        if job.kind is Kind.PURGE or (job.kind is Kind.MEND and job.ending is None):
            self.put(number, state="done", **given_back)
        elif job.kind is Kind.MEND:
            self.put(number, state="cancelled", **given_back)
        elif to == "on":
            self.put(number, state="copying")
            return
        elif to == "frozen":
            self.put(number, state=FROZEN)
            return
        elif to == "failed":
            self.put(number, due_at=self.now + 200, **given_back)
        else:
            self.put(
                number,
                state="switched",
                switched_at=self.now,
                due_at=self.now + GRACE,
                **given_back,
            )
        del self.holding[number]

    @rule()
    def free_the_held(self) -> None:
        """What the coordinator does by itself with users whose worker is silent."""
        for number, job in list(self.table.items()):
            if job.state == FROZEN and not self.leased(job):
                self.put(
                    number, state="catching_up", claim=job.claim + 1, owner=None, lease_until=0
                )

    # --- What always holds ---

    @invariant()
    def rows_a_second(self) -> None:
        for (side, cluster), limits in self.limits.items():
            # Those who have not asked since the limit was changed go by the old one.
            if limits.rows_s and not self.not_asked_since.get((side, cluster)):
                held = [
                    self.holding[job.move_id]
                    for job in self.running(side, cluster)
                    if job.move_id in self.holding and job.kind is Kind.MOVE
                ]
                assert None not in held, "a limit is there, and somebody was told none"
                total = sum(rate for rate in held if rate is not None)
                assert total <= limits.rows_s * (1 + 1e-9), "more rows a second than allowed"

    @invariant()
    def every_move_has_a_reason(self) -> None:
        for number, job in self.table.items():
            if not job.final:
                assert self.schedule.why(number, self.now)

    @invariant()
    def nothing_is_lost(self) -> None:
        active = {number for number, job in self.table.items() if not job.final}
        assert set(self.schedule.jobs) == active

    def teardown(self) -> None:
        """With no orders, no strangers and time enough, everything comes to its end."""
        if not hasattr(self, "table"):
            return
        self.pauses, self.conditions, self.limits = {}, {}, {}
        self.holding.clear()
        self.slots = {"zoe": 1000}
        for _ in range(200):
            self.now += LEASE + GRACE
            self.free_the_held()
            self.start()
            self.schedule.settling = False
            self.schedule.joined("zoe", 1000)
            while not isinstance(picked := self.schedule.pick("zoe", self.now), str):
                number = picked.move_id
                self.put(number, learn=False, owner="zoe", claim=self.table[number].claim + 1)
                self.schedule.granted(
                    replace(self.table[number], lease_until=self.now + 1), self.now
                )
                self.holding[number] = None
                self.goes_on_to_the_end(number)
            if all(job.final for job in self.table.values()):
                return
        left = [job for job in self.table.values() if not job.final]
        raise AssertionError(f"never picked: {left}")

    def goes_on_to_the_end(self, number: int) -> None:
        del self.holding[number]
        job = self.table[number]
        if job.kind is Kind.MOVE:
            self.put(
                number,
                state="switched",
                switched_at=self.now,
                due_at=self.now + GRACE,
                owner=None,
                lease_until=0,
            )
        else:
            self.put(number, state="done", owner=None, lease_until=0)


Rules.TestCase.settings = settings(stateful_step_count=50)
TestRules = Rules.TestCase
