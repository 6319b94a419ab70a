"""Many workers' answers to one line -> one answer, in the form of a single process's.

Counts are added, times and ages are the latest, rows are put below each other; what all
workers say alike is said once.  What is not known here and differs is shown by worker.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

Answers = Sequence[list[str]]
"""Each worker's lines; the first worker's first."""

_LAST_NUMBER: Final = re.compile(r"(.*?)(\d+(?:\.\d+)?)")
_FIRST_NUMBER: Final = re.compile(r"( *)(\d+)( .+)")
_LATEST: Final = re.compile(
    r".*(?:last\w+|leftout|drained|unhealthy|\.age|^max|Perlbal::(?:Pool|Service) =) "
)
_SUMMED_IN_BLOCK: Final = re.compile(
    r"( *(?:pend clients: |pend backend: |cache hits: | \S+:\d+ +))(\d+)"
)
_AHEAD: Final = re.compile(r"( connect-ahead: )(\d+)/(\d+)")
_PENDING: Final = re.compile(r"   \S+ - \S+ - \d+s")
_PROC: Final = re.compile(r"(\w+): ([\d.]+)(?: \(\+([\d.]+)\))?")


def _first(answers: Answers) -> list[str]:
    return answers[0]


def _in_order(answers: Answers, key: Callable[[str], str]) -> list[str]:
    """All keys of lines, each behind the one that it follows where it occurs."""
    order: list[str] = []
    for lines in answers:
        previous = -1
        for line in lines:
            name = key(line)
            if name in order:
                previous = order.index(name)
            else:
                previous += 1
                order.insert(previous, name)
    return order


def _split(line: str) -> tuple[str, str]:
    found = _LAST_NUMBER.fullmatch(line)
    return (found[1], found[2]) if found is not None else (line, "")


def _numbers(answers: Answers) -> list[str]:
    """Lines that end in a number."""
    merged = []
    for key in _in_order(answers, lambda line: _split(line)[0]):
        found = [value for lines in answers for name, value in map(_split, lines) if name == key]
        merged.append(key + _together(found, latest=_LATEST.match(key) is not None))
    return merged


def _together(values: list[str], *, latest: bool) -> str:
    if not any(values):
        return ""
    if any("." in value for value in values):
        figures = [float(value) for value in values]
        return f"{max(figures) if latest else sum(figures):.1f}"
    counts = [int(value) for value in values]
    return str(max(counts) if latest else sum(counts))


def _columns(answers: Answers) -> list[str]:
    """Lines that end in a column of numbers."""
    sums: dict[str, int] = {}
    widths: dict[str, int] = {}
    for line in (line for lines in answers for line in lines if line != "."):
        name, _, number = line.rpartition(" ")
        name = name.rstrip()
        sums[name] = sums.get(name, 0) + int(number)
        widths.setdefault(name, len(line) - len(name))
    return [*(f"{name}{total:{widths[name]}d}" for name, total in sums.items()), "."]


def _below(answers: Answers) -> list[str]:
    """Lines, a dot."""
    return [*(line for lines in answers for line in lines if line != "."), "."]


def _rows(answers: Answers) -> list[str]:
    """A heading, rows of each worker, a dot."""
    heading = [line for line in answers[0][:1] if line.split()[:1] == ["fd"]]
    rows = [
        f"{line}; worker={number}"
        for number, lines in enumerate(answers, 1)
        for line in lines[len(heading) :]
        if line != "."
    ]
    return [*heading, *rows, "."]


def _summary(answers: Answers) -> list[str]:
    """SOCKS SUMMARY: numbers at the start, and two at the end."""

    def turned(line: str) -> str:
        found = _FIRST_NUMBER.fullmatch(line)
        return line.removesuffix("k") if found is None else f"{found[3]}\0{found[2]}"

    merged = []
    for line in _numbers([[turned(line) for line in lines] for lines in answers]):
        kind, turned_back, count = line.partition("\0")
        if turned_back:
            merged.append(f"{int(count):5d}{kind}")
        else:
            merged.append(line + ("k" if "write buffer" in line else ""))
    return merged


def _block(answers: Answers) -> list[str]:
    """SHOW SERVICE name."""
    merged: list[str] = []
    others = [line for lines in answers[1:] for line in lines if _PENDING.fullmatch(line)]
    for number, line in enumerate(answers[0]):
        found = _SUMMED_IN_BLOCK.fullmatch(line)
        ahead = _AHEAD.fullmatch(line)
        if found is not None:
            key = found[1].strip()
            total = sum(
                int(same[2])
                for lines in answers
                for each in lines
                if (same := _SUMMED_IN_BLOCK.fullmatch(each)) and same[1].strip() == key
            )
            wider = len(str(total)) - len(found[2])
            room = wider > 0 and found[1].endswith(" " * (wider + 1))
            merged.append((found[1][:-wider] if room else found[1]) + str(total))
        elif ahead is not None:
            pairs = [m for lines in answers for each in lines if (m := _AHEAD.fullmatch(each))]
            have, want = (sum(int(pair[part]) for pair in pairs) for part in (2, 3))
            merged.append(f"{ahead[1]}{have}/{want}")
        else:
            merged.append(line)
        following = answers[0][number + 1] if number + 1 < len(answers[0]) else ""
        in_pending = "pend backend:" in line or _PENDING.fullmatch(line)
        if others and in_pending and not _PENDING.fullmatch(following):
            merged += others
            others = []
    return merged


def _proc(answers: Answers) -> list[str]:
    """PROC: all of them together, then each one's process."""
    merged = []
    for parts in zip(
        *([_PROC.fullmatch(line) for line in lines] for lines in answers), strict=False
    ):
        found = [part for part in parts if part is not None]
        if not found or found[0][1] == "pid":
            continue
        name = found[0][1]
        if name == "time":
            merged.append(found[0][0])
            continue
        total = sum(float(part[2]) for part in found)
        since = sum(float(part[3] or 0) for part in found)
        shape = "d" if name == "reqs" else ".6g"
        total, since = (int(total), int(since)) if shape == "d" else (total, since)
        merged.append(f"{name}: {total:{shape}} (+{since:{shape}})")
    for number, lines in enumerate(answers, 1):
        shown = ", ".join(line for line in lines if not line.startswith("time") and line != ".")
        merged.append(f"worker {number}: {shown}")
    return [*merged, "."]


def by_worker(answers: Answers) -> list[str]:
    """Once, if all say the same; otherwise one below the other."""
    if all(lines == answers[0] for lines in answers):
        return answers[0]
    merged = []
    for number, lines in enumerate(answers, 1):
        merged.append(f"worker {number}:")
        merged += [line for line in lines if line != "."]
    return [*merged, "."]


_RULES: Final[dict[str, Callable[[Answers], list[str]]]] = {
    "aio": _first,
    "backends": _numbers,
    "certificates": _first,
    "dumpconfig": _first,
    "fd": _numbers,
    "help": _first,
    "node": _numbers,
    "nodes": _numbers,
    "noverify": _rows,
    "obj": _numbers,
    "pending": _rows,
    "patterns": _first,
    "plugins": _first,
    "proc": _proc,
    "queues": _numbers,
    "recent": _below,
    "reproxy_state": _numbers,
    "show pool": _first,
    "show pool NAME": _numbers,
    "show service": _first,
    "show service NAME": _block,
    "socks": _rows,
    "socks summary": _summary,
    "states": _numbers,
    "stats": _columns,
    "uptime": _first,
    "version": _first,
}

READERS: Final = frozenset(name.partition(" ")[0] for name in _RULES)
"""First words of lines that change nothing; all workers are asked at once."""


def merge(text: str, answers: Answers) -> list[str]:
    """One answer to the line `text` (in lower case, its white space single)."""
    refused = [lines for lines in answers if lines and lines[-1].startswith("ERROR")]
    if refused:
        return refused[0]
    words = text.split()
    name = words[0]
    if name == "show":
        name = " ".join(words[:2]) + (" NAME" if len(words) > 2 else "")
    elif name == "socks" and words[1:] == ["summary"]:
        name = text
    return _RULES.get(name, by_worker)(answers)
