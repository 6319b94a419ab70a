"""kill -9 of the worker at every named step, while the user writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lj_services.usercluster.mover.work import CRASHES, ENVIRONMENT
from tests.support import moving
from tests.support.databases import TestSite
from tests.support.ledger import assert_kept, writing

pytestmark = pytest.mark.faults

BEFORE_COMMIT = set(CRASHES[: CRASHES.index("switched")])
CHECKOUT = Path(__file__).parents[4]
PATIENT = {"freeze_limit_ms": 2000}
"""By passes all rows are compared under the freeze; and the machine is busy."""


def crash(site: TestSite, folder: Path, step: str) -> int:
    """A worker of its own that works on what is due, and is killed at `step`."""
    site_file = folder / "databases.json"
    site_file.write_text(site.settings.model_dump_json())
    with (folder / "worker.log").open("wb") as log:
        return subprocess.run(
            [sys.executable, "-m", "tests.support.lone_mover", str(site_file)],
            cwd=CHECKOUT,
            env={**os.environ, ENVIRONMENT: step, "PYTHONFAULTHANDLER": "1"},
            stdout=log,
            stderr=log,
            timeout=60,
        ).returncode


@pytest.mark.parametrize("step", CRASHES)
def test_worker_killed(mariadb_site: TestSite, tmp_path: Path, step: str) -> None:
    """Another worker ends what one left at `step`: nothing is lost, and nothing left behind."""
    killed(mariadb_site, tmp_path, step)


@pytest.mark.parametrize("step", CRASHES[CRASHES.index("prepared") : CRASHES.index("purged")])
def test_worker_killed_between_embedded_clusters(
    sqlite_site: TestSite, tmp_path: Path, step: str
) -> None:
    """The same with triggers in the place of a binary log."""
    killed(sqlite_site, tmp_path, step)


@pytest.mark.parametrize("step", ["chunk", "froze", "activated"])
def test_worker_killed_who_compares_all_rows(
    sqlite_site: TestSite, tmp_path: Path, step: str
) -> None:
    """The same by passes of checksums."""
    killed(sqlite_site, tmp_path, step, {**PATIENT, "use_feed": False})


@pytest.mark.parametrize("step", ["prepared", "copied", "verified", "froze", "switched"])
def test_worker_killed_who_was_behind_with_its_records(
    mariadb_site: TestSite, tmp_path: Path, step: str
) -> None:
    """All rows at once, and no step recorded before it must be."""
    killed(mariadb_site, tmp_path, step, {"at_once_rows": 1000, "record_within_ms": 10_000})


def killed(
    site: TestSite, tmp_path: Path, step: str, options: dict[str, int] | None = None
) -> None:
    """Kill a worker at `step`, let another one finish, and count."""
    moving.prepare(site.databases)
    users = site.users()
    bob = users.create("bob", cluster=1)
    moving.fill(site.databases, 1, users.create("ann", cluster=1).userid, 3)
    ann = moving.content(site.databases, 1, bob.userid + 1)
    successor = moving.worker(site, users)
    with writing(users, bob.userid, pause_s=0.002) as writer:
        asked = successor.moves.enqueue(bob.userid, 2, options=options)
        status = crash(site, tmp_path, step)
        assert status == -signal.SIGKILL, (tmp_path / "worker.log").read_text()
        found = successor.moves.get(asked.move_id)
        assert moving.home(site.databases, bob.userid) == (1 if step in BEFORE_COMMIT else 2)
        assert found.switched_at is None or step not in BEFORE_COMMIT

        moving.run_until(successor, asked.move_id, "done")
        ledger = writer.stop()
    assert ledger.acknowledged > 10
    assert_kept(site.databases, 2, bob.userid, ledger)
    assert moving.home(site.databases, bob.userid) == 2
    assert moving.fences(site.databases, bob.userid) == {1: "moved", 2: "active"}
    assert not any(moving.content(site.databases, 1, bob.userid).values())
    assert moving.content(site.databases, 1, bob.userid + 1) == ann
    assert moving.markers(site.databases) == []
    assert moving.notes(site.databases) == []
