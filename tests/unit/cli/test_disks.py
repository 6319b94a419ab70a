"""``lj disks``: the checker's verdicts in this command's words and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from lj_services.cli.disks import command

pytestmark = pytest.mark.unit


def put(path: Path, verdict: str) -> None:
    plan = {"hostname": "db1", "target": f"/srv/{path.stem}"}
    report = {"plan": plan, "run": "1", "verdict": verdict, "headline": f"{verdict}!"}
    path.write_text(json.dumps(report))


def test_reports_are_listed_and_a_liar_fails(tmp_path: Path) -> None:
    put(tmp_path / "a.json", "honest")
    done = CliRunner().invoke(command, ["reports", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)[0]["target"] == "/srv/a"
    put(tmp_path / "b.json", "lying")
    done = CliRunner().invoke(command, ["reports", str(tmp_path)])
    assert done.exit_code == 1
    assert "lying!" in done.output


def test_what_is_no_report_is_named(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("[]")
    done = CliRunner().invoke(command, ["reports", str(tmp_path)])
    assert done.exit_code == 1
    assert "other.json: not a report of disk-checker" in done.output


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["check", "--help"], 0),
        (["check", "--state"], 2),
        (["check", "--state", "DIR", "--power-off", "exit 4", "--same-boot"], 1),
    ],
)
def test_check_runs_the_checker(tmp_path: Path, words: list[str], code: int) -> None:
    words = [str(tmp_path / "state") if word == "DIR" else word for word in words]
    if "--power-off" in words:
        words += ["--write-seconds", "0.2", str(tmp_path / "target"), "1M"]
    assert CliRunner().invoke(command, words).exit_code == code
