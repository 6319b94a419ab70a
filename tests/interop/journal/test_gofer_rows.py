"""Friends pages whose posts are asked of the clusters by way of gofers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lj_services.daemon import ConfigError
from lj_services.database import migrate
from lj_services.gearman.client import Client
from lj_services.gearman.gofer.executor import COMPONENT
from lj_services.journal import gofer_rows
from tests.support.databases import TestSite
from tests.support.job_servers import OUR_SERVER, Start
from tests.support.journal import MakeJournal
from tests.support.process import spawn

pytestmark = pytest.mark.interop

LJ = Path(sys.executable).parent / "lj"


def test_clusters_are_asked_through_gofers_and_one_without_takes_only_its_users_away(
    make_journal: MakeJournal,
    job_server: Start,
    sqlite_site: TestSite,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gofer_rows, "TIMEOUT_S", 2.0)
    server = job_server(OUR_SERVER)
    roles = sqlite_site.settings.roles
    file = tmp_path / "site.toml"
    file.write_text(
        "".join(f'[database.roles.{n}]\nwriter = "{r.writer}"\n' for n, r in roles.items())
    )
    argv = [str(LJ), "--site", str(file), "gearman", "gofer"]
    argv += ["--set", f'servers=["{server.address}"]', "--set", "roles.cluster1={}"]

    def offered() -> bool:
        return server.status().get("gofer.cluster1.read", (0, 0, 0))[2] == 1

    with Client([server.address]) as jobs:
        journal = make_journal(cached=False, jobs=jobs, cluster_reads="gofer")
        migrate(sqlite_site.databases, "cluster1", [COMPONENT])
        reader = journal.member("reader", 1)
        for name, cluster in (("ann", 1), ("bob", 2)):
            author = journal.member(name, cluster)
            author.post(f"of {name}", "It's 100% ?")
            reader.befriend(author)
        with spawn(argv, tmp_path / "gofer.log", ready=offered):
            page = reader.get("/friends").text
    assert "of ann" in page
    assert "It&#39;s 100% ?" in page
    assert "of bob" not in page  # cluster2 has no gofer, and the page says so
    assert "part of the site is away" in page


def test_without_job_servers_it_can_not_be_set(make_journal: MakeJournal) -> None:
    with pytest.raises(ConfigError, match="name them in"):
        make_journal(cluster_reads="gofer")
