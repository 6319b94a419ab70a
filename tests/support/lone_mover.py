"""A worker in a process of its own, for tests that kill it: ``python -m ... DATABASES.json``."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from lj_services.database import Databases, DatabaseSettings
from lj_services.usercluster import Users
from lj_services.usercluster.mover import Worker
from tests.support import moving


def main(file: Path) -> None:
    """Do what is due until nothing is, and until the moves that are asked for are done."""
    databases = Databases(DatabaseSettings.model_validate_json(file.read_text()))
    users = Users(databases, None, moving.RULES)
    worker = Worker(databases, users, moving.FAST, moving.RULES)
    stop = threading.Event()
    threading.Thread(target=_stop_when_all_is_over, args=(worker, stop), daemon=True).start()
    worker.loop(stop)


def _stop_when_all_is_over(worker: Worker, stop: threading.Event) -> None:
    while worker.moves.list(active=True):
        stop.wait(0.05)
    stop.set()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
