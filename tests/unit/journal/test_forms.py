"""Forms: tokens, limits, and that nothing a visitor wrote is lost."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest
from starlette.requests import Request
from starlette.types import Message

from lj_services.journal import config
from lj_services.journal.errors import FormTooLarge
from lj_services.journal.forms import read_form
from tests.support.journal import PASSWORD, TestJournal, token_in

pytestmark = pytest.mark.unit

TEXT = 'Three hours of <typing> & "care"'
ESCAPED = "Three hours of &lt;typing&gt; &amp; &#34;care&#34;"


@pytest.mark.parametrize("token", [None, "", "0" * 64, "ü"])
def test_a_forged_form_is_refused_and_its_text_kept(
    journal: TestJournal, token: str | None
) -> None:
    ann = journal.member("ann")
    fields = {"subject": "S", "body": TEXT, "security": "public"}
    if token is not None:
        fields["csrf"] = token
    answer = ann.client.post("/post", data=fields)
    assert answer.status_code == 403
    assert "expired" in answer.text
    assert ESCAPED in answer.text
    assert "Nothing here" in journal.visitor().get("/~ann").text


def test_a_token_is_good_for_one_browser_and_one_session(journal: TestJournal) -> None:
    ann, ben = journal.member("ann"), journal.member("ben")
    fields = {"subject": "S", "body": "B", "security": "public"}
    assert ben.client.post("/post", data={**fields, "csrf": ann.token()}).status_code == 403
    before = ann.token()
    ann.send("/logout")
    assert ann.log_in().status_code == 200
    assert ann.client.post("/post", data={**fields, "csrf": before}).status_code == 403
    assert ann.client.post("/post", data={**fields, "csrf": ann.token()}).status_code == 200


def test_log_in_and_sign_up_need_a_token_too(journal: TestJournal) -> None:
    journal.member("ann")
    stranger = journal.visitor()
    fields = {"name": "ann", "password": PASSWORD}
    assert stranger.client.post("/login", data=fields).status_code == 403
    token = token_in(stranger.get("/login").text)
    other = journal.visitor()
    assert other.client.post("/login", data={**fields, "csrf": token}).status_code == 403
    assert stranger.client.post("/login", data={**fields, "csrf": token}).status_code == 200


@pytest.mark.parametrize(
    "path", ["/~ann/friend", "/logout", "/settings/password", "/~ann/1/delete"]
)
def test_every_form_needs_a_token(journal: TestJournal, path: str) -> None:
    journal.member("ann")
    assert journal.member("ben").client.post(path, data={"a": "b"}).status_code == 403


@pytest.mark.parametrize(
    ("field", "length"),
    [
        ("subject", config.MAX_SUBJECT),
        ("body", config.MAX_POST),
        ("mood", config.MAX_MOOD),
        ("music", config.MAX_MUSIC),
    ],
)
def test_lengths_of_a_post(journal: TestJournal, field: str, length: int) -> None:
    ann = journal.member("ann")
    fields = {"subject": "S", "body": TEXT, "security": "friends"}
    refused = ann.send("/post", {**fields, field: "\U0001f600" * (length + 1)})
    assert refused.status_code == 422
    assert f"{length + 1:,} characters; {length:,} is the most" in refused.text
    assert "\U0001f600" * (length + 1) in refused.text
    if field != "body":
        assert ESCAPED in refused.text
    assert 'value="friends" checked' in refused.text
    accepted = ann.send("/post", {**fields, field: "\U0001f600" * length})
    assert accepted.status_code == 200
    assert "\U0001f600" * length in accepted.text


def test_an_overlong_comment_is_kept_in_its_form(journal: TestJournal) -> None:
    ann = journal.member("ann")
    postid = ann.post("S")
    answer = ann.send(f"/~ann/{postid}/comments", {"body": "x" * (config.MAX_COMMENT + 1)})
    assert answer.status_code == 422
    assert "x" * (config.MAX_COMMENT + 1) in answer.text


def test_a_megabyte_in_a_field_is_a_clear_page(journal: TestJournal) -> None:
    ann = journal.member("ann")
    answer = ann.send("/post", {"subject": "S", "body": "x" * (1 << 20), "security": "public"})
    assert answer.status_code == 413
    assert "too much at once" in answer.text
    assert "768 kB" in answer.text
    assert answer.headers["connection"] == "close"


def test_an_endless_form_is_cut_off_and_not_kept_in_memory() -> None:
    sent = 0

    async def receive() -> Message:
        nonlocal sent
        sent += 1
        return {"type": "http.request", "body": bytes(65536), "more_body": True}

    request = Request(
        {
            "type": "http",
            "method": "POST",
            "headers": [(b"content-type", b"application/x-www-form-urlencoded")],
        },
        receive,
    )
    tracemalloc.start()
    with pytest.raises(FormTooLarge):
        asyncio.run(read_form(request, most=768 << 10, drain=8 << 20))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sent == 129
    assert peak < 3 << 20


def test_a_declared_length_over_the_limit_is_not_read(journal: TestJournal) -> None:
    answer = journal.visitor().client.post(
        "/login",
        content=b"a=b",
        headers={
            "content-type": "application/x-www-form-urlencoded",
            "content-length": "99999999999",
        },
    )
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data; boundary=x", b"--x--"),
        ("application/x-www-form-urlencoded", "body=ü".encode()),
        ("application/x-www-form-urlencoded", b"&".join(b"a%d=1" % n for n in range(99))),
    ],
)
def test_what_is_no_form(journal: TestJournal, kind: str, body: bytes) -> None:
    ann = journal.member("ann")
    answer = ann.client.post("/post", content=body, headers={"content-type": kind})
    assert answer.status_code == 400
    assert "no form" in answer.text


SQL = ["'; DROP TABLE post; --", '" OR 1=1 --', "%' UNION SELECT * FROM login --", "\\'; --"]


@pytest.mark.parametrize("fragment", SQL)
def test_sql_is_text(journal: TestJournal, fragment: str) -> None:
    ann = journal.member("ann")
    ann.post(fragment, body=fragment)
    assert ann.send("/settings/profile", {"title": fragment, "about": fragment}).status_code == 200
    wrong = journal.visitor(fragment).log_in(fragment)
    assert wrong.status_code == 422
    page = journal.visitor().get("/~ann")
    assert page.status_code == 200
    assert page.text.count(fragment.replace("'", "&#39;").replace('"', "&#34;")) >= 2


MARKUP = '<script>alert("x")</script>'


def test_markup_is_text_everywhere(journal: TestJournal) -> None:
    ann, ben = journal.member("ann"), journal.member("ben")
    ben.befriend(ann)
    answer = ann.send(
        "/post",
        {"subject": MARKUP, "body": MARKUP, "mood": MARKUP, "music": MARKUP, "security": "public"},
    )
    path = answer.url.path
    ben.send(f"{path}/comments", {"body": MARKUP})
    ann.send("/settings/profile", {"title": MARKUP, "about": MARKUP})
    ann.send("/post", {"subject": MARKUP * 20, "body": MARKUP, "security": "public"})
    pages = [
        path,
        "/~ann",
        "/~ann/profile",
        "/friends",
        "/",
        f"{path}/delete",
        "/settings",
        f"{path}/edit",
        f"/login?next={MARKUP}",
        f"/~{MARKUP}",
        f"{path}?reply={MARKUP}",
    ]
    for person in (ann, ben, journal.visitor()):
        for page in pages:
            assert "<script" not in person.get(page).text, page
    assert "<script" not in ann.get("/~ann/feed").text
