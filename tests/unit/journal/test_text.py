"""Plain text in, HTML out: nothing that a user writes is markup."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lj_services.journal import looks
from lj_services.journal.text import clean, excerpt, to_html

pytestmark = pytest.mark.unit


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs


NASTY = st.lists(
    st.sampled_from(
        [
            "<script>",
            "</p>",
            '"',
            "'",
            "&",
            "http://",
            "https://a.b/",
            " onload=",
            "javascript:",
            "\n\n",
            "\n",
            "<img src=x>",
            "x",
            ")",
            "(",
            "&lt;",
            "\u202e",
            " ",
            'http://a"b',
        ]
    )
)


@given(NASTY.map("".join) | st.text())
def test_only_our_own_tags(text: str) -> None:
    parser = Tags()
    parser.feed(str(to_html(text)))
    assert parser.tags <= {"p", "br", "a"}
    for name, value in parser.attributes:
        assert name in {"href", "rel"}
        if name == "href":
            assert value is not None
            assert value.lower().startswith(("http://", "https://"))


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a\nb", "<p>a<br>\nb</p>"),
        ("a\n\n\nb", "<p>a</p>\n<p>b</p>"),
        ("<b>&", "<p>&lt;b&gt;&amp;</p>"),
        ("", ""),
        ("javascript:alert(1)", "<p>javascript:alert(1)</p>"),
    ],
)
def test_paragraphs(text: str, html: str) -> None:
    assert str(to_html(text)) == html


@pytest.mark.parametrize(
    ("text", "link", "rest"),
    [
        ("see http://a.example/x.", "http://a.example/x", "."),
        ("(https://a.example/b_(c))", "https://a.example/b_(c)", ")"),
        ("https://a.example/x)]!)", "https://a.example/x", ")]!)"),
        ("https://a.example/(x.)...", "https://a.example/(x.)", "..."),
        ("https://a.example/?q=1&r=2!", "https://a.example/?q=1&amp;r=2", "!"),
    ],
)
def test_links(text: str, link: str, rest: str) -> None:
    assert f'<a href="{link}" rel="nofollow ugc noopener noreferrer">{link}</a>{rest}' in to_html(
        text
    )


def test_clean() -> None:
    assert clean(" a\x00b\r\n\tc\ud800 ") == "ab c"
    assert clean("a\r\nb\rc\x07\n", lines=True) == "a\nb\nc"


def test_excerpt() -> None:
    assert excerpt("short", 10) == ("short", False)
    assert excerpt("some words here", 12) == ("some words …", True)
    assert excerpt("x" * 30, 10) == ("x" * 10 + " …", True)


@pytest.mark.parametrize(
    ("user_agent", "shown"),
    [
        (
            "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
            "Firefox on Linux",
        ),
        (
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
            "Chrome/126.0.0.0 Safari/537.36 Edg/126.0.0.0",
            "Edge on Windows",
        ),
        (
            "Mozilla/5.0 (Linux; Android 14) AppleWebKit/537.36 (KHTML, like Gecko) "
            "Chrome/126.0.0.0 Mobile Safari/537.36",
            "Chrome on Android",
        ),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 "
            "(KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1",
            "Safari on an iPhone",
        ),
        ("curl/8.9.1", "curl"),
        ("", "A browser"),
    ],
)
def test_a_browser_has_a_name_that_people_know(user_agent: str, shown: str) -> None:
    assert looks.browser(user_agent) == shown
