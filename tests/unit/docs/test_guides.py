"""What the README and the guides point at is there, and what is there is pointed at."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_LINK = re.compile(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"")


def links(page: Path) -> set[str]:
    """Where a page leads to inside the checkout."""
    found = {one or other for one, other in _LINK.findall(page.read_text())}
    return {link for link in found if not re.match(r"[a-z]+:", link)}


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_guide_is_listed() -> None:
    listed = links(ROOT / "docs" / "README.md")
    assert {page.name for page in PAGES[1:]} - {"README.md"} <= listed


def test_the_map_has_every_folder() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    folders = {path.split("/")[0] for path in tracked if "/" in path and path[0] != "."}
    readme = (ROOT / "README.md").read_text()
    assert folders <= {link.split("/")[0] for link in links(ROOT / "README.md")}
    for inventory in (ROOT / "inventory").iterdir():
        assert f"`{inventory.name}`" in readme
    for package in (ROOT / "lj_services").glob("*/__init__.py"):
        assert f"\n  {package.parent.name}/" in readme
        assert f"\n{package.parent.name} " in (ROOT / "lj_services" / "__init__.py").read_text()
