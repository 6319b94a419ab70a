"""Requests of one user that overlap, in the order that is the worst for them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import insert, select

from lj_services.journal.accounts import Accounts, Proof
from lj_services.journal.pages import settings
from lj_services.journal.tables import login, profile
from tests.support.databases import TestSite
from tests.support.journal import PASSWORD, MakeJournal
from tests.support.process import wait_for

pytestmark = pytest.mark.interop


def test_a_new_password_ends_a_log_in_that_is_not_committed_yet(
    make_journal: MakeJournal, site: TestSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = make_journal(site=site)
    ann = journal.member("ann")
    accounts = journal.kit.accounts
    session_of = accounts.session(ann.client.cookies["lj_session"])
    assert session_of is not None
    proof = accounts.check("ann", PASSWORD)
    holds = Accounts._holds

    def changed_ms() -> Any:
        with site.databases.read("global", definitive=True) as connection:
            return connection.scalar(select(login.c.changed_ms))

    with ThreadPoolExecutor() as threads:
        changing = []

        def overtaken(self: Accounts, proof: Proof) -> bool:
            found = holds(self, proof)
            change = accounts.change_password
            changing.append(threads.submit(change, session_of, PASSWORD, "battery staple"))
            wait_for(lambda: changed_ms() != proof.changed_ms, "the new password to be stored")
            assert not changing[0].done()  # it waits for the row of this log-in
            return found

        monkeypatch.setattr(Accounts, "_holds", overtaken)
        cookie = accounts.log_in(proof, "an old tab")
        changing[0].result(30)
    assert accounts.session(cookie) is None
    assert [one.sessionid for one in accounts.sessions(proof.user)] == [session_of.sessionid]


def test_two_first_profiles_at_once(
    make_journal: MakeJournal, mariadb_site: TestSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = make_journal(site=mariadb_site)
    tabs = [journal.member("ann"), journal.visitor("ann")]
    assert tabs[1].log_in().status_code == 200
    both = threading.Barrier(2)
    inserts = []

    def insert_at_once(table: Any) -> Any:
        inserts.append(table)
        both.wait(30)  # both have looked, and found no profile
        return insert(table)

    monkeypatch.setattr(settings, "insert", insert_at_once)
    with ThreadPoolExecutor() as threads:
        saving = [
            threads.submit(tab.send, "/settings/profile", {"title": title, "about": ""})
            for tab, title in zip(tabs, ("One", "Two"), strict=True)
        ]
        assert [one.result(60).status_code for one in saving] == [200, 200]
    assert inserts == [profile, profile]
    with mariadb_site.databases.read(f"cluster{journal.user(tabs[0]).clusterid}") as connection:
        assert connection.scalar(select(profile.c.title)) in ("One", "Two")
