"""A node of each test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.perlbal import Node, echoing


@pytest.fixture
def node() -> Iterator[Node]:
    """Echoes what it is asked."""
    with echoing() as running:
        yield running
