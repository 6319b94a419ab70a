"""A journal as an Atom feed.

Source: RFC 4287 (Atom), RFC 4151 (tag URIs: ids that outlive a change of address).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import urlsplit
from xml.etree import ElementTree

from lj_services.journal.posts import Post
from lj_services.usercluster import User

ATOM = "http://www.w3.org/2005/Atom"
NEVER_MS = 1_167_609_600_000
"""When a journal without posts says it changed last: a feed must say something."""

ElementTree.register_namespace("", ATOM)


def atom(url: str, owner: User, title: str, posts: Sequence[Post]) -> bytes:
    """The feed document.

    Args:
        url: address of the site's front page.
        owner: whose journal.
        title: of the journal.
        posts: public ones, newest first.
    """
    home = f"{url}/~{owner.name}"
    root = ElementTree.Element(f"{{{ATOM}}}feed")
    _add(root, "id", _tag(url, owner.userid))
    _add(root, "title", title)
    _add(root, "updated", _time(max((post.changed_ms for post in posts), default=NEVER_MS)))
    _link(root, "self", f"{home}/feed", "application/atom+xml")
    _link(root, "alternate", home, "text/html")
    author = ElementTree.SubElement(root, f"{{{ATOM}}}author")
    _add(author, "name", owner.name)
    _add(author, "uri", home)
    for post in posts:
        entry = ElementTree.SubElement(root, f"{{{ATOM}}}entry")
        _add(entry, "id", _tag(url, owner.userid, post.postid))
        _add(entry, "title", post.subject or f"{owner.name}, {_time(post.posted_ms)[:10]}")
        _add(entry, "published", _time(post.posted_ms))
        _add(entry, "updated", _time(post.changed_ms))
        _link(entry, "alternate", f"{home}/{post.postid}", "text/html")
        content = _add(entry, "content", _xml_text(str(post.html)))
        content.set("type", "html")
    document: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return document


def entity_tag(document: bytes) -> str:
    """A strong validator for conditional requests."""
    return f'"{hashlib.sha256(document).hexdigest()[:32]}"'


def _add(parent: ElementTree.Element, name: str, text: str) -> ElementTree.Element:
    element = ElementTree.SubElement(parent, f"{{{ATOM}}}{name}")
    element.text = _xml_text(text)
    return element


def _link(parent: ElementTree.Element, rel: str, href: str, kind: str) -> None:
    ElementTree.SubElement(parent, f"{{{ATOM}}}link", rel=rel, href=href, type=kind)


def _tag(url: str, userid: int, postid: int | None = None) -> str:
    host = urlsplit(url).hostname or "localhost"
    what = f"journal:{userid}" if postid is None else f"journal:{userid}:{postid}"
    return f"tag:{host},2007:{what}"


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds")


def _xml_text(text: str) -> str:
    """Without the two characters that XML 1.0 has no way to write (others are cleaned before)."""
    return text.replace("\ufffe", "").replace("\uffff", "")
