"""What a cluster's host measures."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from lj_services.daemon import ConfigError
from lj_services.usercluster.coordinator.host import Meter

pytestmark = pytest.mark.unit

Spend = Callable[[int], None]


@pytest.fixture
def spend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Spend:
    """A system with the disk `sda` under everything; the function says how long it was busy."""
    counters = {"sda": SimpleNamespace(busy_time=0)}

    def add(milliseconds: int) -> None:
        counters["sda"].busy_time += milliseconds

    part = SimpleNamespace(device="/dev/sda", mountpoint=str(tmp_path))
    monkeypatch.setattr(psutil, "disk_io_counters", lambda perdisk: counters)
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: [part])
    return add


def test_busy_is_a_share_of_the_time_and_smoothed(spend: Spend, tmp_path: Path) -> None:
    meter = Meter(tmp_path)
    first = meter.measure(10.0)
    assert first is not None
    assert first.busy is None  # one look tells nothing
    assert 0 < first.space.free <= first.space.total
    shares = []
    for now, busy_ms in ((11.0, 500), (12.0, 1000), (14.0, 0)):
        spend(busy_ms)
        found = meter.measure(now)
        assert found is not None
        shares.append(found.busy)
    assert shares == pytest.approx([0.5, 0.65, 0.455])


def test_the_idle_side_of_a_pair_tells_nothing_until_the_data_is_there(
    spend: Spend, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    meter = Meter(data)
    assert meter.measure(1.0) is None
    data.mkdir()
    spend(700)  # of the time before; not this cluster's
    found = meter.measure(2.0)
    assert found is not None
    assert found.busy is None
    spend(100)
    found = meter.measure(3.0)
    assert found is not None
    assert found.busy == pytest.approx(0.1)
    data.rmdir()
    assert meter.measure(4.0) is None


def test_where_no_disk_is_known_there_is_still_space(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(psutil, "disk_io_counters", lambda perdisk: {})
    meter = Meter(tmp_path)
    with caplog.at_level(logging.WARNING):
        found = [meter.measure(now) for now in (1.0, 2.0, 3.0)]
    assert all(one is not None and one.busy is None and one.space.total > 0 for one in found)
    assert len(caplog.messages) == 1
    assert "name it with --disk" in caplog.messages[0]


def test_a_disk_that_is_named_must_be_there(spend: Spend, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no disk sdb; there are: sda"):
        Meter(tmp_path, "sdb")
