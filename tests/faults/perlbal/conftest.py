"""A node, and a proxy before it, for all tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.perlbal import Balancer, Node, echoing, proxy, starting
from tests.support.proxies import KEPT


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """Echoes what it is asked."""
    with echoing() as running:
        yield running


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, node: Node) -> Iterator[Balancer]:
    """A proxy that keeps connections, for tests that leave it as it was."""
    with starting(tmp_path_factory.mktemp("kept")) as start:
        yield start(proxy(node.address, settings=KEPT))
