"""The public DB-API 2.0 compliance suite against the gofer's driver, on both engines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dbapi20
import pytest

from lj_services.gearman import gofer
from tests.support.gofer import ROLE, gofer_site
from tests.support.mariadb import MariaDB

pytestmark = pytest.mark.interop


class _Compliance(dbapi20.DatabaseAPI20Test):  # type: ignore[misc]
    """The suite, less what a driver must fill in."""

    __test__ = False
    driver = gofer

    def test_nextset(self) -> None:
        """Optional, and not there: a call has one statement."""
        assert not hasattr(self._connect().cursor(), "nextset")

    def test_setoutputsize(self) -> None:
        """Nothing to set: values come as long as they are."""
        cursor = self._connect().cursor()
        cursor.setoutputsize(1)
        cursor.execute("select 'longer than one'")
        assert cursor.fetchone() == ("longer than one",)

    def test_callproc(self) -> None:
        """Optional, and not there."""
        assert not hasattr(self._connect().cursor(), "callproc")


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("sqlite")
    with gofer_site(folder, f"sqlite:///{folder}/c.db") as site:
        site.start()
        yield site.server.address


@pytest.fixture(scope="module")
def on_mariadb(mariadb: MariaDB, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("mariadb")
    with mariadb.database("lj_gofer_dbapi") as url, gofer_site(folder, url) as site:
        site.start()
        yield site.server.address


class TestOnSqlite(_Compliance):
    """Every call a transaction of its own; SQLite."""

    __test__ = True

    @pytest.fixture(autouse=True)
    def _address(self, on_sqlite: str) -> None:
        self.connect_args = ([on_sqlite], ROLE)

    def test_description(self) -> None:
        """SQLite's columns have no types: their kinds are known when there are rows."""
        cursor = self._connect().cursor()
        self.executeDDL1(cursor)
        assert cursor.description is None
        cursor.execute(f"select name from {self.table_prefix}booze")
        assert [column[:2] for column in cursor.description] == [("name", None)]
        cursor.execute(f"insert into {self.table_prefix}booze values ('Boag')")
        assert cursor.description is None
        cursor.execute(f"select name from {self.table_prefix}booze")
        assert cursor.description[0][1] == gofer.STRING


class TestOnMariadb(_Compliance):
    """Every call a transaction of its own; MariaDB."""

    __test__ = True

    @pytest.fixture(autouse=True)
    def _address(self, on_mariadb: str) -> None:
        self.connect_args = ([on_mariadb], ROLE)


class TestWithLeases(_Compliance):
    """Transactions that are held until commit or rollback; MariaDB."""

    __test__ = True

    @pytest.fixture(autouse=True)
    def _address(self, on_mariadb: str) -> None:
        self.connect_args = ([on_mariadb], ROLE)
        self.connect_kw_args = {"lease_s": 0.5}
