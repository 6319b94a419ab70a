"""Whom the gate lets through."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from disk_checker import hostfacts
from disk_checker.cli import main
from disk_checker.errors import TargetError
from disk_checker.gate import judge

pytestmark = pytest.mark.unit


def put(folder: Path, name: str, code: int, clean: int = 3, **plan: Any) -> None:
    """A report as the playbook keeps it."""
    facts = {
        "layers": [
            {
                "device": f"/dev/{name}1",
                "disk": f"/dev/{name}",
                "links": [f"/dev/disk/by-id/{name}"],
            }
        ]
    }
    plan = {"target": f"/srv/{name}/check", "facts": facts, **plan}
    plan.setdefault("mount", {"point": f"/srv/{name}", "source": f"/dev/{name}1"})
    headline = {0: "clean", 1: "LYING: it did", 2: "COULD NOT TELL: why"}[code]
    report = {"exit_code": code, "headline": headline, "clean_cycles": clean}
    (folder / f"{name}.json").write_text(json.dumps({**report, "reports": [{"plan": plan}]}))


@pytest.mark.parametrize(
    ("disks", "cycles", "code", "words"),
    [
        (["/dev/sda"], 1, 0, "may hold data"),
        (["/dev/sda1", "/srv/sda", "/srv/sda/", "/srv/sda/check"], 3, 0, "may hold data"),
        (["/dev/disk/by-id/sda"], 1, 0, "may hold data"),
        (["/dev/sda"], 10, 2, "only 3 clean cycles, 10 are asked for"),
        (["/dev/sdb"], 1, 1, "must not hold data: LYING"),
        (["/dev/sda", "/dev/sdb", "/dev/sdz"], 1, 1, "must not hold data"),
        (["/dev/sdc"], 1, 2, "COULD NOT TELL"),
        (["/dev/sda", "/dev/sdz"], 1, 2, "was not tested"),
        (["/srv"], 1, 2, "was not tested"),
        ([], 1, 1, "/srv/sdb/check: must not hold data"),
    ],
)
def test_devices_mounts_and_paths_are_judged(
    tmp_path: Path, disks: list[str], cycles: int, code: int, words: str
) -> None:
    for name, verdict in (("sda", 0), ("sdb", 1), ("sdc", 2)):
        put(tmp_path, name, verdict)
    run = CliRunner().invoke(main, ["gate", str(tmp_path), *disks, "--cycles", str(cycles)])
    assert run.exit_code == code, run.output
    assert words in run.output


def test_one_lying_report_outweighs_a_clean_one_of_the_same_disk(tmp_path: Path) -> None:
    put(tmp_path, "sda", 0)
    clean = (tmp_path / "sda.json").read_text()
    put(tmp_path, "sda", 1)
    (tmp_path / "other.json").write_text(clean)
    assert judge(tmp_path, ["/dev/sda"]).exit_code == 1


def test_no_reports_are_no_leave(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        run = CliRunner().invoke(main, ["gate", str(folder)])
        assert run.exit_code == 2
        assert "no disk was tested" in run.output.replace("\n", "")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"plan": 1, "exit_code": 0}'])
def test_what_is_no_report_is_named_and_lets_nobody_through(tmp_path: Path, text: str) -> None:
    (tmp_path / "odd.json").write_text(text)
    with pytest.raises(TargetError, match=r"odd\.json: not a report"):
        judge(tmp_path, [])
    assert CliRunner().invoke(main, ["gate", str(tmp_path)]).exit_code == 3


def test_for_machines(tmp_path: Path) -> None:
    put(tmp_path, "sda", 0)
    run = CliRunner().invoke(main, ["gate", str(tmp_path), "/dev/sda", "--json"])
    answer = json.loads(run.stdout)
    assert answer["exit_code"] == 0
    assert answer["disks"][0]["reports"] == [str(tmp_path / "sda.json")]


def test_lasting_names_of_a_device_are_among_the_facts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hostfacts, "DEV", tmp_path)
    for folder in ("disk/by-id", "mapper"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "sda").touch()
    (tmp_path / "disk/by-id/wwn-1").symlink_to("../../sda")
    (tmp_path / "disk/by-id/wwn-2").symlink_to("../../sdb")
    (tmp_path / "mapper/control").touch()
    assert hostfacts.links_to("sda") == [str(tmp_path / "disk/by-id/wwn-1")]
