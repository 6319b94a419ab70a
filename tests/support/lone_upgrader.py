"""An upgrade in a process of its own that is killed just before one of its commits:
``python -m ... DATABASES.json USERID TO COMMIT``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

from lj_services.database import Databases, DatabaseSettings
from lj_services.usercluster import Users, UserSettings
from lj_services.usercluster.upgrade import Upgrader
from tests.support.upgrading import declare_steps

KILLED = 77


def main(file: Path, userid: int, to: int, kill_at: int) -> None:
    """Upgrade a user; end without a word before the commit number `kill_at`, from 1."""
    declare_steps()
    commits = 0

    @event.listens_for(Engine, "commit")
    def count(_connection: Any) -> None:
        nonlocal commits
        commits += 1
        if commits == kill_at:
            os._exit(KILLED)

    databases = Databases(DatabaseSettings.model_validate_json(file.read_text()))
    rules = UserSettings(min_free=0)
    users = Users(databases, None, rules)
    Upgrader(databases, users, rules).upgrade(users.reload(userid), to)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
