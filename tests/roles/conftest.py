"""Boxes for the tests of the roles."""

from __future__ import annotations

import itertools
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tests.support.box import Box

numbers = itertools.count(1)


@pytest.fixture(scope="session")
def short_directory() -> Iterator[Path]:
    """A temporary directory with a short path: sockets below it must fit in 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="lj-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def fresh(short_directory: Path) -> Box:
    """A box on which nothing has been done yet."""
    return Box(short_directory / f"box{next(numbers)}")


BUILD = [
    {"ansible.builtin.include_role": {"name": "runtime", "tasks_from": "name"}},
    {
        "ansible.builtin.include_role": {"name": "runtime", "tasks_from": "build"},
        "when": "runtime_wheels is not ansible.builtin.directory",
    },
]


@pytest.fixture(scope="session")
def wheels(short_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Wheels of the kit as it is: all test processes wait for the one that builds them."""
    play = short_directory / "wheels.json"
    play.write_text(json.dumps([{"hosts": "kit", "gather_facts": False, "tasks": BUILD}]))
    with FileLock(tmp_path_factory.getbasetemp().parent / "wheels.lock"):
        run = Box(short_directory / "wheels").play(str(play))
    assert run.exit_code == 0, run.output


@pytest.fixture(scope="session")
def box(short_directory: Path, wheels: None) -> Iterator[Box]:
    """A box that has been converged once."""
    box = Box(short_directory / "box")
    try:
        box.molecule("converge")
        yield box
    finally:
        box.molecule("destroy")
