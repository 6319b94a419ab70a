"""The plan as a text file: an operator reads it, edits it, and has it carried out.

The form, line by line::

    # a comment; empty lines count for nothing, too
    lj-balance-plan 1
    made 2007-03-31T22:15:00Z
    move user=4711 bytes=18350080 rows=20114 from=3 to=7 why=disk
    move user=815 bytes=2097152 rows=310 from=3 to=1 why=writes
    end

- ``lj-balance-plan 1`` comes first: what this is, and the version of the form.
- ``made`` says when, in UTC.
- ``move`` is one user's move; moves are carried out in the order of their lines.  ``user``,
  ``from`` and ``to`` (numbers of clusters) are needed, in any order with the others.
  ``bytes`` and ``rows`` are what the survey found; 0 when left out.  ``why`` is one of
  ``disk``, ``writes``, ``drain`` and ``operator``, the last when left out.
- ``end`` comes last, so that a file that was cut off is noticed.

To leave a move out, delete its line or put a ``#`` before it; to send a user elsewhere,
change ``to``; to add one, write a line.  The predictions in the comments are those of the
plan as it was made, and are not read.

A file is read whole before anything is done with it; with one wrong line it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lj_services.usercluster.balance.plan import BalanceError, Forecast, Move, Plan, Why
from lj_services.usercluster.balance.rules import ClusterState

HEADER = "lj-balance-plan 1"
MOST_ERRORS = 20
"""Errors that one reading names at most."""
LARGEST = {"user": 2**32 - 1, "from": 32_767, "to": 32_767, "rows": 2**32 - 1, "bytes": 2**63 - 1}
_TIME = "%Y-%m-%dT%H:%M:%SZ"
# The lines that `write` makes, for speed; any other order is read by `_read_move`.
_MOVE = re.compile(
    r"move user=([1-9]\d{0,8}) bytes=(\d{1,18}) rows=(\d{1,9}) from=([1-9]\d{0,3}) "
    r"to=([1-9]\d{0,3}) why=(disk|writes|drain|operator)"
)


@dataclass(frozen=True, slots=True)
class LineError:
    """What is wrong in a plan file: where, which field, and what would be right."""

    line: int
    field: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        where = f"line {self.line}" + (f", {self.field}" if self.field else "")
        return f"{where}: {self.problem}; {self.remedy}"


class PlanFileError(BalanceError):
    """A plan file that can't be used; `errors` has what is wrong, in order of lines."""

    def __init__(self, name: str, errors: list[LineError]) -> None:
        shown = [str(error) for error in errors[:MOST_ERRORS]]
        if len(errors) > MOST_ERRORS:
            shown.append(f"and {len(errors) - MOST_ERRORS} more")
        super().__init__(f"{name}: " + "\n".join(shown))
        self.errors = errors


@dataclass(frozen=True)
class PlanFile:
    """A plan file's content.

    Attributes:
        made: when the plan was made (UTC).
        moves: in the order of the file.
        lines: the line number of each move.
        name: the file, for messages.
    """

    made: datetime
    moves: list[Move]
    lines: list[int]
    name: str = "plan"

    def check(self, clusters: Mapping[int, ClusterState]) -> None:
        """See whether the moves are possible on a site with these clusters.

        Raises:
            PlanFileError: one names a cluster that there is not, that is dead, or that takes
                nobody.
        """
        known = ", ".join(map(str, sorted(clusters)))
        errors = []
        for line, move in zip(self.lines, self.moves, strict=True):
            for field, number in (("from", move.src), ("to", move.dst)):
                state = clusters.get(number)
                if state is None:
                    problem = f"there is no cluster {number}"
                    errors.append(LineError(line, field, problem, f"there are {known}"))
                elif state is ClusterState.DEAD or (field == "to" and state is not ClusterState.UP):
                    problem = f"cluster {number} is {state}"
                    remedy = "choose one that is up, or take the line out"
                    errors.append(LineError(line, field, problem, remedy))
        if errors:
            raise PlanFileError(self.name, errors)


def write(plan: Plan, made: datetime) -> Iterator[str]:
    """The text of a plan's file, in pieces.

    Args:
        plan: what to write.
        made: the time to write into it, in UTC.
    """
    yield f"# {len(plan.moves)} moves of {plan.bytes} bytes; to reach every target takes at least "
    yield f"{plan.least_bytes}.\n"
    yield f"# The fullest cluster over the average: {plan.spread_before:.3f} now, "
    yield f"{plan.spread_after:.3f} after it; at best {plan.best_spread:.3f}.\n"
    for text in plan.problems:
        yield f"# NOT REACHED: {text}\n"
    for text in plan.notes:
        yield f"# Note: {text}\n"
    yield "#\n# Predicted, in bytes and shares of the time:\n"
    yield from _table(plan.forecast)
    yield "#\n# Take a move out: put # before it.  Send a user elsewhere: change to=.\n"
    yield "# Moves are carried out from the top.  The last line must stay.\n"
    yield f"{HEADER}\nmade {made.strftime(_TIME)}\n"
    for userid, size, rows, src, dst, why in plan.moves:
        yield f"move user={userid} bytes={size} rows={rows} from={src} to={dst} why={why.value}\n"
    yield "end\n"


def _table(forecast: tuple[Forecast, ...]) -> Iterator[str]:
    row = "#{:>8} {:>8} {:>16} {:>16} {:>16} {:>16} {:>6} {:>6} {:>9} {:>9}\n"
    yield row.format(
        "cluster", "state", "disk", "target", "before", "after", "busy", "after", "in", "out"
    )
    for f in forecast:
        yield row.format(
            f.clusterid,
            f.state,
            f.disk_total,
            f.disk_target,
            f.disk_before,
            f.disk_after,
            "?" if f.busy_before is None else f"{f.busy_before:.0%}",
            "?" if f.busy_after is None else f"{f.busy_after:.0%}",
            f.users_in,
            f.users_out,
        )


def read(text: str, name: str = "plan") -> PlanFile:
    """Read a plan file.

    Args:
        text: its content.
        name: what to call it in errors.

    Raises:
        PlanFileError: something in it is wrong: each error names line, field and remedy.
    """
    reader = _Reader()
    for number, line in enumerate(text.splitlines(), start=1):
        reader.take(number, line)
    reader.finish()
    if reader.errors or reader.made is None:
        raise PlanFileError(name, reader.errors)
    return PlanFile(reader.made, reader.moves, reader.lines, name)


def read_file(path: Path) -> PlanFile:
    """Read a plan file from disk.

    Raises:
        PlanFileError: as `read`; also when the file can't be read or is no text.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        problem = f"can't be read: {error.strerror}"
        raise PlanFileError(
            str(path), [LineError(0, "", problem, "name a file that lj balance plan wrote")]
        ) from None
    except UnicodeDecodeError:
        raise PlanFileError(
            str(path), [LineError(0, "", "is no UTF-8 text", "name a file of lj balance plan")]
        ) from None
    return read(text, str(path))


class _Reader:
    """Takes lines in order; gathers moves and errors."""

    def __init__(self) -> None:
        self.moves: list[Move] = []
        self.lines: list[int] = []
        self.errors: list[LineError] = []
        self.made: datetime | None = None
        self._line_of: dict[int, int] = {}
        self._begun = False
        self._ended = 0
        self._last = 0

    def take(self, number: int, line: str) -> None:
        """Read one line."""
        self._last = number
        match = _MOVE.fullmatch(line)
        if match is not None and self._begun and self.made is not None and not self._ended:
            user, size, rows, src, dst, why = match.groups()
            move = Move(int(user), int(size), int(rows), int(src), int(dst), Why(why))
            self._add(number, move)
            return
        line = line.split("#", 1)[0].strip()
        if not line:
            return
        if self._ended:
            self._wrong(number, "", f"there is more after end in line {self._ended}", "move it up")
        elif not self._begun:
            self._begun = True
            if line != HEADER:
                self._wrong(number, "", "this is no plan of version 1", f"begin with {HEADER!r}")
        elif line == "end":
            self._ended = number
        elif line.startswith("made"):
            self._read_made(number, line)
        elif line.split()[0] == "move":
            self._read_move(number, line)
        else:
            word = line.split()[0][:40]
            self._wrong(number, word, "no such line", "lines begin with made, move, end or #")

    def finish(self) -> None:
        """Say what is missing at the end."""
        if not self._begun:
            self._wrong(self._last, "", "the file is empty", f"begin with {HEADER!r}")
        elif not self._ended:
            self._wrong(
                self._last,
                "end",
                "the last line is missing: was the file cut off?",
                "close it with a line 'end' if it is whole",
            )
        elif self.made is None and not self.errors:
            self._wrong(self._ended, "made", "it is missing", "write made 2007-03-31T22:15:00Z")

    def _wrong(self, line: int, field: str, problem: str, remedy: str) -> None:
        self.errors.append(LineError(line, field, problem, remedy))

    def _add(self, number: int, move: Move) -> None:
        if move.src == move.dst:
            self._wrong(number, "to", f"the user is on cluster {move.src} already", "change it")
        earlier = self._line_of.setdefault(move.userid, number)
        if earlier != number:
            self._wrong(
                number, "user", f"{move.userid} is moved in line {earlier} already", "keep one"
            )
        self.moves.append(move)
        self.lines.append(number)

    def _read_made(self, number: int, line: str) -> None:
        try:
            self.made = datetime.strptime(line.removeprefix("made").strip(), _TIME).replace(
                tzinfo=UTC
            )
        except ValueError:
            self._wrong(number, "made", "this is no time", "write it as 2007-03-31T22:15:00Z")

    def _read_move(self, number: int, line: str) -> None:
        before = len(self.errors)
        fields: dict[str, str] = {}
        for word in line.split()[1:]:
            name, equals, value = word.partition("=")
            if not equals or name not in (*LARGEST, "why"):
                names = ", ".join((*LARGEST, "why"))
                self._wrong(
                    number, word[:40], "no such field", f"write NAME=VALUE; there are {names}"
                )
            elif name in fields:
                self._wrong(number, name, "it is there twice", "keep one")
            else:
                fields[name] = value
        for name in ("user", "from", "to"):
            if name not in fields:
                self._wrong(number, name, "it is missing", f"add {name}=NUMBER")
        values = {
            name: self._number(number, name, fields.get(name, "0"))
            for name in LARGEST
            if name in fields or name in ("bytes", "rows")
        }
        why = fields.get("why", Why.OPERATOR.value)
        if why not in list(Why):
            known = ", ".join(Why)
            self._wrong(number, "why", f"{why[:40]!r} is no reason", f"write one of {known}")
        if len(self.errors) == before:
            self._add(
                number,
                Move(
                    values["user"],
                    values["bytes"],
                    values["rows"],
                    values["from"],
                    values["to"],
                    Why(why),
                ),
            )

    def _number(self, line: int, field: str, text: str) -> int:
        least = 0 if field in ("bytes", "rows") else 1
        if re.fullmatch(r"[0-9]{1,19}", text) and least <= int(text) <= LARGEST[field]:
            return int(text)
        remedy = f"write a whole number from {least} to {LARGEST[field]}"
        self._wrong(line, field, f"{text[:40]!r} is not one", remedy)
        return 0
