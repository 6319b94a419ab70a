"""Boxes for the tests of the roles."""

from __future__ import annotations

import itertools
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


@pytest.fixture(scope="session")
def box(short_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """A box that has been converged once; test processes share the wheels, so one at a time."""
    box = Box(short_directory / "box")
    try:
        with FileLock(tmp_path_factory.getbasetemp().parent / "wheels.lock"):
            box.molecule("converge")
        yield box
    finally:
        box.molecule("destroy")
