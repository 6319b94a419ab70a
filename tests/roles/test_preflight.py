"""What can't work is refused before anything is changed, with what to set."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.support.box import Box

pytestmark = [pytest.mark.roles, pytest.mark.timeout(900)]
SITE = "playbooks/site.yml"


def test_a_check_of_a_fresh_box_tells_and_changes_nothing(fresh: Box, tmp_path: Path) -> None:
    run = fresh.play(SITE, "--check", "--diff", lj_control_dir=str(tmp_path))
    assert run.exit_code == 0, run.output
    assert "runtime : Build wheels of the kit and of everything it depends on" in run.output
    assert "journal : Configure the site" in run.changed_tasks
    assert not fresh.root.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["ansible"]  # modules pass through it


def test_every_taken_port_is_named_with_its_variable_and_a_free_one(fresh: Box) -> None:
    with socket.create_server(("127.0.0.1", fresh.ports["journal_port"])):
        run = fresh.play(
            SITE, memcached_port=70_000, memcached_metrics_port=fresh.ports["journal_metrics_port"]
        )
    assert run.exit_code != 0
    assert f"journal: port {fresh.ports['journal_port']} on 127.0.0.1 is taken by" in run.output
    assert "set journal_port to a free port (one box: make up JOURNAL_PORT=" in run.output
    assert "memcached: port 70000 is none of 1 to 65535" in run.output
    assert "memcached_metrics_port and journal_metrics_port are both" in run.output
    assert run.count("changed") == 0
    assert not fresh.root.exists()


def test_the_host_is_examined(fresh: Box, tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\necho 3.9 x86_64\n")
    old.chmod(0o755)
    (tmp_path / "file").write_text("in the way")
    run = fresh.play(
        SITE,
        runtime_python=str(old),
        lj_data_dir=str(tmp_path / "file/data"),
        lj_run_dir="/tmp/" + 100 * "x",
    )
    assert run.exit_code != 0
    assert "is Python 3.9, the kit needs 3.11 or newer" in run.output
    assert "set runtime_python" in run.output
    assert f"{tmp_path}/file is not a directory" in run.output
    assert "set lj_data_dir" in run.output
    assert "the system allows 99" in run.output
    assert "set lj_run_dir to a shorter directory" in run.output
    assert run.count("changed") == 0
    assert not fresh.root.exists()


@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        ("memcached_engine", "redis", "value of memcached_engine must be one of: memcached, embed"),
        ("journal_port", "http", "'journal_port' is of type str"),
        ("database_clusters", 0, "no cluster for users: set database_clusters to 1 or more"),
        ("database_roles", {"global": {"writer": "mariadb://lj:pw@db/lj"}}, "no cluster for users"),
    ],
)
def test_a_bad_variable_is_refused(
    fresh: Box, variable: str, value: object, complaint: str
) -> None:
    run = fresh.play(SITE, **{variable: value})
    assert run.exit_code != 0
    assert complaint in " ".join(run.output.split())
    assert run.count("changed") == 0
    assert not fresh.root.exists()
