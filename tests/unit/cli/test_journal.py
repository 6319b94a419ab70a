"""``lj journal serve`` says why it can't start, with the exit code for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lj_services.cli import main
from tests.support.journal_site import RunningSite, sqlite_urls

pytestmark = pytest.mark.unit


def serve(site: RunningSite, *words: str) -> Result:
    return CliRunner().invoke(main, [*site.lj("journal", "serve", *words)[1:]])


def test_without_tables(tmp_path: Path) -> None:
    refused = serve(RunningSite(tmp_path, sqlite_urls(tmp_path)))
    assert refused.exit_code == 5
    assert "run `lj db migrate`" in refused.output


def test_without_a_secret(tmp_path: Path) -> None:
    site = RunningSite(tmp_path, sqlite_urls(tmp_path))
    site.migrate()
    refused = serve(site, "--set", f"secret_file={tmp_path}/nothing")
    assert refused.exit_code == 3
    assert "secret_file" in refused.output
    assert "openssl rand" in refused.output


def test_with_an_unknown_setting(tmp_path: Path) -> None:
    site = RunningSite(tmp_path, sqlite_urls(tmp_path))
    site.migrate()
    refused = serve(site, "--set", "page_sizes=3")
    assert refused.exit_code == 3
    assert "did you mean page_size?" in refused.output
