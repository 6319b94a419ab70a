"""Boxes for the tests of the roles."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

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
def box(short_directory: Path) -> Iterator[Box]:
    """A box that has been converged once."""
    box = Box(short_directory / "box")
    try:
        box.molecule("converge")
        yield box
    finally:
        box.molecule("destroy")
