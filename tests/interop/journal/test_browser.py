"""The running site in Debian's Chromium, as a person uses it; with and without JavaScript."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.support.browser import PASSWORD, complaints, sign_up
from tests.support.journal import Person
from tests.support.journal_site import RunningSite, keep, running_site, sqlite_urls
from tests.support.memcached import Start

pytestmark = [pytest.mark.interop, pytest.mark.browser]

NUMBERS = itertools.count(1)
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, our_memcached: Start) -> Iterator[RunningSite]:
    folder = tmp_path_factory.mktemp("site")
    caches = [our_memcached(f"memory_limit={size}m").port for size in (64, 65)]
    with running_site(folder, sqlite_urls(folder), caches) as running:
        yield running


@pytest.fixture(params=[True, False], ids=["javascript", "no-javascript"])
def context(
    request: pytest.FixtureRequest, browser: Browser, site: RunningSite
) -> Iterator[BrowserContext]:
    opened = browser.new_context(base_url=site.url, java_script_enabled=request.param)
    yield opened
    opened.close()


def test_two_friends(context: BrowserContext, browser: Browser, site: RunningSite) -> None:
    page = context.new_page()
    wrong = complaints(page)
    number = next(NUMBERS)
    ann, ben = f"ann{number}", f"ben{number}"
    sign_up(page, ann)
    page.get_by_role("banner").get_by_role("link", name="Write").click()
    page.get_by_label("Subject").fill("Rain, at last")
    page.get_by_label("Text").fill("It rained <all> day.\n\nSee https://weather.example/today.")
    page.get_by_label("Current mood").fill("cosy")
    page.get_by_label("My friends").check()
    page.get_by_role("button", name="Publish").click()
    expect(page.get_by_role("heading", name="Rain, at last")).to_be_visible()
    expect(page.get_by_text("It rained <all> day.")).to_be_visible()
    expect(page.get_by_text("friends only")).to_be_visible()
    expect(page.get_by_role("link", name="https://weather.example/today")).to_be_visible()
    address = page.url

    others = browser.new_context(base_url=site.url, java_script_enabled=False)
    other = others.new_page()
    sign_up(other, ben)
    other.goto(address)
    expect(other.get_by_role("heading", name="Not here")).to_be_visible()
    other.goto(f"/~{ann}")
    other.get_by_role("button", name="Add as a friend").click()
    page.goto(f"/~{ben}")
    page.get_by_role("button", name="Add as a friend").click()
    other.get_by_role("link", name="Friends page").click()
    other.get_by_role("link", name="Rain, at last").click()
    other.get_by_label("Your comment").fill("Here, too!")
    other.get_by_role("button", name="Comment").click()
    page.goto(address)
    page.get_by_role("link", name=f"Answer {ben}").click()
    page.get_by_label("Your answer").fill("How nice.")
    page.get_by_role("button", name="Answer", exact=True).click()
    expect(page.get_by_role("heading", name="2 comments")).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("banner").get_by_role("link", name="Log in")).to_be_visible()
    others.close()
    assert wrong == []


def test_an_overlong_subject_loses_nothing(context: BrowserContext) -> None:
    page = context.new_page()
    sign_up(page, f"long{next(NUMBERS)}")
    page.goto("/post")
    page.get_by_label("Subject").fill("long " * 50)
    page.get_by_label("Text").fill("\n  Every word counts.")
    page.get_by_role("button", name="Publish").click()
    expect(page.get_by_role("alert")).to_contain_text("200 is the most")
    expect(page.get_by_label("Text")).to_have_value("Every word counts.")
    page.get_by_label("Subject").fill("Short")
    page.get_by_role("button", name="Publish").click()
    expect(page.get_by_role("heading", name="Short")).to_be_visible()


def test_a_megabyte_in_a_form_is_a_page_that_explains(context: BrowserContext) -> None:
    page = context.new_page()
    sign_up(page, f"large{next(NUMBERS)}")
    page.goto("/post")
    # Typing it would take the browser half a minute.
    page.get_by_label("Text").evaluate("field => { field.value = 'x'.repeat(1 << 20); }")
    page.get_by_role("button", name="Publish").click()
    expect(page.get_by_role("heading", name="That is too much at once")).to_be_visible()


STORIES = [
    (
        "marigold",
        "public",
        "The bakery on Elm Street is back",
        "The old sign is gone, but the cinnamon rolls are exactly as I remember them.  I had two.  "
        "The owner remembered me, which was the better half of it.\n\nWho is coming on Saturday?",
        "nostalgic",
        "Feist, “Mushaboom”",
    ),
    (
        "tobias_k",
        "friends",
        "New job, first week",
        "Nobody has asked me to print anything yet.  The coffee machine has a name (Gerald), and a "
        "queue.  More when I know whose desk this was.",
        "hopeful",
        "",
    ),
    (
        "northern_wren",
        "public",
        "Forty minutes of fog",
        "Then, for perhaps ninety seconds, the whole valley.  I did not take a picture.  Some "
        "notes on the route: https://walks.example/fog",
        "quiet",
        "the kettle",
    ),
]
COMMENTS = ["Two is the correct number.", "Saturday! Save me a corner piece."]


@pytest.fixture(scope="module")
def believable(site: RunningSite) -> Person:
    """A reader whose friends have written something."""
    reader = site.person("juniper").sign_up(PASSWORD)
    for name, security, subject, body, mood, music in reversed(STORIES):
        writer = site.person(name).sign_up(PASSWORD)
        fields = {
            "subject": subject,
            "body": body,
            "security": security,
            "mood": mood,
            "music": music,
        }
        answer = writer.send("/post", fields)
        writer.befriend(reader)
        reader.befriend(writer)
        if name == "marigold":
            for text in COMMENTS:
                reader.send(f"{answer.url.path}/comments", {"body": text})
            writer.send(
                f"{answer.url.path}/comments", {"body": "They go fast, mind.", "parent": "2"}
            )
    return reader


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, {"width": 1080, "height": 900}], ids=["phone", "desktop"])
def test_pictures(
    browser: Browser,
    site: RunningSite,
    believable: Person,
    tmp_path: Path,
    scheme: str,
    size: dict[str, int],
) -> None:
    context = browser.new_context(
        base_url=site.url,
        viewport=size,
        color_scheme=scheme,  # type: ignore[arg-type]
    )
    cookie = believable.client.cookies["lj_session"]
    context.add_cookies([{"name": "lj_session", "value": cookie, "url": site.url}])
    page = context.new_page()
    wrong = complaints(page)
    device = "phone" if size is PHONE else "desktop"
    post = "/~marigold/1?reply=1"
    for name, path in (
        ("friends", "/friends"),
        ("post", post),
        ("write", "/post"),
        ("journal", "/~marigold"),
        ("front", "/"),
        ("settings", "/settings"),
        ("debug", "/friends?debug=1"),
    ):
        page.goto(path)
        # Nothing may stick out to the side: a phone would have to scroll in two directions.
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= size["width"], (path, width)
        file = tmp_path / f"{name}.png"
        page.screenshot(path=file, full_page=True)
        kept = keep(file, f"journal-{name}-{device}-{scheme}.png")
        assert kept.stat().st_size > 5_000
    context.clear_cookies()
    for name, path in (("signup", "/signup"), ("welcome", "/"), ("missing", "/~nobody")):
        page.goto(path)
        file = tmp_path / f"{name}.png"
        page.screenshot(path=file, full_page=True)
        keep(file, f"journal-{name}-{device}-{scheme}.png")
    assert [text for text in wrong if "404" not in text] == []
    context.close()


def test_picture_of_the_readme(
    browser: Browser, site: RunningSite, believable: Person, tmp_path: Path
) -> None:
    context = browser.new_context(base_url=site.url, viewport={"width": 900, "height": 820})
    cookie = believable.client.cookies["lj_session"]
    context.add_cookies([{"name": "lj_session", "value": cookie, "url": site.url}])
    page = context.new_page()
    page.goto("/friends")
    page.screenshot(path=tmp_path / "readme.png")
    assert keep(tmp_path / "readme.png", "journal.png").stat().st_size < 150_000
    context.close()


def contrast(page: Page, selector: str) -> tuple[float, str]:
    """The lowest contrast of text that matches, as WCAG 2 counts it, and the element."""
    script = """selector => {
      const curve = s => s <= .03928 ? s / 12.92 : ((s + .055) / 1.055) ** 2.4;
      const light = c => curve(c / 255);
      const rgb = t => t.match(/[\\d.]+/g).map(Number);
      const lum = c => .2126 * light(c[0]) + .7152 * light(c[1]) + .0722 * light(c[2]);
      let worst = [21, ""];
      for (const e of document.querySelectorAll(selector)) {
        if (!e.getClientRects().length) continue;
        let b = e;
        while (b && (rgb(getComputedStyle(b).backgroundColor)[3] ?? 1) === 0) b = b.parentElement;
        const back = b ? rgb(getComputedStyle(b).backgroundColor) : [255, 255, 255];
        const [x, y] = [lum(rgb(getComputedStyle(e).color)), lum(back)];
        const found = (Math.max(x, y) + .05) / (Math.min(x, y) + .05);
        if (found < worst[0]) worst = [found, e.outerHTML];
      }
      return worst;
    }"""
    lowest, element = page.evaluate(script, selector)
    return float(lowest), str(element)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(browser: Browser, site: RunningSite, believable: Person, scheme: str) -> None:
    context = browser.new_context(base_url=site.url, color_scheme=scheme)  # type: ignore[arg-type]
    cookie = believable.client.cookies["lj_session"]
    context.add_cookies([{"name": "lj_session", "value": cookie, "url": site.url}])
    page = context.new_page()
    for path in ("/friends", "/~marigold/1", "/post", "/settings", "/"):
        page.goto(path)
        text = "a, p, h1, h2, li, dt, dd, label, legend, button, time, span, input, textarea"
        lowest, element = contrast(page, text)
        assert lowest >= 4.5, (path, element)
    context.close()
