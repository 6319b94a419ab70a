"""What errors may say."""

from __future__ import annotations

import pytest
from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError

from lj_services.usercluster.tables import user_home
from tests.support.databases import TestSite

pytestmark = pytest.mark.unit


def test_an_error_does_not_tell_what_users_wrote(sqlite_site: TestSite) -> None:
    row = {"userid": 1, "state": "a secret state", "epoch": 1, "readonly": False}
    with sqlite_site.databases.write("cluster1") as connection, pytest.raises(IntegrityError) as no:
        connection.execute(insert(user_home), row)
    assert "state" in str(no.value)
    assert "secret" not in str(no.value)
