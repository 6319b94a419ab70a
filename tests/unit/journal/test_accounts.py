"""Accounts: what is stored, what a cookie is worth, and who is slowed down."""

from __future__ import annotations

import asyncio
import itertools
import threading

import httpx
import pytest
from sqlalchemy import select

from lj_services.database import DatabaseUnreachable
from lj_services.journal import accounts
from lj_services.journal.accounts import Passwords
from lj_services.journal.errors import TooManyFailures, WrongPassword
from lj_services.journal.tables import login, session
from lj_services.journal.throttle import Throttle, device_cookie, network, place_of
from lj_services.usercluster import UserBusy
from tests.support.journal import PASSWORD, MakeJournal, Person, TestJournal, token_in

pytestmark = pytest.mark.unit

KEY = b"k" * 32


def test_a_hash_is_argon2id_and_hard_on_memory_by_default() -> None:
    from lj_services.journal.config import JournalSettings

    usual = JournalSettings()
    made = Passwords(usual.hash_memory, usual.hash_passes, 1).hash(PASSWORD)
    assert made.startswith("$argon2id$")
    assert "m=32768,t=3,p=1" in made


def test_passwords() -> None:
    passwords = Passwords(8 << 10, 1, 1)
    stored = passwords.hash(PASSWORD)
    assert passwords.matches(stored, PASSWORD)
    assert not passwords.matches(stored, PASSWORD + " ")
    assert not passwords.matches(None, PASSWORD)
    assert not passwords.matches("rubbish", PASSWORD)
    assert Passwords(16 << 10, 1, 1).is_outdated(stored)


def test_the_database_holds_neither_password_nor_token(journal: TestJournal) -> None:
    ann = journal.member("ann")
    cookie = ann.client.cookies["lj_session"]
    token = cookie.split("-", 2)[2]
    user = journal.user(ann)
    with journal.site.databases.read("global") as connection:
        stored = connection.scalar(select(login.c.password_hash))
    with journal.site.databases.read(f"cluster{user.clusterid}") as connection:
        row = connection.execute(select(session)).one()
    assert stored is not None
    assert PASSWORD not in stored
    assert token not in str(tuple(row))
    assert row.userid == user.userid


def test_cookie_flags(journal: TestJournal, make_journal: MakeJournal) -> None:
    answer = journal.visitor("ann").send(
        "/signup",
        {"name": "ann", "password": PASSWORD, "again": PASSWORD},
        page="/signup",
        follow_redirects=False,
    )
    cookies = answer.headers.get_list("set-cookie")
    assert len(cookies) == 2
    for cookie in cookies:
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        assert "Secure" not in cookie
    secure = journal.visitor()
    secure.client.base_url = "https://testserver"
    assert "Secure" in secure.get("/login").headers["set-cookie"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda cookie: cookie[:-1] + ("A" if cookie[-1] != "A" else "B"),
        lambda cookie: "2" + cookie[1:],
        lambda cookie: cookie.replace("-1-", "-2-", 1),
        lambda cookie: "99999999999999-1-" + "x" * 43,
        lambda cookie: "",
        lambda cookie: "1-1-",
    ],
)
def test_other_cookies_are_nobody(journal: TestJournal, spoil: object) -> None:
    ann = journal.member("ann")
    assert callable(spoil)
    cookie = spoil(ann.client.cookies["lj_session"])
    stranger = journal.visitor()
    stranger.client.cookies.set("lj_session", cookie)
    assert "Log in" in stranger.get("/").text


def test_log_out_ends_the_session_on_the_server(journal: TestJournal) -> None:
    ann = journal.member("ann")
    copy = journal.visitor()
    copy.client.cookies.set("lj_session", ann.client.cookies["lj_session"])
    assert "Hello, ann" in copy.get("/").text
    ann.send("/logout")
    assert "lj_session" not in ann.client.cookies
    assert "Hello, ann" not in copy.get("/").text


def test_a_session_runs_out(journal: TestJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    ann = journal.member("ann")
    now = accounts.now_ms()
    monkeypatch.setattr(accounts, "now_ms", lambda: now + 30 * 86_400_000 + 1000)
    assert "Hello, ann" not in ann.get("/").text


def test_a_new_password_ends_other_sessions(journal: TestJournal) -> None:
    here = journal.member("ann")
    there = journal.visitor("ann")
    there.log_in()
    wrong = here.send(
        "/settings/password", {"old": "nonsense", "password": "p" * 9, "again": "p" * 9}
    )
    assert "not your present password" in wrong.text
    assert "Hello, ann" in there.get("/").text
    new = {"old": PASSWORD, "password": "battery staple", "again": "battery staple"}
    assert here.send("/settings/password", new).status_code == 200
    assert "Hello, ann" in here.get("/").text
    assert "Hello, ann" not in there.get("/").text
    assert journal.visitor("ann").log_in().status_code == 422
    assert journal.visitor("ann").log_in("battery staple").status_code == 200


def test_a_log_in_that_a_new_password_overtakes_is_refused(
    journal: TestJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = journal.member("ann")
    accounts_ = journal.kit.accounts
    session_of = accounts_.session(ann.client.cookies["lj_session"])
    assert session_of is not None
    proof = accounts_.check("ann", PASSWORD)
    monkeypatch.setattr(accounts, "now_ms", lambda: proof.changed_ms)  # within one millisecond
    accounts_.change_password(session_of, PASSWORD, "battery staple")
    with pytest.raises(WrongPassword):
        accounts_.log_in(proof, "an old tab")
    assert len(accounts_.sessions(proof.user)) == 1
    with pytest.raises(WrongPassword):
        accounts_.change_password(session_of, PASSWORD, "paper clip 9")
    assert accounts_.log_in(accounts_.check("ann", "battery staple"), "here")


def test_the_visitor_of_an_overtaken_log_in_is_told(
    journal: TestJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.member("ann")
    monkeypatch.setattr(journal.kit.accounts, "_holds", lambda proof: False)
    late = journal.visitor("ann")
    answer = late.log_in()
    assert answer.status_code == 422
    assert "don&#39;t belong together" in answer.text
    assert "lj_session" not in late.client.cookies


def test_a_hash_made_anew_brings_no_old_password_back(
    make_journal: MakeJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = make_journal()
    ann = journal.member("ann")
    accounts_ = journal.kit.accounts
    session_of = accounts_.session(ann.client.cookies["lj_session"])
    assert session_of is not None
    changed = []

    def outdated(stored: str) -> bool:
        if not changed:
            changed.append(stored)
            accounts_.change_password(session_of, PASSWORD, "battery staple")
            return True
        return False

    monkeypatch.setattr(accounts_.passwords, "is_outdated", outdated)
    accounts_.check("ann", PASSWORD)
    assert journal.visitor("ann").log_in().status_code == 422
    assert journal.visitor("ann").log_in("battery staple").status_code == 200


def test_a_hash_made_anew_is_no_new_password(
    journal: TestJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.member("ann")
    proof = journal.kit.accounts.check("ann", PASSWORD)
    with journal.site.databases.read("global") as connection:
        before = connection.scalar(select(login.c.password_hash))
    monkeypatch.setattr(journal.kit.accounts.passwords, "is_outdated", lambda stored: True)
    journal.kit.accounts.check("ann", PASSWORD)
    with journal.site.databases.read("global") as connection:
        assert connection.scalar(select(login.c.password_hash)) != before
    assert journal.kit.accounts.log_in(proof, "an open tab")


@pytest.mark.parametrize("error", [UserBusy("moving"), DatabaseUnreachable("away")])
def test_a_sign_up_whose_log_in_fails_says_that_the_account_is_there(
    journal: TestJournal, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(*_: object) -> str:
        raise error

    ann = journal.visitor("ann")
    with monkeypatch.context() as patch:
        patch.setattr(journal.kit.accounts, "log_in", fails)
        fields = {"name": "ann", "password": PASSWORD, "again": PASSWORD}
        answer = ann.send("/signup", fields, page="/signup")
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert "Your journal ann was made" in answer.text
    assert "Nothing was saved" not in answer.text
    assert 'action="/login"' in answer.text
    form = {"csrf": token_in(answer.text), "name": "ann", "password": PASSWORD}
    assert "Hello, ann" in ann.client.post("/login", data=form).text


def test_ending_a_session_from_the_settings(journal: TestJournal) -> None:
    here = journal.member("ann")
    there = journal.visitor("ann")
    there.log_in()
    assert here.get("/settings").text.count("/end") == 2
    here.send("/settings/sessions/2/end")
    assert "Hello, ann" not in there.get("/").text
    eve = journal.member("eve")
    eve.send("/settings/sessions/1/end")  # her own number 1, not ann's
    assert "Hello, ann" in here.get("/").text


def test_unknown_names_and_wrong_passwords_look_alike(journal: TestJournal) -> None:
    journal.member("ann")
    answers = [journal.visitor(name).log_in("wrong password") for name in ("ann", "nobody")]
    assert [answer.status_code for answer in answers] == [422, 422]
    assert "don&#39;t belong together" in answers[0].text
    blank = [a.text.replace("ann", "").replace("nobody", "") for a in answers]
    tokens = [page.split('name="csrf" value="')[1][:64] for page in blank]
    assert blank[0].replace(tokens[0], "") == blank[1].replace(tokens[1], "")


@pytest.mark.parametrize(
    ("name", "password", "again", "message"),
    [
        ("Ann Lee", PASSWORD, PASSWORD, "1 to 25 of the letters"),
        ("", PASSWORD, PASSWORD, "1 to 25 of the letters"),
        ("x" * 26, PASSWORD, PASSWORD, "1 to 25 of the letters"),
        ("ann", "short", "short", "at least 8 characters"),
        ("ann", PASSWORD, PASSWORD + "x", "differ"),
        ("ann", "x" * 201, "x" * 201, "at most 200"),
        ("taken", PASSWORD, PASSWORD, "has the name taken already"),
    ],
)
def test_sign_ups_that_fail(
    journal: TestJournal, name: str, password: str, again: str, message: str
) -> None:
    journal.member("taken")
    fields = {"name": name, "password": password, "again": again}
    answer = journal.visitor().send("/signup", fields, page="/signup")
    assert answer.status_code == 422
    assert message in answer.text
    assert password not in answer.text


@pytest.mark.parametrize(
    ("wanted", "where"),
    [
        ("/~ann/3", "/~ann/3"),
        ("//evil.example/", "/"),
        ("https://evil.example/", "/"),
        ("/\\evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("/\nx", "/"),
    ],
)
def test_after_logging_in_one_stays_on_the_site(
    journal: TestJournal, wanted: str, where: str
) -> None:
    journal.member("ann")
    answer = journal.visitor().send(
        "/login",
        {"name": "ann", "password": PASSWORD, "next": wanted},
        page="/login",
        follow_redirects=False,
    )
    assert (answer.status_code, answer.headers["location"]) == (303, where)


def _fail(person: Person, times: int) -> list[int]:
    return [person.log_in("wrong password").status_code for _ in range(times)]


def test_guessing_is_slowed_down_and_locks_nobody_out(make_journal: MakeJournal) -> None:
    journal = make_journal(login_failures=3)
    home = journal.member("ann")
    home.send("/logout")
    attacker = journal.visitor("ann")  # from the same address, as behind one proxy
    assert _fail(attacker, 4) == [422, 422, 422, 429]
    refused = attacker.log_in()
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) > 0
    assert home.log_in().status_code == 200  # the browser that has been here before
    other = journal.member("ben")
    other.send("/logout")
    assert other.log_in().status_code == 200  # another name from that address


@pytest.mark.parametrize("patience_s", [30.0, 0.05])
def test_a_crowd_of_log_ins_leaves_threads_for_other_pages(
    make_journal: MakeJournal, monkeypatch: pytest.MonkeyPatch, patience_s: float
) -> None:
    monkeypatch.setattr("lj_services.journal.app.HASH_WAIT_S", patience_s)
    journal = make_journal(threads=2, hash_slots=1)
    hashing, go_on = threading.Event(), threading.Event()

    def matches(*_: object) -> bool:
        hashing.set()
        assert go_on.wait(30)
        return False

    monkeypatch.setattr(journal.kit.accounts.passwords, "matches", matches)

    async def crowd() -> tuple[int, list[int]]:
        transport = httpx.ASGITransport(journal.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            form = {"name": "ann", "password": PASSWORD}
            form["csrf"] = token_in((await client.get("/login")).text)
            logging_in = [asyncio.create_task(client.post("/login", data=form)) for _ in range(6)]
            try:
                await asyncio.to_thread(hashing.wait, 30)
                front = await asyncio.wait_for(client.get("/"), 30)
                if patience_s < 1:  # all but the one that hashes are sent away
                    done = asyncio.as_completed(logging_in, timeout=30)
                    for refused in itertools.islice(done, 5):
                        assert (await refused).status_code == 503
            finally:
                go_on.set()
            answers = await asyncio.gather(*logging_in)
        return front.status_code, sorted(answer.status_code for answer in answers)

    front, logged_in = asyncio.run(crowd())
    assert front == 200
    assert logged_in == ([422] * 6 if patience_s > 1 else [422] + [503] * 5)


def test_what_can_not_be_right_pushes_no_count_out(
    make_journal: MakeJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lj_services.journal.throttle.MOST_PLACES", 3)
    journal = make_journal(login_failures=2)
    journal.member("ann")
    attacker = journal.visitor("ann")
    assert _fail(attacker, 2) == [422, 422]
    for number in range(5):
        assert journal.visitor(f"!{number}").log_in().status_code == 422
        assert journal.visitor(f"a{number}").log_in("x" * 1001).status_code == 422
    assert attacker.log_in().status_code == 429


def test_throttle_counts_and_forgets() -> None:
    now = 0.0
    throttle = Throttle(2, 60, clock=lambda: now)
    throttle.attempt("a", "ann")
    throttle.attempt("a", "ann")
    throttle.attempt("b", "ann")
    throttle.attempt("a", "ben")
    with pytest.raises(TooManyFailures):
        throttle.attempt("a", "ann")
    throttle.succeeded("a", "ben")
    now = 60.0
    throttle.attempt("a", "ann")


def test_throttle_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lj_services.journal.throttle.MOST_PLACES", 10)
    throttle = Throttle(2, 60)
    for number in range(100):
        throttle.attempt(str(number), "ann")
    assert len(throttle._counts) == 10


def test_places() -> None:
    cookie = device_cookie(KEY, "ann")
    assert place_of(KEY, "ann", cookie, "10.0.0.1").startswith("device ")
    for other in (cookie + "x", "x" + cookie, "", ".", None, cookie.split(".")[0]):
        assert place_of(KEY, "ann", other, "10.0.0.1") == "network 10.0.0.1"
    assert place_of(KEY, "ben", cookie, "10.0.0.1") == "network 10.0.0.1"
    assert network("2001:db8:1:2:3::4") == network("2001:db8:1:2::9") == "2001:db8:1:2::/64"
    assert network("testclient") == "testclient"
