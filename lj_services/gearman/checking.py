"""Is a Gearman server well?  The answer as monitoring wants it: a level, a line, figures.

Source: the Monitoring Plugins development guidelines (exit codes, performance data).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from lj_services.gearman.admin_client import FunctionStatus


class Level(IntEnum):
    """How bad it is; the plugin's exit code."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


@dataclass(frozen=True)
class Limits:
    """What is still well, for each function that is looked at."""

    warn_queued: int | None = None
    """More waiting jobs than that are a warning; None: any number is well."""
    max_queued: int | None = None
    """More waiting jobs than that are critical."""
    min_workers: int = 0
    """Fewer workers than that are critical."""


class Verdict(NamedTuple):
    """The outcome of a check."""

    level: Level
    line: str
    """What the plugin prints."""


def check(
    found: Iterable[FunctionStatus], names: Sequence[str], limits: Limits, *, seconds: float
) -> Verdict:
    """Judge what ``status`` says.

    Args:
        found: all functions of the server.
        names: which ones are looked at; none: all that are there.
        limits: what is well.
        seconds: how long the server took to answer.
    """
    known = {status.function: status for status in found}
    wanted = list(names) or sorted(known)
    level = Level.OK
    troubles: list[str] = []
    figures = [f"time={seconds:.3f}s;;;0"]
    for name in wanted:
        status = known.get(name, FunctionStatus(name, 0, 0, 0))
        queued = max(0, status.total - status.running)
        figures += _figures(status, queued, limits)
        if status.workers < limits.min_workers:
            level = Level.CRITICAL
            troubles.append(f"{name} has {status.workers} workers of {limits.min_workers}")
        if limits.max_queued is not None and queued > limits.max_queued:
            level = Level.CRITICAL
            troubles.append(f"{queued} jobs of {name} wait")
        elif limits.warn_queued is not None and queued > limits.warn_queued:
            level = max(level, Level.WARNING)
            troubles.append(f"{queued} jobs of {name} wait")
    if not troubles:
        looked_at = [known[name] for name in wanted if name in known]
        waiting = sum(max(0, status.total - status.running) for status in looked_at)
        running = sum(status.running for status in looked_at)
        troubles = [f"{len(wanted)} functions, {waiting} jobs wait, {running} run"]
    return Verdict(level, f"GEARMAN {level.name} - {', '.join(troubles)} | {' '.join(figures)}")


def _figures(status: FunctionStatus, queued: int, limits: Limits) -> list[str]:
    # A label in quotes may have anything but quotes and equal signs.
    name = status.function.replace("'", "_").replace("=", "_")
    warn = "" if limits.warn_queued is None else limits.warn_queued
    most = "" if limits.max_queued is None else limits.max_queued
    fewest = f"{limits.min_workers}:" if limits.min_workers else ""
    return [
        f"'{name} queued'={queued};{warn};{most};0",
        f"'{name} running'={status.running};;;0",
        f"'{name} workers'={status.workers};;{fewest};0",
    ]
