"""Debian's Chromium, and what people do with the sample site in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser; each test opens contexts of its own."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGS)
        yield opened
        opened.close()


def complaints(page: Page) -> list[str]:
    """What the browser has to complain about on this page from now on (CSP, missing files)."""
    found: list[str] = []
    page.on("console", lambda message: found.append(message.text))
    page.on("pageerror", lambda error: found.append(str(error)))
    return found


def sign_up(page: Page, name: str) -> None:
    """Start a journal, from the front page on."""
    page.goto("/")
    page.get_by_role("main").get_by_role("link", name="Start a journal").click()
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("The same once more").fill(PASSWORD)
    page.get_by_role("button", name="Start my journal").click()
    expect(page.get_by_role("heading", name=f"Hello, {name}")).to_be_visible()


def publish(page: Page, subject: str, body: str) -> str:
    """Write a post; returns its address once it is shown."""
    page.get_by_role("banner").get_by_role("link", name="Write").click()
    page.get_by_label("Subject").fill(subject)
    page.get_by_label("Text").fill(body)
    page.get_by_role("button", name="Publish").click()
    expect(page.get_by_role("heading", name=subject, exact=True)).to_be_visible()
    return page.url
