"""What the README and the guides point at is there, and what is there is pointed at."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import click
import pytest

from lj_services.cli import main

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_COMMAND = re.compile(r"^(?:[$#] | {4})(?:\.venv/bin/)?lj (.+)$", re.MULTILINE)
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


def test_tours_of_packages_name_files_that_are_there() -> None:
    for root in ("lj_services", "disk_checker"):
        for tour in (ROOT / root).rglob("__init__.py"):
            text = ast.get_docstring(ast.parse(tour.read_text())) or ""
            named = re.findall(r"\b(?:[a-z_]+/)*[a-z_0-9]+\.py\b", text)
            folders = (tour.parent, ROOT / "lj_services")
            lost = [
                name
                for name in named
                if not any((folder / name).exists() for folder in folders)
                and not list(tour.parent.rglob(name))
            ]
            assert lost == [], tour


def shown(page: Path) -> Iterator[list[str]]:
    """The words of each command `lj` that a page shows, up to where the shell goes on."""
    for line in _COMMAND.findall(page.read_text().replace("\\\n", " ")):
        words = shlex.split(line, comments=True)
        yield list(takewhile(lambda word: word not in {"|", "&", "&&", ";", "<", ">"}, words))


def unknown(words: list[str]) -> str | None:
    """The first group, command or option that is none; None: all are."""
    command: click.Command = main
    rest = iter(words)
    for word in rest:
        if re.match("--?[a-z]", word):
            name = word.partition("=")[0]
            options = {"-h", "--help"}.union(
                *(each.opts + each.secondary_opts for each in command.params)
            )
            if name not in options and name[:2] not in options:
                return word
            if command is main and word == "--site":
                next(rest)
        elif isinstance(command, click.Group):
            found = command.get_command(click.Context(command), word)
            if found is None:
                return word
            command = found
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_are_shown_are_there(page: Path) -> None:
    assert [words for words in shown(page) if unknown(words) is not None] == []


def test_what_is_no_command_is_found() -> None:
    assert unknown(["--site", "x.toml", "users", "show", "bob", "--json"]) is None
    assert unknown(["users", "shows", "bob"]) == "shows"
    assert unknown(["users", "show", "bob", "--jsn"]) == "--jsn"
