"""Sites to test on: the roles ``global``, ``cluster1`` and ``cluster2``, migrated, fresh for
each test, on either engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from lj_services.database import Databases, DatabaseSettings, migrate
from lj_services.usercluster import COMPONENT, Users, UserSettings
from tests.support.mariadb import MariaDB

ROLES = ("global", "cluster1", "cluster2")


class TestSite:
    """The databases of a site, and what is needed to open them once more."""

    __test__ = False

    def __init__(self, settings: DatabaseSettings, engine: str) -> None:
        self.settings = settings
        self.engine = engine
        self.databases = Databases(settings)
        for role in self.databases.roles():
            migrate(self.databases, role, [COMPONENT])

    def users(self, cache: Any = None, **settings: Any) -> Users:
        """The site's users; `settings` as in `UserSettings`."""
        return Users(self.databases, cache, UserSettings(min_free=0, **settings))


def settings_of(urls: Mapping[str, str], **role: Any) -> DatabaseSettings:
    """Settings of roles that have a writer and nothing else but `role`."""
    return DatabaseSettings.model_validate(
        {"roles": {name: {"writer": url, **role} for name, url in urls.items()}}
    )


def _in_files(folder: Path, **role: Any) -> TestSite:
    return TestSite(
        settings_of({name: f"sqlite:///{folder}/{name}.db" for name in ROLES}, **role), "sqlite"
    )


@cache
def _migrated() -> dict[str, bytes]:
    """The files of a new site: migrating takes much longer than writing them once more."""
    with TemporaryDirectory() as folder:
        _in_files(Path(folder)).databases.close()
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


@contextmanager
def site_on_sqlite(folder: Path, **role: Any) -> Iterator[TestSite]:
    """A site in files below `folder`."""
    for name, content in _migrated().items():
        (folder / name).write_bytes(content)
    site = _in_files(folder, **role)
    try:
        yield site
    finally:
        site.databases.close()


@contextmanager
def site_on_mariadb(server: MariaDB, **role: Any) -> Iterator[TestSite]:
    """A site in fresh databases of `server`."""
    with ExitStack() as stack:
        urls = {name: stack.enter_context(server.database(f"lj_{name}")) for name in ROLES}
        site = TestSite(settings_of(urls, **role), "mariadb")
        stack.callback(site.databases.close)
        yield site


@pytest.fixture
def sqlite_site(tmp_path: Path) -> Iterator[TestSite]:
    """A site on SQLite."""
    with site_on_sqlite(tmp_path) as site:
        yield site


@pytest.fixture(params=["sqlite", "mariadb"])
def site(request: pytest.FixtureRequest) -> TestSite:
    """A site on each engine in turn."""
    chosen: TestSite = request.getfixturevalue(f"{request.param}_site")
    return chosen


@pytest.fixture
def mariadb_site(mariadb: MariaDB) -> Iterator[TestSite]:
    """A site on MariaDB."""
    with site_on_mariadb(mariadb) as site:
        yield site
