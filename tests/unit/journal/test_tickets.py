"""Tickets: who is read-only logs in and reads, and nothing is written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select

from lj_services.journal import accounts, tickets
from lj_services.journal.accounts import Proof
from lj_services.journal.tables import session
from lj_services.usercluster import UserReadOnly
from tests.support.journal import PASSWORD, MakeJournal, Person, TestJournal

pytestmark = pytest.mark.unit

KEY = b"k" * 32


@pytest.fixture
def frozen(journal: TestJournal) -> Person:
    """Somebody who wrote for friends, is read-only now, and comes with another browser."""
    ann = journal.member("ann")
    ann.post("A secret", security="private")
    journal.users.set_readonly(journal.user(ann).userid, True)
    return journal.visitor("ann")


def _rows(journal: TestJournal, person: Person) -> int:
    user = journal.user(person)
    with journal.site.databases.read(f"cluster{user.clusterid}") as connection:
        query = select(func.count()).where(session.c.userid == user.userid)
        return int(connection.execute(query).scalar_one())


def test_a_read_only_user_logs_in_reads_and_logs_out(journal: TestJournal, frozen: Person) -> None:
    before = _rows(journal, frozen)
    answer = frozen.log_in()
    assert answer.status_code == 200
    assert "read-only for a moment" in answer.text
    assert _rows(journal, frozen) == before
    assert "A secret" in frozen.get("/~ann").text
    assert frozen.get("/friends").status_code == 200
    settings = frozen.get("/settings")
    assert "for a day" in settings.text
    refused = frozen.send("/post", {"subject": "S", "body": "Kept text", "security": "public"})
    assert refused.status_code == 403
    assert "Kept text" in refused.text
    frozen.send("/logout")
    assert "A secret" not in frozen.get("/~ann").text


def test_a_ticket_goes_on_when_the_user_can_write_again(
    journal: TestJournal, frozen: Person
) -> None:
    frozen.log_in()
    journal.users.set_readonly(journal.user(frozen).userid, False)
    assert frozen.post("Written with a ticket")


def test_a_wrong_password_gets_no_ticket(frozen: Person) -> None:
    assert frozen.log_in("something else").status_code == 422
    assert "lj_session" not in frozen.client.cookies


def test_a_new_password_ends_tickets(journal: TestJournal, frozen: Person) -> None:
    frozen.log_in()
    journal.users.set_readonly(journal.user(frozen).userid, False)
    elsewhere = journal.visitor("ann")
    elsewhere.log_in()
    changed = elsewhere.send(
        "/settings/password",
        {"old": PASSWORD, "password": "another horse", "again": "another horse"},
        page="/settings",
    )
    assert changed.status_code == 200
    assert "A secret" in elsewhere.get("/~ann").text
    assert "A secret" not in frozen.get("/~ann").text


def test_a_ticket_runs_out(
    journal: TestJournal, frozen: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen.log_in()
    assert "A secret" in frozen.get("/~ann").text
    now = accounts.now_ms()
    monkeypatch.setattr(accounts, "now_ms", lambda: now + 1000 * tickets.TICKET_S)
    assert "A secret" not in frozen.get("/~ann").text


def test_a_password_that_changed_after_it_was_shown_gets_a_ticket_that_is_worth_nothing(
    journal: TestJournal, frozen: Person
) -> None:
    shown = journal.kit.accounts.check("ann", PASSWORD)
    cookie = journal.kit.accounts.log_in(Proof(shown.user, shown.changed_ms - 1), "a browser")
    assert journal.kit.accounts.session(cookie) is None


def test_who_has_shown_no_password_gets_no_ticket(journal: TestJournal, frozen: Person) -> None:
    with pytest.raises(UserReadOnly):
        journal.kit.accounts.log_in(journal.user(frozen), "a browser")


@given(st.integers(1, 2**31), st.integers(0, 2**45), st.integers(0, 2**45))
def test_a_ticket_comes_back_and_is_signed_for_one_password_and_one_key(
    userid: int, changed_ms: int, now_ms: int
) -> None:
    ticket = tickets.issue(KEY, userid, changed_ms, now_ms)
    assert tickets.parse(str(ticket)) == ticket
    assert ticket.is_signed(KEY, changed_ms)
    assert not ticket.is_signed(KEY, changed_ms + 1)
    assert not ticket.is_signed(b"another" * 5, changed_ms)


@pytest.mark.parametrize("field", range(4))
def test_a_ticket_that_was_changed_is_worth_nothing(
    journal: TestJournal, frozen: Person, field: int
) -> None:
    journal.member("ben")
    frozen.log_in()
    cookie = frozen.client.cookies["lj_session"]
    ticket = tickets.parse(cookie)
    assert ticket is not None
    other = ["2", str(ticket.expires_ms + 1), "x" * 22, "0" * 64][field]
    changed = [str(ticket.userid), str(ticket.expires_ms), ticket.nonce, ticket.signature]
    assert str(ticket) == cookie
    changed[field] = other
    forged = str(tickets.Ticket(int(changed[0]), int(changed[1]), changed[2], changed[3]))
    assert tickets.parse(forged) is not None
    assert journal.kit.accounts.session(forged) is None


@pytest.mark.parametrize("cookie", ["", "1-t2", "1-t2-x-y", "1-t2-" + "n" * 22 + "-" + "G" * 64])
def test_rubbish_is_no_ticket(cookie: str) -> None:
    assert tickets.parse(cookie) is None


@pytest.mark.parametrize(
    ("url", "scheme", "hsts_s", "told"),
    [
        ("https://example.org", "http", 60, "max-age=60"),
        ("http://example.org", "https", 60, "max-age=60"),
        ("http://example.org", "http", 60, None),
        ("https://example.org", "https", 0, None),
    ],
)
def test_https_once_is_https_for_good(
    make_journal: MakeJournal, url: str, scheme: str, hsts_s: int, told: str | None
) -> None:
    journal = make_journal(hsts_s=hsts_s, site_url=url)
    answer = journal.visitor().get(f"{scheme}://testserver/login")
    assert answer.headers.get("Strict-Transport-Security") == told
