"""Whatever clients, workers and administrators do, the queues hold what a plain model says."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
)

from lj_services.gearman.dispatch import Dispatcher
from lj_services.gearman.jobs import Job, JobState, Peer, Priority
from lj_services.gearman.protocol import Line, Magic, Packet, PacketParser
from lj_services.gearman.protocol import PacketType as T
from lj_services.gearman.queues import Queues

pytestmark = pytest.mark.unit

NAMES = [b"a", b"b"]
SUBMITS = {
    (Priority.HIGH, False): T.SUBMIT_JOB_HIGH,
    (Priority.NORMAL, False): T.SUBMIT_JOB,
    (Priority.LOW, False): T.SUBMIT_JOB_LOW,
    (Priority.HIGH, True): T.SUBMIT_JOB_HIGH_BG,
    (Priority.NORMAL, True): T.SUBMIT_JOB_BG,
    (Priority.LOW, True): T.SUBMIT_JOB_LOW_BG,
}
FINAL = {T.WORK_COMPLETE, T.WORK_FAIL, T.WORK_EXCEPTION}


class Known:
    """A job as the model knows it."""

    def __init__(self, handle: bytes, name: bytes, priority: Priority) -> None:
        self.handle = handle
        self.name = name
        self.priority = priority
        self.background = False
        self.waiters: list[Peer] = []
        self.worker: Peer | None = None


class Model(RuleBasedStateMachine):
    peers = Bundle("peers")

    def __init__(self) -> None:
        super().__init__()
        self.queues = Queues("H:m", wall=1000.0)
        self.dispatcher = Dispatcher(self.queues)
        self.jobs: dict[bytes, Known] = {}
        self.shared: dict[tuple[bytes, bytes], bytes] = {}
        self.order: list[bytes] = []  # handles, as they entered their queues
        self.can: dict[Peer, set[bytes]] = {}
        self.parsers: dict[Peer, PacketParser] = {}
        self.owed: dict[Peer, list[bytes]] = {}  # handles that a result must come for
        self.asleep: set[Peer] = set()
        self.now = 0.0

    def send(self, peer: Peer, kind: T, *args: bytes) -> list[Packet]:
        self.dispatcher.packet(peer, Packet(Magic.REQUEST, kind, args))
        return self.read(peer)

    def read(self, peer: Peer) -> list[Packet]:
        """What a peer is sent.  A result must be owed to it, and is not owed any longer."""
        parser, found = self.parsers[peer], []
        parser.feed(peer.take())
        while (packet := parser.next()) is not None:
            assert not isinstance(packet, Line)
            if packet.type in FINAL:
                self.owed[peer].remove(packet.args[0])
            elif packet.type is T.NOOP:
                assert peer in self.asleep
            else:
                found.append(packet)
        return found

    def end(self, known: Known) -> None:
        del self.jobs[known.handle]
        self.shared = {key: h for key, h in self.shared.items() if h != known.handle}
        if known.handle in self.order:
            self.order.remove(known.handle)

    @rule(target=peers)
    def connect(self) -> Peer:
        peer = Peer()
        self.can[peer], self.owed[peer] = set(), []
        self.parsers[peer] = PacketParser(Magic.RESPONSE)
        return peer

    @rule(peer=peers, name=st.sampled_from(NAMES))
    def can_do(self, peer: Peer, name: bytes) -> None:
        self.send(peer, T.CAN_DO, name)
        self.can[peer].add(name)

    @rule(peer=peers, name=st.sampled_from(NAMES))
    def cant_do(self, peer: Peer, name: bytes) -> None:
        self.send(peer, T.CANT_DO, name)
        self.can[peer].discard(name)

    @rule(
        peer=peers,
        name=st.sampled_from(NAMES),
        unique=st.sampled_from([b"k", b"", b"-"]),
        data=st.sampled_from([b"x", b""]),
        priority=st.sampled_from(Priority),
        background=st.booleans(),
    )
    def submit(
        self,
        peer: Peer,
        name: bytes,
        unique: bytes,
        data: bytes,
        priority: Priority,
        background: bool,
    ) -> None:
        key = (name, unique if unique != b"-" else b"-" + data)
        shares = bool(unique) and key[1] != b"-"
        [created] = self.send(peer, SUBMITS[priority, background], name, unique, data)
        handle = created.args[0]
        if shares and key in self.shared:
            assert handle == self.shared[key]
        else:
            assert handle not in self.jobs
            self.jobs[handle] = Known(handle, name, priority)
            self.order.append(handle)
            if shares:
                self.shared[key] = handle
        known = self.jobs[handle]
        if background:
            known.background = True
        else:
            known.waiters.append(peer)
            self.owed[peer].append(handle)

    @rule(peer=peers)
    def grab(self, peer: Peer) -> None:
        [answer] = self.send(peer, T.GRAB_JOB)
        self.asleep.discard(peer)
        ready = [self.jobs[h] for h in self.order if self.jobs[h].name in self.can[peer]]
        if not ready:
            assert answer.type is T.NO_JOB
            return
        best = min(known.priority for known in ready)
        first = {}
        for known in ready:
            if known.priority is best:
                first.setdefault(known.name, known)
        taken = self.jobs[answer.args[0]]
        assert first[taken.name] is taken
        taken.worker = peer
        self.order.remove(taken.handle)

    @rule(peer=peers)
    def sleep(self, peer: Peer) -> None:
        self.asleep.add(peer)
        self.send(peer, T.PRE_SLEEP)

    @rule(peer=peers, how=st.sampled_from([T.WORK_COMPLETE, T.WORK_FAIL, T.WORK_EXCEPTION]))
    def finish(self, peer: Peer, how: T) -> None:
        for known in [k for k in self.jobs.values() if k.worker is peer]:
            data = () if how is T.WORK_FAIL else (b"r",)
            assert self.send(peer, how, known.handle, *data) == []
            for waiter in set(known.waiters):
                self.read(waiter)
            assert all(known.handle not in self.owed[waiter] for waiter in known.waiters)
            self.end(known)

    @rule(peer=consumes(peers))
    def leave(self, peer: Peer) -> None:
        self.queues.leave(peer)
        self.asleep.discard(peer)
        del self.owed[peer], self.can[peer], self.parsers[peer]
        for known in list(self.jobs.values()):
            had = known.waiters
            known.waiters = [waiter for waiter in had if waiter is not peer]
            unwanted = not known.background and not known.waiters
            if known.worker is peer:
                known.worker = None
                if unwanted:
                    self.end(known)
                else:
                    self.order.append(known.handle)
            elif unwanted and known.worker is None:
                self.end(known)

    @rule(number=st.integers(0, 30))
    def cancel(self, number: int) -> None:
        handle = b"H:m:%d" % number
        known = self.jobs.get(handle)
        assert self.queues.cancel(handle) is (known is not None and known.worker is None)
        if known is not None and known.worker is None:
            for waiter in set(known.waiters):
                self.read(waiter)
            self.end(known)

    @rule(seconds=st.sampled_from([0.1, 5.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.queues.advance(self.now, 1000.0 + self.now)

    @invariant()
    def same_jobs_in_the_same_places(self) -> None:
        assert set(self.queues.jobs) == set(self.jobs)
        places: list[Job] = []
        for function in self.queues.functions.values():
            queued = list(function.queued())
            assert len(queued) == function.ready == sum(map(function.ready_of, Priority))
            places += [*queued, *function.scheduled.values(), *function.running.values()]
            assert all(job.state is JobState.QUEUED for job in queued)
            assert function.total == sum(k.name == function.name for k in self.jobs.values())
            assert set(function.workers) == {p for p in self.can if function.name in self.can[p]}
        assert sorted(job.handle for job in places) == sorted(self.jobs)
        for handle, known in self.jobs.items():
            job = self.queues.jobs[handle]
            assert (job.background, job.worker) == (known.background, known.worker)
            assert sum(job.waiters.values()) == len(known.waiters)
        assert self.queues.data_bytes == sum(len(job.data) for job in places)

    @invariant()
    def nobody_sleeps_while_a_job_is_ready(self) -> None:
        """For as many ready jobs as there are, a worker is awake or has been woken."""
        for function in self.queues.functions.values():
            assert function.woken == sum(p.woken_for is function for p in self.can)
            assert function.woken >= min(function.ready, function.woken + len(function.sleepers))
            assert all(p.sleeping and p.woken_for is None for p in function.sleepers)


Model.TestCase.settings = settings(stateful_step_count=40)
TestQueues = Model.TestCase
