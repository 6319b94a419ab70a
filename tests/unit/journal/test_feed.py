"""The feed, checked against the rules of RFC 4287."""

from __future__ import annotations

from datetime import datetime
from xml.etree import ElementTree

import pytest

from tests.support.journal import TestJournal

pytestmark = pytest.mark.unit

ATOM = "{http://www.w3.org/2005/Atom}"


def parse(document: bytes) -> ElementTree.Element:
    """The feed's root, after the checks that hold for every feed."""
    root = ElementTree.fromstring(document)
    assert root.tag == f"{ATOM}feed"
    for element in (root, *root.findall(f"{ATOM}entry")):
        for name in ("id", "title", "updated"):  # 4.1.1, 4.1.2: exactly one of each
            assert len(element.findall(f"{ATOM}{name}")) == 1, name
        assert element.findtext(f"{ATOM}id", "").startswith("tag:testserver,2007:")
        for name in ("updated", "published"):
            for time in element.findall(f"{ATOM}{name}"):
                assert datetime.fromisoformat(time.text or "").tzinfo is not None
        alternates = [
            link for link in element.findall(f"{ATOM}link") if link.get("rel") == "alternate"
        ]
        assert len(alternates) == 1
        assert (alternates[0].get("href") or "").startswith("http://testserver/~ann")
    assert root.find(f"{ATOM}author/{ATOM}name") is not None
    assert root.find(f"{ATOM}link[@rel='self']") is not None
    return root


def test_an_empty_feed(journal: TestJournal) -> None:
    journal.member("ann")
    answer = journal.visitor().get("/~ann/feed")
    assert answer.headers["content-type"].startswith("application/atom+xml")
    assert parse(answer.content).findtext(f"{ATOM}title") == "ann"


def test_entries(journal: TestJournal) -> None:
    ann = journal.member("ann")
    first = ann.post("First & <best>", body="One\n\ntwo https://a.example/ \ufffe]]>")
    ann.post("", body="No subject")
    root = parse(journal.visitor().get("/~ann/feed").content)
    entries = root.findall(f"{ATOM}entry")
    assert [entry.findtext(f"{ATOM}id", "").rsplit(":", 1)[1] for entry in entries] == ["2", "1"]
    assert entries[1].findtext(f"{ATOM}title") == "First & <best>"
    content = entries[1].find(f"{ATOM}content")
    assert content is not None
    assert content.get("type") == "html"
    assert (content.text or "").startswith("<p>One</p>\n<p>two <a href=")
    assert entries[0].findtext(f"{ATOM}title", "").startswith("ann, 20")
    ann.send(f"/~ann/{first}/edit", {"subject": "Changed", "body": "x", "security": "public"})
    changed = parse(journal.visitor().get("/~ann/feed").content).findall(f"{ATOM}entry")[1]
    assert changed.findtext(f"{ATOM}updated", "") >= changed.findtext(f"{ATOM}published", "")
    assert changed.findtext(f"{ATOM}id") == entries[1].findtext(f"{ATOM}id")


def test_a_feed_that_has_not_changed_is_not_sent_again(journal: TestJournal) -> None:
    ann = journal.member("ann")
    ann.post("S")
    visitor = journal.visitor()
    tag = visitor.get("/~ann/feed").headers["etag"]
    again = visitor.get("/~ann/feed", headers={"if-none-match": tag})
    assert (again.status_code, again.content) == (304, b"")
    ann.post("S2")
    assert visitor.get("/~ann/feed", headers={"if-none-match": tag}).status_code == 200
