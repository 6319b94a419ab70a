"""What the report tells an operator to try, from what was found on the host."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from disk_checker import host, hostfacts
from disk_checker.advice import advise, suspicions
from disk_checker.classify import Finding
from disk_checker.fold import Totals
from disk_checker.report import print_report
from disk_checker.result import Result
from tests.support.memory_run import make_plan

pytestmark = pytest.mark.unit


def lying(facts: dict[str, Any], **plan: Any) -> Result:
    totals = Totals(intended=900, acked=800, in_flight=100, last_ack_us=1_000_000)
    found = Result(7, make_plan(facts=facts, **plan), totals)
    found.add(Finding("lost", 3, 12288, 5, 900_000, "write 5 of block 3", "zeros", "aa", "00"))
    return found


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"mount": {"options": "rw,nobarrier"}}, "remove nobarrier"),
        ({"layers": [{"device": "/dev/sda1", "disk": "/dev/sda", "write_cache": "write back"}]},
         "`hdparm -W 0 /dev/sda` (SATA) or `sdparm --set=WCE=0 --save /dev/sda`"),
        ({"layers": [{"device": "/dev/vda", "write_cache": "write through"}]},
         "echo 'write back' > /sys/block/vda/queue/write_cache"),
        ({"layers": [{"device": "/dev/md0", "raid_level": "raid1"}]}, "software layer"),
        ({"raid_cards": [{"driver": "megaraid_sas"}]}, "set pdcache=off"),
        ({"raid_cards": [{"driver": "odd"}]}, "see the card's manual"),
        ({}, "a disk that still loses must not hold data"),
    ],
)  # fmt: skip
def test_what_was_found_is_what_is_to_be_tried(facts: dict[str, Any], words: str) -> None:
    assert words in " ".join(advise(lying(facts)))


def test_an_honest_disk_wants_no_advice_and_what_promises_nothing_is_not_blamed() -> None:
    honest = Result(7, make_plan(), Totals(acked=800, in_flight=9))
    assert advise(honest) == []
    assert advise(lying({"raid_cards": [{"driver": "hpsa"}]}, sync="none"))[0].startswith(
        "This is not the disk's fault"
    )


def test_a_turning_disk_that_is_too_quick_is_suspicious() -> None:
    layer = {"device": "/dev/sda", "rotational": "1", "driver": "sd"}
    assert "more than a turning disk can do" in suspicions(lying({"layers": [layer]}))[0]
    assert not suspicions(lying({"layers": [layer | {"rotational": "0"}]}))


def test_a_raid_cards_caches_are_read_by_its_own_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path / "bus/pci/devices/0000:02:00.0"
    device.mkdir(parents=True)
    (device / "class").write_text("0x010400\n")
    driver = tmp_path / "drivers/hpsa"
    driver.mkdir(parents=True)
    (device / "driver").symlink_to(driver)
    said = "Model: P420i\nBattery/Capacitor Status: Failed\nDrive Write Cache: Enabled\n"
    monkeypatch.setattr(hostfacts, "SYS", tmp_path)
    monkeypatch.setattr(hostfacts.shutil, "which", lambda name: f"/usr/sbin/{name}")
    monkeypatch.setattr(host, "run_tool", lambda *_words, **_options: (0, said))
    (card,) = hostfacts.raid_cards()
    assert card["driver"] == "hpsa"
    assert card["ssacli ctrl all show detail"] == said.splitlines()[1:]


def test_the_report_for_people_has_verdict_counts_first_case_and_advice() -> None:
    out = io.StringIO()
    print_report(lying({"mount": {"options": "nobarrier"}}), Console(file=out, width=120))
    said = out.getvalue()
    assert said.startswith("LYING: of 800 acknowledged writes: 1 lost.")
    for words in (
        "< 1e-12",
        "lost: block 3, offset 12288 (0x3000), 0.100 s before the end",
        "expected write 5 of block 3  aa",
        "found    zeros  00",
        "Note: the file system was mounted without barriers",
        "Try: The file system is mounted without barriers",
    ):
        assert words in said, said
