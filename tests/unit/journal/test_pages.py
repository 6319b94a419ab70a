"""Pages: addresses, paging, threads, read-only users, databases that are away, ?debug=1."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from lj_services.database import DatabaseUnreachable
from lj_services.journal import comments
from lj_services.journal.comments import Branch
from lj_services.usercluster import UserBusy
from tests.support.journal import MakeJournal, TestJournal

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "path",
    [
        "/~nobody",
        "/~nobody/1",
        "/users/nobody",
        "/~nobody/feed",
        "/~ann/1",
        "/~ann/99999999999",
        "/~ann/x",
        "/nowhere",
        "/~a%20b",
        "/~%00",
        "/~" + "x" * 3000,
        "/static/../app.py",
        "/static/nothing.css",
    ],
)
def test_what_is_not_there(journal: TestJournal, path: str) -> None:
    journal.member("ann")
    answer = journal.visitor().get(path)
    assert answer.status_code == 404
    assert "Not here" in answer.text or path.startswith("/static")


def test_headers(journal: TestJournal) -> None:
    for path in ("/", "/nowhere", "/static/journal.css", "/health"):
        headers = journal.visitor().get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"


def test_methods(journal: TestJournal) -> None:
    visitor = journal.visitor()
    assert visitor.get("/logout").status_code == 405
    assert visitor.client.delete("/").status_code == 405
    assert visitor.client.head("/").status_code == 200


def test_old_addresses_lead_on(journal: TestJournal) -> None:
    journal.member("ann")
    answer = journal.visitor().get("/users/ann")
    assert answer.url.path == "/~ann"


def test_what_needs_a_log_in_leads_there_and_back(journal: TestJournal) -> None:
    answer = journal.visitor().get("/friends")
    assert str(answer.url).endswith("/login?next=%2Ffriends")
    assert 'value="/friends"' in answer.text


def test_paging_a_journal(make_journal: MakeJournal) -> None:
    journal = make_journal(page_size=2)
    ann = journal.member("ann")
    for number in range(5):
        ann.post(f"Post {number}.")
    first = ann.get("/~ann").text
    assert "Post 4." in first
    assert "Post 3." in first
    assert "Post 2." not in first
    second = ann.get("/~ann?before=4").text
    assert "Post 2." in second
    assert "Post 1." in second
    last = ann.get("/~ann?before=2").text
    assert "Older posts" not in last
    assert ann.get("/~ann?before=rubbish").text.count("Post 4.") == first.count("Post 4.")


def test_changing_and_deleting(journal: TestJournal) -> None:
    ann = journal.member("ann")
    postid = ann.post("Before")
    form = ann.get(f"/~ann/{postid}/edit").text
    assert 'value="Before"' in form
    ann.send(f"/~ann/{postid}/edit", {"subject": "After", "body": "x", "security": "public"})
    page = ann.get(f"/~ann/{postid}").text
    assert "After" in page
    assert "changed" in page
    assert "can't be brought back" in ann.get(f"/~ann/{postid}/delete").text
    ann.send(f"/~ann/{postid}/comments", {"body": "A comment"})
    ann.send(f"/~ann/{postid}/delete")
    assert ann.get(f"/~ann/{postid}").status_code == 404
    assert ann.post("Another") > postid


def test_threads(journal: TestJournal) -> None:
    ann, ben = journal.member("ann"), journal.member("ben", cluster=1)
    postid = ann.post("S")
    path = f"/~ann/{postid}/comments"
    ben.send(path, {"body": "First"})
    ann.send(path, {"body": "Answer", "parent": "1"})
    ben.send(path, {"body": "Second"})
    page = ben.get(f"/~ann/{postid}").text
    assert page.index("First") < page.index("Answer") < page.index("Second")
    assert 'id="c2" class="depth-1"' in page
    assert "3 comments" in page
    reply = ben.get(f"/~ann/{postid}?reply=2").text
    assert 'name="parent" value="2"' in reply
    eve = journal.member("eve")
    assert eve.send(f"{path}/1/delete").status_code == 403
    ben.send(f"{path}/1/delete")
    page = ann.get(f"/~ann/{postid}").text
    assert "First" not in page
    assert "Answer" in page
    assert "2 comments" in page
    refused = ann.send(path, {"body": "Too late", "parent": "1"})
    assert refused.status_code == 422
    assert "has been deleted" in refused.text
    assert "Too late" in refused.text
    ann.send(f"{path}/3/delete")  # the journal's owner may, too
    assert "1 comment<" in ann.get("/~ann").text


def test_a_post_takes_only_so_many_comments(make_journal: MakeJournal) -> None:
    journal = make_journal(max_comments=2)
    ann = journal.member("ann")
    path = f"/~ann/{ann.post('S')}/comments"
    for _ in range(2):
        assert ann.send(path, {"body": "More"}).status_code == 200
    refused = ann.send(path, {"body": "One too many"})
    assert "takes no more" in refused.text
    assert "One too many" in refused.text


def test_order_of_deep_and_odd_threads() -> None:
    deep = [Branch(n, n - 1) for n in range(1, 5001)]
    assert [c for c, _ in comments._in_order(deep)] == list(range(1, 5001))
    odd = [Branch(1, 99), Branch(2, 2), Branch(3, 4), Branch(4, 1)]
    assert comments._in_order(odd) == [(1, 0), (4, 1), (2, 0), (3, 0)]
    pages = comments._paginate(comments._in_order(deep), 100)
    assert max(map(len, pages)) == 1000
    assert sum(map(len, pages)) == 5000


def test_pages_of_comments(make_journal: MakeJournal) -> None:
    journal = make_journal(thread_page_size=2)
    ann = journal.member("ann")
    postid = ann.post("S")
    for number in range(5):
        ann.send(f"/~ann/{postid}/comments", {"body": f"Comment {number}."})
    assert "Comment 4." not in ann.get(f"/~ann/{postid}").text
    assert "Comment 4." in ann.get(f"/~ann/{postid}?page=3").text
    assert "Comment 4." in ann.get(f"/~ann/{postid}?page=999").text


def test_read_only_is_a_notice_and_no_error(journal: TestJournal) -> None:
    ann, ben = journal.member("ann"), journal.member("ben")
    postid = ann.post("S")
    journal.users.set_readonly(journal.user(ann).userid, True)
    for path in ("/", "/friends", "/~ann", "/post"):
        page = ann.get(path)
        assert page.status_code == 200
        assert "read-only for a moment" in page.text
    refused = ann.send("/post", {"subject": "S2", "body": "Kept text", "security": "public"})
    assert refused.status_code == 403
    assert "Kept text" in refused.text
    page = ben.get(f"/~ann/{postid}")
    assert page.status_code == 200
    assert "can be read, but not commented on" in page.text
    refused = ben.send(f"/~ann/{postid}/comments", {"body": "Kept comment"})
    assert refused.status_code == 403
    assert "Kept comment" in refused.text
    assert "Logged out" in ann.send("/logout").text
    assert "Hello" not in ann.get("/").text
    journal.users.set_readonly(journal.user(ann).userid, False)
    assert ben.send(f"/~ann/{postid}/comments", {"body": "Now"}).status_code == 200


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UserBusy("moving"), 503),
        (DatabaseUnreachable("away"), 503),
        (RuntimeError("bug <script>"), 500),
    ],
)
def test_what_goes_wrong_keeps_the_text(
    journal: TestJournal,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ann = journal.member("ann")

    def fail(*_: Any, **__: Any) -> None:
        raise error

    token = ann.token()
    monkeypatch.setattr(journal.users, "writing", fail)
    with caplog.at_level(logging.ERROR):
        answer = ann.client.post(
            "/post", data={"csrf": token, "subject": "S", "body": "Kept", "security": "public"}
        )
    assert answer.status_code == status
    assert "Kept" in answer.text
    assert "bug" not in answer.text
    assert ("Retry-After" in answer.headers) == (status == 503)


def test_a_cluster_that_is_away_takes_only_its_users_away(
    make_journal: MakeJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = make_journal(cached=False)
    ann = journal.member("ann", cluster=1)
    ben, eve = journal.member("ben", cluster=1), journal.member("eve", cluster=2)
    for other in (ben, eve):
        ann.befriend(other)
        other.post(f"By {other.name}.")
    real = journal.site.databases.read

    def read(role: str, **kwargs: Any) -> Any:
        if role == "cluster2":
            raise DatabaseUnreachable("cluster2 is away")
        return real(role, **kwargs)

    monkeypatch.setattr(journal.site.databases, "read", read)
    page = ann.get("/friends")
    assert page.status_code == 200
    assert "By ben." in page.text
    assert "By eve." not in page.text
    assert "can't be shown at this moment" in page.text
    assert ann.get("/~eve").status_code == 503
    assert eve.get("/").status_code == 503


def test_debug_tells_the_owner_alone_who_answered(journal: TestJournal) -> None:
    ann, ben = journal.member("ann", cluster=2), journal.member("ben", cluster=1)
    ann.befriend(ben)
    ben.post("S")
    ann.get("/friends")
    page = ann.get("/friends?debug=1").text
    assert journal.cache is not None
    assert "ann lives on cluster 2" in page
    assert "cluster2 (ann): " in page
    assert f"cache {journal.cache.servers[0]}: " in page
    assert "1 hit" in page or "2 hit" in page
    assert "Who answered" not in ann.get("/friends").text
    assert "Who answered" in ann.get("/~ann?debug=1").text
    assert "Who answered" not in ben.get("/~ann?debug=1").text
    assert "Who answered" not in journal.visitor().get("/~ann?debug=1").text


def test_figures_are_by_route(journal: TestJournal) -> None:
    from prometheus_client import REGISTRY

    def count(route: str, status: str) -> float:
        labels = {"route": route, "method": "GET", "status": status}
        return REGISTRY.get_sample_value("lj_journal_requests_total", labels) or 0

    before = count("/~{name}", "404"), count("other", "404")
    journal.visitor().get("/~one")
    journal.visitor().get("/~two")
    journal.visitor().get("/nowhere")
    assert (count("/~{name}", "404"), count("other", "404")) == (before[0] + 2, before[1] + 1)


def test_the_secret(tmp_path: Any, make_journal: MakeJournal) -> None:
    from lj_services.daemon import ConfigError

    file = tmp_path / "secret"
    with pytest.raises(ConfigError, match=r"secret_file.*No such file.*openssl rand"):
        make_journal(secret_file=file)
    file.write_text("short")
    with pytest.raises(ConfigError, match="5 bytes, 32 is the least"):
        make_journal(secret_file=file)
    file.write_text("x" * 64)
    one, two = make_journal(secret_file=file), make_journal(secret_file=file)
    assert one.kit.secret == two.kit.secret
