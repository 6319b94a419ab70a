"""What becomes of tasks, decided without sockets: the session that both clients drive."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lj_services.gearman.client_errors import (
    ConnectionLost,
    ServerUnreachable,
    TaskFailed,
    TaskRefused,
    TaskTimeout,
)
from lj_services.gearman.client_session import RETIRE_AT, WINDOW, ClientSession, Lane
from lj_services.gearman.placement import Placement, parse_servers
from lj_services.gearman.protocol import Magic, Outgoing, Packet, PacketType
from lj_services.gearman.tasks import Task

pytestmark = pytest.mark.unit

SERVERS = parse_servers(["a:1", "b:2"])


class Driver:
    """Connections that are made of nothing."""

    def __init__(self) -> None:
        self.session = ClientSession(Placement(SERVERS))
        self.lanes: list[Lane] = []
        self.down: set[str] = set()
        self.handles = 0

    def add(self, count: int = 1, **options: object) -> list[Task]:
        made = [Task(function="f", **options) for _ in range(count)]  # type: ignore[arg-type]
        for task in made:
            self.session.add(task, deadline=task.timeout_s)
        return made

    def connect(self) -> None:
        while wanted := self.session.place():
            for lane in wanted:
                if lane.server.host in self.down:
                    self.session.unreachable(lane, ServerUnreachable(f"{lane.server} is down"))
                else:
                    self.session.connected(lane, fresh=False)
                    self.lanes.append(lane)

    def sent(self, lane: Lane) -> list[Outgoing]:
        return list(self.session.outgoing(lane))

    def submitted(self) -> list[tuple[Lane, bytes]]:
        """Connect, send everything, and let the servers take the jobs: where each one is."""
        self.connect()
        made = []
        for lane in self.lanes:
            for _ in self.sent(lane):
                self.handles += 1
                made.append((lane, b"H:%d" % self.handles))
                self.answer(lane, PacketType.JOB_CREATED, made[-1][1])
        return made

    def answer(self, lane: Lane, kind: PacketType, *args: bytes) -> None:
        self.session.received(lane, Packet(Magic.RESPONSE, kind, args))

    def lose(self, lane: Lane) -> None:
        self.lanes.remove(lane)
        self.session.lost(lane, ConnectionLost("gone"))


def test_a_server_that_is_down_is_left_for_the_next() -> None:
    driver = Driver()
    driver.down = {"a"}
    tasks = driver.add(4)
    for lane, handle in driver.submitted():
        assert lane.server.host == "b"
        driver.answer(lane, PacketType.WORK_COMPLETE, handle, b"r")
    assert [task.value() for task in tasks] == [b"r"] * 4
    assert not driver.session.open


def test_when_all_are_down_the_reasons_are_told() -> None:
    driver = Driver()
    driver.down = {"a", "b"}
    (task,) = driver.add()
    driver.connect()
    with pytest.raises(ServerUnreachable, match=r"a:1 is down.*b:2|b:2 is down.*a:1"):
        task.value()


def test_a_refusal_counts_as_no_submit() -> None:
    driver = Driver()
    (task,) = driver.add()
    driver.connect()
    for _ in range(2):
        (lane,) = [lane for lane in driver.lanes if driver.sent(lane)]
        driver.answer(lane, PacketType.ERROR, b"QUEUE_ERROR", b"full")
        driver.connect()
    assert isinstance(task.failure, TaskRefused)
    assert task.submits == 0


def test_what_was_not_sent_yet_goes_elsewhere_and_what_was_is_lost() -> None:
    driver = Driver()
    driver.down = {"b"}
    tasks = driver.add(WINDOW + 3)
    assert len(driver.submitted()) == WINDOW
    driver.down = {"a"}
    driver.lose(driver.lanes[0])
    assert len(driver.submitted()) == 3
    lost = [task for task in tasks if task.failure is not None]
    assert len(lost) == WINDOW
    assert all(isinstance(task.failure, ConnectionLost) for task in lost)


def test_equal_tasks_share_one_job_and_are_told_apart_when_one_is_given_up() -> None:
    driver = Driver()
    first, second = driver.add(2, unique=b"k")
    ((lane, handle),) = driver.submitted()
    driver.session.give_up([first], TaskTimeout("late"))
    driver.answer(lane, PacketType.WORK_COMPLETE, handle, b"r")
    assert isinstance(first.failure, TaskTimeout)
    assert second.value() == b"r"
    (third,) = driver.add(unique=b"k")
    assert len(driver.submitted()) == 1  # the other job is over
    assert not third.done


def test_deadlines_come_in_their_order() -> None:
    driver = Driver()
    driver.add(timeout_s=5)
    (quick,) = driver.add(timeout_s=1)
    driver.add()
    assert driver.session.expire(0.5) == 1
    assert driver.session.expire(1.0) == 5
    assert isinstance(quick.failure, TaskTimeout)
    assert driver.session.expire(5.0) is None
    assert driver.session.open


def test_a_lane_with_many_jobs_that_nobody_wants_is_retired_and_closed_after_its_last() -> None:
    driver = Driver()
    driver.down = {"b"}
    (keeper,) = driver.add()
    ((old, handle),) = driver.submitted()
    late = driver.add(RETIRE_AT)
    driver.submitted()
    driver.session.give_up(late, TaskTimeout("late"))
    assert driver.session.take_closing() == []  # `keeper` is still there
    (new,) = driver.add()
    ((lane, _),) = driver.submitted()
    assert lane is not old
    assert not new.done
    driver.answer(old, PacketType.WORK_COMPLETE, handle, b"r")
    assert keeper.value() == b"r"
    assert driver.session.take_closing() == [old]
    assert driver.session.take_closing() == []


def test_what_ended_is_forgotten() -> None:
    """A session that lives as long as its program must not grow with what it did."""
    driver = Driver()
    for number in range(50):
        driver.add(unique=b"%d" % number, timeout_s=1e9)
        for lane, handle in driver.submitted():
            driver.answer(lane, PacketType.WORK_COMPLETE, handle, b"")
        driver.session.expire(0.0)
    state = vars(driver.session)
    sizes = {name: len(value) for name, value in state.items() if hasattr(value, "__len__")}
    assert sizes.pop("_lanes") == len(SERVERS)
    assert not any(sizes.values()), sizes


OUTCOMES = st.sampled_from(["complete", "fail", "refuse", "lose", "give up", "add"])


@settings(deadline=None)
@given(st.lists(st.tuples(OUTCOMES, st.integers(0, 5), st.integers(0, 2)), max_size=60))
def test_every_task_gets_exactly_one_outcome(steps: list[tuple[str, int, int]]) -> None:
    driver = Driver()
    tasks: list[Task] = []
    ended: list[Task] = []
    running: list[tuple[Lane, bytes]] = []
    for what, number, retries in steps:
        if what == "add":
            key = b"k%d" % number if number < 3 else b""
            tasks += driver.add(unique=key, retries=retries)
            tasks[-1].watchers.append(ended.append)
        elif what == "give up":
            driver.session.give_up(tasks[number : number + 1], TaskTimeout("late"))
        elif what == "refuse":
            driver.connect()
            for lane in driver.lanes:
                for _ in driver.sent(lane):
                    driver.answer(lane, PacketType.ERROR, b"QUEUE_ERROR", b"full")
        elif what == "lose":
            if driver.lanes:
                lane = driver.lanes[number % len(driver.lanes)]
                driver.lose(lane)
                running = [one for one in running if one[0] is not lane]
        elif running:
            lane, handle = running.pop(number % len(running))
            if what == "complete":
                driver.answer(lane, PacketType.WORK_COMPLETE, handle, b"r")
            else:
                driver.answer(lane, PacketType.WORK_FAIL, handle)
        running += driver.submitted()
    for _ in range(len(tasks) * 4):
        for lane, handle in running:
            driver.answer(lane, PacketType.WORK_FAIL, handle)
        running = driver.submitted()
    assert not driver.session.open
    assert sorted(map(id, ended)) == sorted(map(id, tasks))
    assert all((task.result is None) != (task.failure is None) for task in tasks)
    assert all(task.submits <= task.retries + 4 for task in tasks if not task.unique)
    assert {type(task.failure) for task in tasks} <= {
        type(None),
        ConnectionLost,
        ServerUnreachable,
        TaskFailed,
        TaskRefused,
        TaskTimeout,
    }
