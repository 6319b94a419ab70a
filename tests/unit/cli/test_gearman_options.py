"""Which job servers commands ask when nobody names one."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from lj_services.cli import main
from tests.support.process import free_port
from tests.support.scripted_server import answering, serving

pytestmark = pytest.mark.unit


def run(*words: str) -> str:
    return CliRunner().invoke(main, list(words), env={"LJ_GEARMAN": ""}).output


def test_the_site_file_names_them(tmp_path: Path) -> None:
    with serving(answering(b"mail\t1\t0\t0\n.\n")) as server:
        site = tmp_path / "site.toml"
        site.write_text(
            f'[database.roles.global]\nwriter = "sqlite:///{tmp_path}/g.db"\n'
            f'[gearman]\nservers = ["127.0.0.1:{server.port}", "127.0.0.1:{free_port()}"]\n'
        )
        assert "mail" in run("--site", str(site), "gearman", "status")
        other = f"127.0.0.1:{free_port()}"
        assert other in run("--site", str(site), "gearman", "status", "--server", other)


def test_a_list_of_no_servers_is_refused(tmp_path: Path) -> None:
    site = tmp_path / "site.toml"
    site.write_text(
        f'[database.roles.global]\nwriter = "sqlite:///{tmp_path}/g.db"\n[gearman]\nservers = []\n'
    )
    assert "gearman.servers" in run("--site", str(site), "gearman", "status")
