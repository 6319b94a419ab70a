"""Starts ours and the peer, alternates the runs, takes medians, writes the page.

What a module describes: a `Comparison` of two `Contender`s under some `Load`s.
What comes back: an `Outcome` per load.
"""

from __future__ import annotations

import platform
import re
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

ROUNDS = 5
QUICK_ROUNDS = 3
PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Subject:
    """Something that runs and can be measured.

    Args:
        value: whatever the loads need: a port, a client, a URL.
        pid: its process, when its use of a CPU is of interest.
    """

    value: Any
    pid: int | None = None


@dataclass(frozen=True)
class Contender:
    """One side of a comparison: its name, its version, and what starts it."""

    name: str
    version: str
    start: Callable[[], AbstractContextManager[Subject]]


@dataclass(frozen=True)
class Load:
    """A way to measure a subject: `run` puts it under load and returns a figure in `unit`.

    `with_cpu` is False where the use of a CPU meanwhile says nothing, as with memory.
    """

    name: str
    unit: str
    run: Callable[[Subject], float]
    better: Literal["higher", "lower"] = "higher"
    with_cpu: bool = True


@dataclass(frozen=True)
class Comparison:
    """Ours and the peer under the same loads.  `goal` and `notes` go onto the page as they are."""

    title: str
    ours: Contender
    loads: Sequence[Load]
    peer: Contender | None = None
    goal: str = ""
    notes: Sequence[str] = ()


@dataclass
class Series:
    """All runs of one contender under one load: figures, and shares of one CPU (0..1)."""

    figures: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def measure(self, load: Load, subject: Subject) -> None:
        """Add one run."""
        watched = subject.pid if load.with_cpu else None
        process = psutil.Process(watched) if watched is not None else None
        before = process.cpu_times() if process is not None else None
        started = time.perf_counter()
        self.figures.append(load.run(subject))
        elapsed_s = time.perf_counter() - started
        if process is not None and before is not None:
            after = process.cpu_times()
            used_s = after.user + after.system - before.user - before.system
            self.cpu.append(used_s / elapsed_s)

    @property
    def median(self) -> float:
        return statistics.median(self.figures)

    @property
    def per_cpu(self) -> float:
        """The median figure of a whole second of CPU: what counts when others use it too."""
        pairs = zip(self.figures, self.cpu, strict=True)
        return statistics.median(figure / max(cpu, 0.001) for figure, cpu in pairs)

    def shown(self) -> str:
        """Median and range, and the CPU if it was measured."""
        text = f"{_number(self.median)} ({_number(min(self.figures))}–{_number(max(self.figures))})"
        return text + (f", CPU {statistics.median(self.cpu):.0%}" if self.cpu else "")


@dataclass(frozen=True)
class Outcome:
    """What came of one load."""

    load: Load
    ours: Series
    peer: Series | None

    @property
    def ratio(self) -> float | None:
        """How many times as good as the peer we are."""
        if self.peer is None:
            return None
        quotient = self.ours.median / self.peer.median
        return quotient if self.load.better == "higher" else 1 / quotient

    @property
    def ratio_per_cpu(self) -> float | None:
        """The same of what each does with a second of CPU; None where that wasn't measured."""
        if self.peer is None or not self.ours.cpu or not self.peer.cpu:
            return None
        if self.load.better == "lower":
            return None
        return self.ours.per_cpu / self.peer.per_cpu


def compare(comparison: Comparison, rounds: int) -> list[Outcome]:
    """Run one comparison.

    Args:
        comparison: what to run.
        rounds: runs of each contender under each load, after one to warm up.
    """
    contenders = [comparison.ours] + ([comparison.peer] if comparison.peer else [])
    outcomes = []
    with ExitStack() as stack:
        subjects = [stack.enter_context(contender.start()) for contender in contenders]
        for load in comparison.loads:
            for subject in subjects:
                load.run(subject)
            series = [Series() for _ in subjects]
            for round_number in range(rounds):
                order = list(zip(series, subjects, strict=True))
                for one, subject in reversed(order) if round_number % 2 else order:
                    one.measure(load, subject)
            outcome = Outcome(load, series[0], series[1] if len(series) > 1 else None)
            outcomes.append(outcome)
            print(f"  {load.name}: {_row_text(comparison, outcome)}", flush=True)
    return outcomes


def section(
    module: str, title: str, results: Sequence[tuple[Comparison, list[Outcome]]], command: str
) -> str:
    """The section of one module, in Markdown."""
    lines = [f"## {title}", "", f"Measured {time.strftime('%Y-%m-%d')} with `{command}`.", ""]
    for comparison, outcomes in results:
        peer = comparison.peer
        lines += [f"### {comparison.title}", ""]
        lines += [f"Ours: {comparison.ours.name} {comparison.ours.version}.  "]
        lines += [f"Peer: {peer.name} {peer.version}.  "] if peer else []
        lines += [f"Goal: {comparison.goal}."] if comparison.goal else []
        lines += [""]
        if peer:
            lines += [
                "| load | unit | ours | peer | ours ÷ peer | per CPU second |",
                "| --- | --- | --- | --- | --- | --- |",
            ]
        else:
            lines += ["| load | unit | ours |", "| --- | --- | --- |"]
        for outcome in outcomes:
            cells = [outcome.load.name, outcome.load.unit, outcome.ours.shown()]
            if outcome.peer is not None:
                per_cpu = outcome.ratio_per_cpu
                cells += [outcome.peer.shown(), f"**{outcome.ratio:.2f}**"]
                cells += ["" if per_cpu is None else f"{per_cpu:.2f}"]
            lines.append("| " + " | ".join(cells) + " |")
        lines += ["", *(f"- {note}" for note in comparison.notes)]
        lines += [""] if comparison.notes else []
    body = "\n".join(lines).rstrip()
    return f"<!-- {module} -->\n{body}\n<!-- end of {module} -->"


def write_page(sections: dict[str, str], page: Path = PAGE) -> None:
    """Put the sections (module -> Markdown) onto the page; others that are there stay."""
    kept: dict[str, str] = {}
    if page.exists():
        pattern = r"<!-- (\w+) -->\n.*?\n<!-- end of \1 -->"
        found = re.finditer(pattern, page.read_text(encoding="utf-8"), re.DOTALL)
        kept = {match[1]: match[0] for match in found}
    merged = {**kept, **sections}
    introduction = (
        "# Benchmarks\n\n"
        "Ours beside the real peers: both on the same machine, started in the same run, under the\n"
        "same load, in turns.  Figures are medians (with the range) of the runs; the ratio says\n"
        "how many times as good as the peer ours is.  CPU is the server's share of one core: near\n"
        "100 % means that the server, and not the load generator or a busy machine, set the pace.\n"
        "The last column is the ratio of what each did with a second of CPU time.\n\n"
        f"The machine of the newest section: {machine()}.\n\n"
        "Repeat: `make bench`, or one module with `python -m bench MODULE`; `--quick` for a\n"
        "first impression."
    )
    page.parent.mkdir(exist_ok=True)
    text = "\n\n".join([introduction, *(merged[name] for name in sorted(merged))])
    page.write_text(text + "\n", encoding="utf-8")


def machine() -> str:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        match = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        model = match[1] if match else model
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{psutil.cpu_count()} cores ({model}), {memory:.0f} GiB of memory, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


def _row_text(comparison: Comparison, outcome: Outcome) -> str:
    text = f"{outcome.ours.shown()} {outcome.load.unit}"
    if outcome.peer is not None and comparison.peer is not None:
        text += f"; {comparison.peer.name} {outcome.peer.shown()}; ratio {outcome.ratio:.2f}"
        if outcome.ratio_per_cpu is not None:
            text += f", per CPU second {outcome.ratio_per_cpu:.2f}"
    return text


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def free_port() -> int:
    """A TCP port of loopback that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_it_answers(port: int, longest_s: float = 30.0) -> None:
    """Wait until a server accepts connections on a port of loopback.

    Raises:
        OSError: it does not within `longest_s` seconds.
    """
    deadline = time.monotonic() + longest_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
