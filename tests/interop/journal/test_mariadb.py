"""The site on MariaDB with the real memcached: what production runs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

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


def people_of(told: dict[str, Any]) -> list[str]:
    return sorted(told["homes"])


def rows_of(told: dict[str, Any]) -> dict[tuple[str, str], int]:
    return {(row["user"], row["table"]): row["rows"] for row in told["rows"]}


@pytest.mark.parametrize("site", ["sqlite"], indirect=True)
def test_smoke_knows_its_people_again(site: RunningSite, tmp_path: Path) -> None:
    first = json.loads(smoke(site, "--json").stdout)
    kept = tmp_path / "smoke-people.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    second = json.loads(smoke(site, "--json").stdout)
    assert people_of(second) == people_of(first)
    # Nothing piles up: neither log-ins, nor posts, nor comments.
    assert rows_of(second) == rows_of(first)


@pytest.mark.parametrize("site", ["sqlite"], indirect=True)
@pytest.mark.parametrize("what", ["another password", "nobody", "no file", "no JSON", "read-only"])
def test_smoke_replaces_people_who_can_not_be_used(
    site: RunningSite, tmp_path: Path, what: str
) -> None:
    first = json.loads(smoke(site, "--json").stdout)
    file = tmp_path / "smoke-people.json"
    kept = json.loads(file.read_text())
    names = [person["name"] for person in kept["people"]]
    if what == "another password":
        kept["people"][0]["password"] = "what it was before"
        file.write_text(json.dumps(kept))
    elif what == "nobody":
        kept["people"][0]["name"] = "never_there"
        file.write_text(json.dumps(kept))
    elif what == "no file":
        file.unlink()
    elif what == "no JSON":
        file.write_text("{")
    else:
        subprocess.run(site.lj("users", "readonly", names[0], "on"), check=True, timeout=60)
    answer = smoke(site, "--json")
    assert answer.returncode == 0, answer.stderr
    second = json.loads(answer.stdout)
    new = set(people_of(second)) - set(people_of(first))
    assert names[0] not in second["homes"]
    assert len(new) == (2 if what in ("no file", "no JSON") else 1)
    assert sorted(second["homes"].values()) == ["cluster1", "cluster2"]
    assert people_of(json.loads(smoke(site, "--json").stdout)) == people_of(second)


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
