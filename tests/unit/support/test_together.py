"""Tests of one group are handed to one process, all others to whoever is free."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support import together
from tests.support.together import FOLDERS

pytestmark = pytest.mark.unit


class Process:
    """A test process, as a scheduler sees it."""

    def __init__(self, name: str) -> None:
        self.gateway = self
        self.id = name
        self.given: list[int] = []
        self.ran: list[int] = []
        self.shutting_down = False

    def send_runtest_some(self, indices: list[int]) -> None:
        self.given += indices

    def shutdown(self) -> None:
        self.shutting_down = True


def test_the_tests_of_a_folder_go_to_one_process_and_the_others_to_both(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pytestconfig.option, "tx", ["2*popen"])
    monkeypatch.setattr(pytestconfig.option, "dist", "loadgroup")
    scheduling: Any = pytestconfig.hook.pytest_xdist_make_scheduler(config=pytestconfig, log=None)
    folder = next(iter(FOLDERS))
    grouped = [f"{folder}test_{letter}.py::test[{n}]" for letter in "ab" for n in range(3)]
    alone = [f"tests/unit/test_c.py::test_{number}" for number in range(12)]
    tests = [*alone[::2], *grouped, *alone[1::2]]
    processes = [Process("one"), Process("two")]
    for process in processes:
        scheduling.add_node(process)
        scheduling.add_node_collection(process, tests)
    scheduling.schedule()
    while any(process.given for process in processes):
        for process in processes:
            for index in process.given[:1]:
                process.ran.append(process.given.pop(0))
                scheduling.mark_test_complete(process, index)
    ran = [{tests[index] for index in process.ran} for process in processes]
    assert ran[0] | ran[1] == set(tests)
    assert not ran[0] & ran[1]
    assert sorted(len(some & set(grouped)) for some in ran) == [0, len(grouped)]
    assert all(some & set(alone) for some in ran)


def test_other_ways_of_handing_out_are_left_alone(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pytestconfig.option, "dist", "load")
    assert together.pytest_xdist_make_scheduler(pytestconfig, None) is None


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_folders_are_there(folder: str) -> None:
    assert list((Path(__file__).parents[3] / folder).glob("test_*.py"))
