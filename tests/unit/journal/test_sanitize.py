"""What workers leave of the HTML of posts, and who loads the library for it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lj_services.daemon import HostPort
from lj_services.gearman.worker import Job
from lj_services.gearman.worker_link import Assignment
from lj_services.journal.sanitize import clean_html
from lj_services.journal.text import plain

pytestmark = pytest.mark.unit


def cleaned(html: str) -> str:
    assignment = Assignment(b"H:1", b"journal.clean_html", b"", html.encode())
    return clean_html(Job(HostPort("a", 1), assignment, lambda *_: None))


@pytest.mark.parametrize(
    ("html", "left"),
    [
        ("<b>bold</b> <em>and</em>", "<b>bold</b> <em>and</em>"),
        ("<p>open <i>tags", "<p>open <i>tags</i></p>"),
        ("1 < 2 & 3", "1 &lt; 2 &amp; 3"),
        ("<script>alert(1)</script>text", "text"),
        ("<style>p{}</style>text", "text"),
        ('<img src="https://x/y.png" onerror="a()">text', "text"),
        ('<p onclick="a()" style="x" class="y" id="z">text</p>', "<p>text</p>"),
        ("<svg><script>a()</script></svg>", ""),
        ("<iframe src=javascript:a()></iframe>text", "text"),
        ("<form action=/post><button>x</button></form>", "x"),
        ("<!-- hidden -->text", "text"),
    ],
)
def test_what_is_left(html: str, left: str) -> None:
    assert cleaned(html) == left


@pytest.mark.parametrize(
    "href",
    [
        "javascript:alert(1)",
        " java\nscript:alert(1)",
        "JaVaScRiPt:alert(1)",
        "data:text/html,<script>alert(1)</script>",
        "vbscript:x",
        "&#106;avascript:alert(1)",
    ],
)
def test_links_that_run_something(href: str) -> None:
    left = cleaned(f'<a href="{href}">x</a>')
    assert "href" not in left
    assert ">x</a>" in left


def test_links_are_marked_as_others_work() -> None:
    left = cleaned('<a href="https://example.com/?a=1&b=2" target="_top">x</a>')
    assert 'href="https://example.com/?a=1&amp;b=2"' in left
    assert 'rel="nofollow ugc noopener noreferrer"' in left
    assert "target" not in left


PIECES = st.sampled_from(
    ["<", ">", '"', "'", "&", "<p>", "</p>", "<a href=", "javascript:", "<script", "<svg/", "on",
     "load=", "<!--", "-->", "<![CDATA[", "]]>", "<style>", "<math>", "<mi>", "\0", "/", " ", "x"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=14).map("".join))
def test_cleaning_once_more_changes_nothing(html: str) -> None:
    """So nothing new comes to light when the cleaned text is read by another parser."""
    once = cleaned(html)
    assert cleaned(once) == once
    assert "<script" not in once.lower()


@given(st.lists(PIECES, max_size=10).map("".join), st.integers(0, 60))
def test_the_words_of_cleaned_html_have_no_tags(html: str, length: int) -> None:
    # A "<" that belongs to the words is one: it is shown as such, and told apart here.
    assert "<" not in plain(cleaned(html).replace("&lt;", "(")[:length])


def test_words_that_look_like_a_tag_are_kept() -> None:
    assert plain(cleaned("<svg/<p><![CDATA[<p>")) == "<p>"


def test_the_sites_processes_do_not_load_the_library() -> None:
    script = (
        "import lj_services.cli.journal, lj_services.journal.server, sys;"
        "print([name for name in sys.modules if 'nh3' in name or name.endswith('.sanitize')])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
