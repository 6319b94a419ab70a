"""Times of the engine: what a client asks for and what it is told are the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lj_services.memcached.engine import Engine
from lj_services.memcached.items import Items
from lj_services.memcached.statistics import Counters

pytestmark = pytest.mark.unit


@given(now=st.floats(0, 1e8), asked=st.integers(1, 60 * 60 * 24 * 30))
def test_a_fresh_item_lives_as_long_as_was_asked(now: float, asked: int) -> None:
    items = Items(1 << 20, now)
    engine = Engine(
        items, Counters(), max_item=1 << 10, version="1", stats=lambda _: b"", shutdown=None
    )
    item = items.put(b"k", 0, b"v", engine.moment(asked))
    assert engine.ttl(item) == asked
