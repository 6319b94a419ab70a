"""A reader whose state may not be asked says what to grant."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from lj_services.database import Databases, DatabaseSettings
from tests.support.mariadb import MariaDB

pytestmark = pytest.mark.faults


def test_a_reader_that_may_not_be_asked_is_left_out_and_says_why(mariadb: MariaDB) -> None:
    mariadb.query(
        "CREATE OR REPLACE USER plain@localhost", "GRANT SELECT ON *.* TO plain@localhost"
    )
    with mariadb.database("lj_plain") as url:
        role = {"writer": url, "readers": [{"url": mariadb.url("lj_plain", user="plain")}]}
        databases = Databases(DatabaseSettings.model_validate({"roles": {"global": role}}))
        with databases.read("global") as connection:
            assert connection.scalar(text("SELECT CURRENT_USER()")) == "root@localhost"
        (reader,) = databases.readers()
        databases.close()
        assert not reader.up
        assert "SLAVE MONITOR" in reader.why_not

        mariadb.query("GRANT SLAVE MONITOR ON *.* TO plain@localhost")
        databases = Databases(DatabaseSettings.model_validate({"roles": {"global": role}}))
        with databases.read("global"):
            pass
        (reader,) = databases.readers()
        databases.close()
        assert "replicates from nowhere" in reader.why_not  # so it could be asked
