"""A worker's figures for Prometheus, from moves on a real MariaDB."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest

from lj_services.usercluster.mover import fences
from lj_services.usercluster.mover.metrics import FeedMetrics
from tests.support import moving
from tests.support.databases import TestSite

pytestmark = pytest.mark.interop

Counted = Callable[..., float]


@pytest.fixture
def one(mariadb_site: TestSite) -> moving.Fixture:
    return moving.Fixture(mariadb_site)


@pytest.fixture
def counted() -> Counted:
    """How much a figure has grown since the test began."""

    def value(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(f"lj_mover_worker_{name}", labels) or 0.0

    before = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
    }

    def grown(name: str, **labels: str) -> float:
        key = (f"lj_mover_worker_{name}", tuple(sorted(labels.items())))
        return value(name, **labels) - before.get(key, 0.0)

    return grown


def test_a_move_is_counted(
    one: moving.Fixture, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    moving.stop_at(monkeypatch, "copied", one.write)
    move = moving.move(one.worker, one.bob, 2)
    assert move.state == "switched"
    for state in ("preparing", "copying", "catching_up", "verifying", "frozen", "switched"):
        assert counted("phases_total", state=state) == 1, state
    assert counted("runs_total", result="switched") == 1
    # 20 notes, 20 tags, a counter: what was there before the copy.
    assert counted("copied_rows_total") == 41
    assert counted("copied_bytes_total") > 20 * 100
    assert counted("followed_keys_total") >= 2  # the note, and the counter
    assert counted("pause_seconds_count", result="switched") == 1
    held = counted("pause_seconds_sum", result="switched")
    assert held * 1e6 == pytest.approx(one.worker.moves.get(move.move_id).freeze_us, abs=1)
    moving.run_until(one.worker, move.move_id, "done")
    assert counted("phases_total", state="done") == 1
    assert counted("runs_total", result="done") == 1
    assert counted("purged_rows_total") == 42
    assert counted("running") == 0


def test_a_lost_lease_is_counted(
    one: moving.Fixture, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    moving.stop_at(monkeypatch, "copied", moving.vanish)
    moving.move(one.worker, one.bob, 2)
    assert counted("leases_lost_total") == 1
    assert counted("runs_total", result="lost") == 1
    assert counted("phases_total", state="switched") == 0


def test_a_cut_over_that_was_let_go_is_a_pause_too(
    one: moving.Fixture, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("just now")

    moving.stop_at(monkeypatch, "froze", fail)
    moving.move(one.worker, one.bob, 2)
    assert counted("pause_seconds_count", result="let_go") == 1
    assert counted("pause_seconds_count", result="switched") == 0
    assert counted("runs_total", result="error") == 1


def test_how_far_behind(one: moving.Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = CollectorRegistry()
    registry.register(FeedMetrics(one.worker.feeds.opened))
    assert b'{src="1"}' not in generate_latest(registry)
    found: list[float | None] = []

    def look() -> None:
        # What was committed before the marker is dirty once the marker has come.
        one.write()
        feed = one.worker.feeds.opened()[1]
        (subscription,) = feed._subscriptions[one.bob]
        with one.databases.write("cluster1") as connection:
            move = one.worker.moves.list(userid=one.bob)[0]
            marker = fences.raise_marker(connection, move)
        assert subscription.wait(marker, 10)
        for name in ("behind_keys", "feed_lag_seconds"):
            found.append(registry.get_sample_value(f"lj_mover_worker_{name}", {"src": "1"}))

    moving.stop_at(monkeypatch, "copied", look)
    assert moving.move(one.worker, one.bob, 2).state == "switched"
    assert found[0] == 2  # the note, and the counter
    assert found[1] is not None
    assert 0 <= found[1] < 10
    behind = registry.get_sample_value("lj_mover_worker_behind_keys", {"src": "1"})
    assert behind == 0
