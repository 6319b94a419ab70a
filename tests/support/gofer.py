"""A running gofer for tests, with its job server and a database."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from lj_services.database import Databases, DatabaseSettings, migrate
from lj_services.gearman import gofer
from lj_services.gearman.gofer.executor import COMPONENT
from tests.support.job_servers import OUR_SERVER, JobServer
from tests.support.process import Running, spawn

LJ = Path(sys.executable).parent / "lj"
ROLE = "cluster1"
VERBS = '["select", "insert", "update", "delete", "replace", "create", "drop"]'


class GoferSite:
    """A database, a job server, and gofers that are started and killed by the test."""

    def __init__(self, folder: Path, url: str, stack: ExitStack, program: str = OUR_SERVER) -> None:
        self.folder = folder
        self.url = url
        self._stack = stack
        self._count = 0
        settings = DatabaseSettings.model_validate({"roles": {ROLE: {"writer": url}}})
        self.databases = Databases(settings)
        stack.callback(self.databases.close)
        migrate(self.databases, ROLE, [COMPONENT])
        self.file = folder / "site.toml"
        self.file.write_text(f'[database.roles.{ROLE}]\nwriter = "{url}"\n')
        self.server = JobServer(program, folder)
        stack.callback(self.server.close)
        self.server.start()

    def start(self, *settings: str, workers: int = 1) -> Running:
        """Start a gofer; returns when it offers what it does.

        Args:
            settings: words for ``--set``.
            workers: how many gofers there are then.
        """
        self._count += 1
        words = [f'servers=["{self.server.address}"]', f"roles.{ROLE}.verbs={VERBS}", *settings]
        argv = [str(LJ), "--site", str(self.file), "gearman", "gofer"]
        argv += [part for word in words for part in ("--set", word)]
        log = self.folder / f"gofer{self._count}.log"

        def offered() -> bool:
            return self.workers("read") == workers and self.workers("write") == workers

        return self._stack.enter_context(spawn(argv, log, ready=offered))

    def workers(self, kind: str) -> int:
        """How many gofers offer a function."""
        return self.server.status().get(f"gofer.{ROLE}.{kind}", (0, 0, 0))[2]

    def connect(self, **options: Any) -> gofer.Connection:
        """A connection by way of the gofers."""
        return gofer.connect([self.server.address], ROLE, **options)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What the database itself says."""
        with self.databases.read(ROLE, definitive=True) as connection:
            return [tuple(row) for row in connection.exec_driver_sql(sql)]

    def run(self, *statements: str) -> None:
        """Let the database itself do something."""
        with self.databases.write(ROLE) as connection:
            for sql in statements:
                connection.exec_driver_sql(sql)


@contextmanager
def gofer_site(folder: Path, url: str, program: str = OUR_SERVER) -> Iterator[GoferSite]:
    """A site for the length of the block; no gofer runs yet."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        yield GoferSite(folder, url, stack, program)
