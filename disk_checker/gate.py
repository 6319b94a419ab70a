"""May a disk hold data?  What the reports of a host say of it.

A report is what `disk-checker run --json` (or `verify --json`) printed, kept as one file per
tested disk in a folder per host.  Its plan names the tested path and, from the top down, every
device that the path stood on (`hostfacts.layers`): a report on ``/srv/mysql/check`` therefore
speaks for ``/srv/mysql``, ``/dev/md0``, ``/dev/sda2`` and ``/dev/sda`` alike.

One report of a lying disk is enough to refuse it, whatever others say: a clean report of
another file on it proves nothing about the loss.  To lift a refusal, test again to the same
report file, or remove it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from disk_checker.errors import DAMAGED, HONEST, UNKNOWN, TargetError


@dataclass(frozen=True)
class Report:
    """One report file, as far as the question needs it."""

    path: Path
    target: str
    names: frozenset[str]
    """the target, its mount point, and all device names below it"""
    exit_code: int
    headline: str
    clean: int
    """clean cycles"""

    def speaks_for(self, disk: str) -> bool:
        """Whether this report is about a device, a mount point, or a folder or file tested."""
        return str(PurePosixPath(disk)) in self.names


@dataclass(frozen=True)
class Opinion:
    """What is said of one disk."""

    disk: str
    exit_code: int
    sentence: str
    reports: tuple[Path, ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "disk": self.disk,
            "exit_code": self.exit_code,
            "sentence": self.sentence,
            "reports": [str(path) for path in self.reports],
        }


@dataclass(frozen=True)
class Answer:
    """Opinions on all disks that were asked about."""

    opinions: tuple[Opinion, ...]

    @property
    def exit_code(self) -> int:
        """The worst: a lying disk before one that was not tested."""
        codes = {opinion.exit_code for opinion in self.opinions}
        if DAMAGED in codes:
            return DAMAGED
        return HONEST if codes == {HONEST} else UNKNOWN

    def as_json(self) -> dict[str, Any]:
        return {
            "exit_code": self.exit_code,
            "disks": [opinion.as_json() for opinion in self.opinions],
        }


def _names(plan: dict[str, Any]) -> Iterator[str]:
    facts = plan.get("facts") or {}
    yield str(plan["target"])
    mount = plan.get("mount") or facts.get("mount")
    if mount:
        yield str(mount["point"])
        yield str(mount["source"])
    for layer in facts.get("layers") or []:
        yield str(layer["device"])
        if "disk" in layer:
            yield str(layer["disk"])
        yield from map(str, layer.get("links", []))


def read_report(path: Path) -> Report:
    """Read a report file.

    :raises TargetError: it is not a report; the text names the file.
    """
    try:
        report = json.loads(path.read_text())
        single = report["reports"][-1] if "reports" in report else report
        plan = single["plan"]
        code = int(report["exit_code"])
        return Report(
            path,
            str(plan["target"]),
            frozenset(_names(plan)),
            code,
            str(report["headline"]),
            int(report.get("clean_cycles", code == HONEST)),
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise TargetError(
            f"{path}: not a report of disk-checker ({error!r}): remove it or test again"
        ) from None


def _opinion(disk: str, reports: Sequence[Report], cycles: int) -> Opinion:
    paths = tuple(report.path for report in reports)
    for report in reports:
        if report.exit_code == DAMAGED:
            return Opinion(disk, DAMAGED, f"must not hold data: {report.headline}", paths)
    best = max(reports, key=lambda report: (report.exit_code == HONEST, report.clean), default=None)
    if best is None:
        return Opinion(
            disk,
            UNKNOWN,
            "was not tested: do that with playbooks/disk_check.yml or `disk-checker run --json`",
            (),
        )
    if best.exit_code != HONEST:
        return Opinion(disk, UNKNOWN, best.headline, paths)
    if best.clean < cycles:
        sentence = f"only {best.clean} clean cycles, {cycles} are asked for: test it more often"
        return Opinion(disk, UNKNOWN, sentence, paths)
    return Opinion(disk, HONEST, f"may hold data: {best.headline}", paths)


def judge(folder: Path, disks: Sequence[str], cycles: int = 1) -> Answer:
    """What the reports in a folder say of disks.

    :param disks: devices, mount points or tested paths; none: every target that has a report.
    :param cycles: clean cycles that a disk must show.
    :raises TargetError: a file in the folder is not a report.
    """
    reports = [read_report(path) for path in sorted(folder.glob("*.json"))]
    asked = disks or sorted({report.target for report in reports})
    return Answer(
        tuple(
            _opinion(disk, [one for one in reports if one.speaks_for(disk)], cycles)
            for disk in asked
        )
    )
