"""Users with few rows are copied and compared in one transaction on each side."""

from __future__ import annotations

import pytest

from lj_services.usercluster.mover.tables import SWITCHED
from tests.support import moving
from tests.support.databases import TestSite

pytestmark = pytest.mark.interop


@pytest.mark.parametrize("left_there", [0, 30, 600])
def test_a_small_user_goes_at_once(site: TestSite, left_there: int) -> None:
    """Also over what an earlier stay has left at the destination."""
    one = moving.Fixture(site)
    if left_there:
        moving.fill(site.databases, 2, one.bob, left_there)
    worker = moving.worker(site, one.users, at_once_rows=1000, freeze_limit_ms=5000)
    moved = moving.move(worker, one.bob, 2)
    assert moved.state == SWITCHED, moved.error
    said = [event.message for event in worker.moves.events(moved.move_id)]
    assert any(message.startswith("all rows at once") for message in said)
    assert "41 rows copied" in said
    assert "verified in the same transaction" in said
    one.assert_on(2)
