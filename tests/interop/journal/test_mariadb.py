"""The site on MariaDB with the real memcached: what production runs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.journal_site import RunningSite, running_site, sqlite_urls
from tests.support.mariadb import MariaDB
from tests.support.memcached import Start

pytestmark = pytest.mark.interop


@pytest.fixture(params=["mariadb", "sqlite"])
def site(
    request: pytest.FixtureRequest, tmp_path: Path, real_memcached: Start
) -> Iterator[RunningSite]:
    with ExitStack() as stack:
        if request.param == "mariadb":
            server: MariaDB = request.getfixturevalue("mariadb")
            databases = {
                role: stack.enter_context(server.database(f"lj_{role}"))
                for role in ("global", "cluster1", "cluster2")
            }
        else:
            databases = sqlite_urls(tmp_path)
        yield stack.enter_context(running_site(tmp_path, databases, [real_memcached().port]))


def smoke(site: RunningSite, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        site.lj("smoke", *words), capture_output=True, text=True, timeout=120, check=False
    )


def test_smoke(site: RunningSite) -> None:
    first = smoke(site, "--json")
    assert first.returncode == 0, first.stderr
    told = json.loads(first.stdout)
    assert sorted(told["homes"].values()) == ["cluster1", "cluster2"]
    for row in told["rows"]:
        assert row["role"] in ("global", told["homes"][row["user"]])
    tables = {row["table"] for row in told["rows"]}
    assert {"user", "login", "user_home", "session", "post", "comment", "friend"} <= tables
    assert all(value["there"] == "yes" for value in told["cached"])
    again = smoke(site)
    assert again.returncode == 0, again.stderr
    assert "Where every row lies" in again.stdout


def test_smoke_says_when_the_site_is_away(site: RunningSite) -> None:
    site.stop()
    away = smoke(site)
    assert away.returncode == 6
    assert "can't be reached" in away.stderr
    assert "lj journal serve" in away.stderr


def test_all_characters(site: RunningSite) -> None:
    ann = site.person("ann").sign_up()
    text = "naïve Ω 日本語 \U0001f980 ﷽ e\u0301 'quoted' \\ %s %(x)s :name ?"
    ann.send("/settings/profile", {"title": text, "about": text}, page="/settings")
    postid = ann.post(text, body=text)
    ann.send(f"/~ann/{postid}/comments", {"body": text})
    page = ann.get(f"/~ann/{postid}").text.replace("&#39;", "'")
    assert page.count(text) == 4  # twice as the title, text, comment
    longest = ann.post("L", body="\U0001f980" * 60_000)
    assert "\U0001f980" * 60_000 in ann.get(f"/~ann/{longest}").text
