"""Private MariaDB servers for tests: installed in a temporary folder, durable, on loopback.

``mariadb`` is one server per test process, with a fresh set of databases wherever a
test asks for them.  Tests that kill, stop or replicate servers start their own
with ``mariadb_server`` or ``mariadb_pair``.
"""

from __future__ import annotations

import atexit
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import mysql.connector
import pytest

from tests.support.process import Running, free_port, spawn, suspend

SMALL = (
    "--innodb-buffer-pool-size=64M",
    "--innodb-log-file-size=16M",
    # Many servers at once would share out the kernel's room for native requests.
    "--innodb-use-native-aio=OFF",
)
"""Options that keep a test server small."""


@cache
def _empty_data_folder() -> Path:
    """The data folder of a server that was never used; made once per test process.

    Raises:
        AssertionError: with all that mariadb-install-db said.
    """
    folder = Path(tempfile.mkdtemp(prefix="ljdbnew"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    done = subprocess.run(
        [
            "mariadb-install-db",
            "--no-defaults",
            "--user=root",
            f"--datadir={folder / 'data'}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            # A server that starts deletes all temporary tables of its tmpdir, others' too.
            f"--tmpdir={folder}",
            *SMALL,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return folder / "data"


class MariaDB:
    """A mariadbd with a data folder of its own.

    Args:
        folder: short path (a socket's path has 107 characters at most).
        server_id: distinct within a test; also the GTID domain.
        options: more command line options.
        room_mb: its tables lie on a disk of their own, of so many MB (root may do that); the
            logs do not, since a server that can't write those waits for somebody to make room.
    """

    def __init__(
        self,
        folder: Path,
        server_id: int = 1,
        options: tuple[str, ...] = (),
        room_mb: int | None = None,
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.server_id = server_id
        self.socket = folder / "s"
        self._options = options
        self._data = folder / "data"
        self._stack = ExitStack()
        self.running: Running | None = None
        self._logs = self._data
        self._data.mkdir()
        if room_mb is not None:
            self._logs = folder / "logs"
            self._logs.mkdir()
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={room_mb}m", "lj-small-disk", self._data],
                check=True,
            )
        self._small = room_mb is not None
        shutil.copytree(_empty_data_folder(), self._data, dirs_exist_ok=True)

    def start(self) -> None:
        """Start it, and return when it answers."""
        self.running = self._stack.enter_context(
            spawn(
                [
                    "mariadbd",
                    "--no-defaults",
                    "--user=root",
                    f"--datadir={self._data}",
                    f"--tmpdir={self.folder}",
                    f"--socket={self.socket}",
                    f"--port={self.port}",
                    f"--pid-file={self.folder / 'pid'}",
                    "--bind-address=127.0.0.1",
                    "--skip-name-resolve",
                    *SMALL,
                    "--innodb-flush-log-at-trx-commit=1",
                    "--sync-binlog=1",
                    f"--log-bin={self._logs / 'binlog'}",
                    "--binlog-format=ROW",
                    "--gtid-strict-mode=1",
                    f"--server-id={self.server_id}",
                    "--character-set-server=utf8mb4",
                    "--collation-server=utf8mb4_bin",
                    *self._options,
                ],
                self.folder / "log",
                ready=self.answers,
                timeout_s=60,
            )
        )

    def answers(self) -> bool:
        """Whether it takes a connection now."""
        try:
            self.query("SELECT 1")
        except mysql.connector.Error:
            return False
        return True

    def kill(self) -> None:
        """SIGKILL, as a power cut does."""
        assert self.running is not None
        self.running.kill()
        self._stack.close()

    def stop(self) -> None:
        """Shut it down in peace."""
        self._stack.close()

    def clear_away(self) -> None:
        """Shut it down, and unmount its disk if it has one."""
        self.stop()
        if self._small:
            subprocess.run(["umount", self._data], check=True)

    def fill_disk(self) -> None:
        """Take all room that is left on its small disk."""
        with (self._data / "filler").open("ab") as filler, suppress(OSError):
            while True:
                filler.write(bytes(1 << 16))
                filler.flush()

    def free_disk(self) -> None:
        """Give that room back."""
        (self._data / "filler").unlink(missing_ok=True)

    def hang(self) -> None:
        """SIGSTOP: it keeps its connections and answers nothing."""
        assert self.running is not None
        suspend(self.running.pid)

    def resume(self) -> None:
        """SIGCONT after `hang`."""
        assert self.running is not None
        self.running.process.send_signal(signal.SIGCONT)

    def query(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements as root, each committed; returns the rows of the last."""
        connection = mysql.connector.connect(
            unix_socket=str(self.socket),
            user="root",
            charset="utf8mb4",
            collation="utf8mb4_bin",
            autocommit=True,
            connection_timeout=5,
        )
        try:
            rows: list[tuple[Any, ...]] = []
            for statement in statements:
                with connection.cursor(buffered=True) as cursor:
                    cursor.execute(statement)
                    rows = list(cursor.fetchall()) if cursor.with_rows else []
            return rows
        finally:
            connection.close()

    def url(self, database: str, user: str = "root") -> str:
        """The kit's URL of a database here, through the socket."""
        return f"mariadb://{user}@/{database}?unix_socket={self.socket}"

    def tcp_url(self, database: str, user: str = "root") -> str:
        """The same through loopback."""
        return f"mariadb://{user}@127.0.0.1:{self.port}/{database}"

    @contextmanager
    def database(self, name: str) -> Iterator[str]:
        """A fresh database for the length of the block; gives its URL."""
        self.query(f"CREATE OR REPLACE DATABASE {name}")
        try:
            yield self.url(name)
        finally:
            if self.answers():
                self.query(f"DROP DATABASE IF EXISTS {name}")


ServerFactory = Callable[..., MariaDB]


@contextmanager
def private_servers() -> Iterator[ServerFactory]:
    """A function that makes and starts servers, which end with the block."""
    with ExitStack() as stack:

        def make(
            server_id: int = 1, options: tuple[str, ...] = (), room_mb: int | None = None
        ) -> MariaDB:
            folder = Path(tempfile.mkdtemp(prefix="ljdb"))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            server = MariaDB(folder, server_id, options, room_mb)
            stack.callback(server.clear_away)
            server.start()
            return server

        yield make


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """The test process's shared server: make databases in it, don't disturb it."""
    with private_servers() as make:
        yield make()


@pytest.fixture
def mariadb_server() -> Iterator[ServerFactory]:
    """Servers for this test alone, to be killed and stopped at will."""
    with private_servers() as make:
        yield make


@pytest.fixture(scope="module")
def mariadb_pair() -> Iterator[tuple[MariaDB, MariaDB]]:
    """A writer and its replica, GTID replication running, for the tests of one file.

    A test that breaks something mends it.
    """
    with private_servers() as make:
        writer = make(1)
        replica = make(2, ("--read-only=1", "--log-slave-updates=1"))
        writer.query(
            "CREATE USER repl@'127.0.0.1'", "GRANT REPLICATION SLAVE ON *.* TO repl@'127.0.0.1'"
        )
        replicate(writer, replica)
        yield writer, replica


def replicate(writer: MariaDB, replica: MariaDB) -> None:
    """Let `replica` follow `writer` by GTID from the beginning of its binary log."""
    replica.query(
        f"CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={writer.port}, "
        "MASTER_USER='repl', MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1",
        "START SLAVE",
    )
