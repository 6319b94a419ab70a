"""A whole site as programs of its own: ``lj journal serve``, cache servers, databases."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from tests.support.journal import Person
from tests.support.process import Running, accepts, free_port, spawn

LJ = Path(sys.executable).parent / "lj"


class RunningSite:
    """A site on free ports of 127.0.0.1, with its files below `folder`.

    Args:
        folder: empty.
        databases: role -> URL.
        caches: ports of cache servers.
        settings: ``KEY=VALUE`` for ``lj journal serve``.
    """

    def __init__(
        self,
        folder: Path,
        databases: dict[str, str],
        caches: Sequence[int] = (),
        settings: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.site_file = folder / "site.toml"
        self.log = folder / "journal.log"
        secret = folder / "secret"
        secret.write_text("s" * 64)
        self.settings = ["hash_memory=64k", "hash_passes=1", f"secret_file={secret}", *settings]
        lines = []
        for role, url in databases.items():
            lines += [f"[database.roles.{role}]", f'writer = "{url}"']
        lines += ["[users]", "min_free = 0"]
        if caches:
            servers = ", ".join(f'{{ address = "127.0.0.1:{port}" }}' for port in caches)
            lines += ["[memcached]", f"servers = [ {servers} ]"]
        lines += ["[journal]", f'url = "{self.url}"']
        self.site_file.write_text("\n".join(lines) + "\n")
        self._started: ExitStack | None = None
        self.running: Running

    def lj(self, *words: str) -> list[str]:
        """The arguments of an ``lj`` command for this site."""
        return [str(LJ), "--site", str(self.site_file), *words]

    def migrate(self) -> None:
        with spawn(self.lj("db", "migrate"), self.log, ready=lambda: True) as migrating:
            assert migrating.process.wait(60) == 0, migrating.output

    def start(self) -> None:
        """Start ``lj journal serve``."""
        words = [word for setting in self.settings for word in ("--set", setting)]
        self._started = ExitStack()
        self.running = self._started.enter_context(
            spawn(
                self.lj("journal", "serve", "--listen", f"127.0.0.1:{self.port}", *words),
                self.log,
                ready=lambda: accepts(self.port),
            )
        )

    def stop(self) -> None:
        """End it, if it runs."""
        if self._started is not None:
            self._started.close()
            self._started = None

    def kill(self) -> None:
        """kill -9."""
        self.running.kill()
        self.stop()

    def person(self, name: str = "") -> Person:
        """Somebody with an empty browser."""
        client = httpx.Client(base_url=self.url, follow_redirects=True, timeout=20, trust_env=False)
        return Person(client, name)


def sqlite_urls(folder: Path, clusters: int = 2) -> dict[str, str]:
    """URLs of databases in `folder`."""
    names = ["global", *(f"cluster{number}" for number in range(1, clusters + 1))]
    return {name: f"sqlite:///{folder}/{name}.db" for name in names}


@contextmanager
def running_site(
    folder: Path,
    databases: dict[str, str],
    caches: Sequence[int] = (),
    settings: Sequence[str] = (),
) -> Iterator[RunningSite]:
    """A site for the length of the block."""
    site = RunningSite(folder, databases, caches, settings)
    site.migrate()
    try:
        site.start()
        yield site
    finally:
        site.stop()


def keep(artifact: Path, name: str) -> Path:
    """Keep a test's picture under ``test-artifacts/`` of the checkout."""
    folder = Path(__file__).parents[2] / "test-artifacts"
    folder.mkdir(exist_ok=True)
    return Path(shutil.copy(artifact, folder / name))
