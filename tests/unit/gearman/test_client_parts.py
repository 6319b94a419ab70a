"""The client's parts that need no server: placement, tasks, and the order of answers."""

from __future__ import annotations

import pytest

from lj_services.daemon import HostPort
from lj_services.gearman.client_errors import BadAnswer, BadTask, TaskFailed
from lj_services.gearman.flight import Flight, Submission, What
from lj_services.gearman.placement import Placement, key_hash, parse_servers
from lj_services.gearman.protocol import Magic, Packet, PacketType
from lj_services.gearman.tasks import JobHandle, Priority, Task

pytestmark = pytest.mark.unit

SERVERS = parse_servers(["a:1", "b:2", "c:3"])


def packet(kind: PacketType, *args: bytes) -> Packet:
    return Packet(Magic.RESPONSE, kind, args)


def test_addresses_have_gearmans_port_unless_they_name_another() -> None:
    assert parse_servers(["jobs1", "jobs2:7003", "[::1]"]) == (
        HostPort("jobs1", 4730),
        HostPort("jobs2", 7003),
        HostPort("::1", 4730),
    )


@pytest.mark.parametrize("wrong", [[], ["a", "a:4730"], ["a:b"]])
def test_bad_lists_of_servers(wrong: list[str]) -> None:
    with pytest.raises(ValueError):
        parse_servers(wrong)


def test_a_key_names_its_server_and_others_follow_in_turn() -> None:
    placement = Placement(SERVERS)
    start = key_hash(b"user:7") % 3
    expected = [SERVERS[(start + step) % 3] for step in range(3)]
    assert placement.order(b"user:7") == expected
    assert placement.order(b"user:7") == expected


def test_tasks_without_a_key_take_turns() -> None:
    placement = Placement(SERVERS)
    firsts = [placement.order(b"")[0] for _ in range(6)]
    assert firsts[:3] == firsts[3:]
    assert set(firsts) == set(SERVERS)


def test_a_dead_server_comes_last_for_a_while() -> None:
    now = 100.0
    placement = Placement(SERVERS, dead_retry_s=5, clock=lambda: now)
    order = placement.order(b"k")
    placement.failed(order[0])
    assert placement.order(b"k") == [*order[1:], order[0]]
    now = 105.0
    assert placement.order(b"k") == order
    placement.failed(order[0])
    placement.answered(order[0])
    assert placement.order(b"k") == order


def test_when_all_are_dead_all_are_tried() -> None:
    placement = Placement(SERVERS)
    for server in SERVERS:
        placement.failed(server)
    assert set(placement.order(b"k")) == set(SERVERS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"function": ""},
        {"function": "a\0b"},
        {"function": "f" * 513},
        {"function": "f", "unique": b"u" * 65},
        {"function": "f", "unique": b"\0"},
        {"function": "f", "retries": -1},
        {"function": "f", "run_at_s": 1},
        {"function": "f", "run_at_s": 1, "background": True, "priority": Priority.HIGH},
        {"function": "f", "run_when": "* * * * *"},
        {"function": "f", "run_when": "60 * * * *", "background": True},
        {"function": "f", "run_when": "* * *", "background": True},
        {"function": "f", "run_when": "* * * * *", "run_at_s": 1, "background": True},
        {"function": "f", "payload": b"x" * (64 << 20)},
        {"function": "f", "reducer": "a\0b"},
        {"function": "f", "reducer": "sum", "priority": Priority.LOW},
        {"function": "f", "reducer": "sum", "run_at_s": 1, "background": True},
    ],
)
def test_tasks_that_cant_be_sent(wrong: dict[str, object]) -> None:
    with pytest.raises(BadTask):
        Task(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, PacketType.SUBMIT_JOB),
        ({"priority": Priority.HIGH}, PacketType.SUBMIT_JOB_HIGH),
        ({"priority": Priority.LOW, "background": True}, PacketType.SUBMIT_JOB_LOW_BG),
        ({"background": True}, PacketType.SUBMIT_JOB_BG),
        ({"background": True, "run_at_s": 9}, PacketType.SUBMIT_JOB_EPOCH),
    ],
)
def test_which_packet_submits_a_task(options: dict[str, object], kind: PacketType) -> None:
    task = Task(function="f", payload=b"p", unique=b"u", **options)  # type: ignore[arg-type]
    asked, args = task.submit_packet()
    assert asked is kind
    assert args == ((b"f", b"u", b"9", b"p") if "run_at_s" in options else (b"f", b"u", b"p"))


def test_a_task_for_a_minute_of_the_day() -> None:
    task = Task(function="f", payload=b"p", background=True, run_when="30 4 * * *")
    assert task.submit_packet() == (
        PacketType.SUBMIT_JOB_SCHED,
        (b"f", b"", b"30", b"4", b"*", b"*", b"*", b"p"),
    )


@pytest.mark.parametrize("background", [False, True])
def test_a_task_with_a_reducer(background: bool) -> None:
    task = Task(function="f", payload=b"p", unique=b"u", background=background, reducer="sum")
    kind, args = task.submit_packet()
    assert (kind is PacketType.SUBMIT_REDUCE_JOB_BACKGROUND) == background
    assert kind in (PacketType.SUBMIT_REDUCE_JOB, PacketType.SUBMIT_REDUCE_JOB_BACKGROUND)
    assert args == (b"f", b"u", b"sum", b"", b"p")


def test_the_first_outcome_stays() -> None:
    told: list[str] = []
    task = Task(
        function="f",
        on_complete=lambda _: told.append("complete"),
        on_fail=lambda _: told.append("fail"),
    )
    task.failed(TaskFailed("no"))
    task.completed(b"late")
    task.received(b"late")
    assert task.result is None
    assert task.parts == []
    assert told == ["fail"]
    with pytest.raises(TaskFailed):
        task.value()


def test_a_task_that_was_not_run_has_no_value() -> None:
    with pytest.raises(BadTask, match="run its task set"):
        Task(function="f").value()


def test_a_job_handle_can_be_written_and_read() -> None:
    job = JobHandle(HostPort("::1", 4730), b"H:box:7")
    assert str(job) == "[::1]:4730//H:box:7"
    assert JobHandle.parse(str(job)) == job
    with pytest.raises(ValueError):
        JobHandle.parse("H:box:7")


# -- the order of answers ------------------------------------------------------------


def submissions(flight: Flight, count: int) -> list[Submission]:
    made = [Submission(Task(function=f"f{number}")) for number in range(count)]
    for submission in made:
        flight.submitted(submission)
    return made


def test_answers_belong_to_submits_in_their_order() -> None:
    flight = Flight()
    flight.asked_option()
    first, second, third = submissions(flight, 3)
    assert flight.received(packet(PacketType.OPTION_RES, b"exceptions")) is None
    created = flight.received(packet(PacketType.JOB_CREATED, b"H:1"))
    refused = flight.received(packet(PacketType.ERROR, b"QUEUE_ERROR", b"full"))
    flight.received(packet(PacketType.JOB_CREATED, b"H:3"))
    assert created is not None
    assert created[:2] == (What.CREATED, first)
    assert refused is not None
    assert refused[:2] == (What.REFUSED, second)
    done = flight.received(packet(PacketType.WORK_COMPLETE, b"H:3", b"r"))
    assert done == (What.COMPLETE, third, (b"r",))
    assert flight.take_all() == [first]
    assert len(flight) == 0


def test_an_option_that_is_refused_is_no_submits_answer() -> None:
    flight = Flight()
    flight.asked_option()
    (first,) = submissions(flight, 1)
    assert flight.received(packet(PacketType.ERROR, b"UNKNOWN_OPTION", b"")) is None
    event = flight.received(packet(PacketType.JOB_CREATED, b"H:1"))
    assert event is not None
    assert event.submission is first


def test_news_of_a_job_that_has_ended_is_nothing() -> None:
    flight = Flight()
    submissions(flight, 1)
    flight.received(packet(PacketType.JOB_CREATED, b"H:1"))
    assert flight.received(packet(PacketType.WORK_EXCEPTION, b"H:1", b"why")) is not None
    assert flight.received(packet(PacketType.WORK_FAIL, b"H:1")) is None
    assert len(flight) == 0


def test_a_background_job_is_over_when_it_is_created() -> None:
    flight = Flight()
    flight.submitted(Submission(Task(function="f", background=True)))
    flight.received(packet(PacketType.JOB_CREATED, b"H:1"))
    assert len(flight) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        packet(PacketType.JOB_CREATED, b"H:1"),
        packet(PacketType.ERROR, b"X", b""),
        packet(PacketType.NO_JOB),
    ],
)
def test_answers_to_nothing(wrong: Packet) -> None:
    with pytest.raises(BadAnswer):
        Flight().received(wrong)


def test_an_answer_to_another_question() -> None:
    flight = Flight()
    flight.asked_option()
    with pytest.raises(BadAnswer):
        flight.received(packet(PacketType.JOB_CREATED, b"H:1"))
