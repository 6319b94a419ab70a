"""What a statement is, as far as the gofer must know: its parts, its verb, whether it is one.

The parts are those that matter for question marks and for what is allowed: code, quoted
text, comments.  No grammar; what is unclear is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Final, NamedTuple

from lj_services.gearman.gofer.errors import ProgrammingError

_QUOTED: Final = r"\"(?:[^\"]|\"\")*\" | `(?:[^`]|``)*`"
_PARTS = {
    # MySQL's quotes know backslashes; its -- needs white space behind it.
    True: r"""
        (?P<quoted> '(?:[^'\\]|\\.|'')*' | "(?:[^"\\]|\\.|"")*" | `(?:[^`]|``)*`)
        | (?P<comment> --(?=\s|$)[^\n]* | \#[^\n]* | /\*.*?\*/)
        | (?P<mark> \?)
        | (?P<wrong> ['"`] | /\*)
        | (?P<code> [^'"`?\-\#/]+ | .)
    """,
    False: rf"""
        (?P<quoted> '(?:[^']|'')*' | {_QUOTED})
        | (?P<comment> --[^\n]* | /\*.*?\*/)
        | (?P<mark> \?)
        | (?P<wrong> ['"`] | /\*)
        | (?P<code> [^'"`?\-/]+ | .)
    """,
}
_PARTS_OF = {key: re.compile(value, re.VERBOSE | re.DOTALL) for key, value in _PARTS.items()}
# SQLite's parameters with names; a $ within a word belongs to the word.
_NAMED = re.compile(r"[:@\#][\w$]+|(?<![\w$])\$[\w$]+")
_FIRST_WORD = re.compile(r"[\s(]*([A-Za-z]+)")
_TO_FILE = re.compile(r"\bINTO\s+(?:OUTFILE|DUMPFILE)\b", re.IGNORECASE)
_LOCKS = re.compile(r"\bFOR\s+(?:UPDATE|SHARE)\b|\bLOCK\s+IN\b", re.IGNORECASE)


class Part(NamedTuple):
    """A part of a statement."""

    kind: str
    """``code``, ``quoted``, ``comment`` or ``mark``."""
    text: str


class Statement:
    """One SQL statement.

    Args:
        sql: its text, with question marks for parameters.
        mysql: whether MySQL's or MariaDB's rules for quotes and comments hold, or SQLite's.

    Raises:
        ProgrammingError: a quote or comment has no end, it is more than one statement, it
            hides code in a comment or writes files, or it has SQLite's named parameters.
    """

    def __init__(self, sql: str, *, mysql: bool) -> None:
        self.parts = [
            Part(str(match.lastgroup), match[0]) for match in _PARTS_OF[mysql].finditer(sql)
        ]
        if any(part.kind == "wrong" for part in self.parts):
            raise ProgrammingError("a quote or a comment in the statement has no end")
        if any(p.kind == "comment" and p.text.startswith(("/*!", "/*M!")) for p in self.parts):
            raise ProgrammingError("comments with code in them (/*! */) are not allowed")
        # Quoted text can't make words of what stands around it.
        code = "".join(_AS_CODE.get(part.kind, part.text) for part in self.parts)
        if ";" in code.rstrip().removesuffix(";"):
            raise ProgrammingError("one statement at a time: there is a ; in the middle")
        if _TO_FILE.search(code):
            raise ProgrammingError("statements that write files (INTO OUTFILE) are not allowed")
        if not mysql and (named := _NAMED.search(code)):
            raise ProgrammingError(f"parameters are question marks here, not names: {named[0]}")
        first = _FIRST_WORD.match(code)
        self.verb = first[1].lower() if first else ""
        """Its first word, in small letters."""
        self.locks = bool(_LOCKS.search(code))
        """Whether it is a SELECT that locks rows."""
        self.marks = sum(part.kind == "mark" for part in self.parts)
        """How many parameters it takes."""

    def check(self, rows: Sequence[Sequence[object]]) -> None:
        """Compare with the parameters.

        Raises:
            ProgrammingError: a row of them has not as many as there are question marks.
        """
        for row in rows:
            if len(row) != self.marks:
                raise ProgrammingError(
                    f"the statement has {self.marks} question marks, but {len(row)} parameters came"
                )

    def normal(self) -> str:
        """Its text without comments, and with one blank for all white space outside quotes."""
        out: list[str] = []
        for quoted, parts in groupby(self.parts, lambda part: part.kind == "quoted"):
            text = "".join(" " if part.kind == "comment" else part.text for part in parts)
            out.append(text if quoted else re.sub(r"\s+", " ", text))
        return "".join(out).strip().removesuffix(";").rstrip()

    def for_mysql(self) -> str:
        """Its text for MySQL's driver, whose placeholder is %s, everywhere and without escape.

        Two quoted texts side by side are one for MySQL, so %s is taken apart in them.
        """
        out = []
        for kind, text in self.parts:
            if kind == "mark":
                out.append("%s")
            elif kind == "quoted" and self.marks and "%s" in text:
                if text[0] == "`":
                    raise ProgrammingError(f"{text}: a name with %s in it can't be used here")
                out.append(text.replace("%s", f"%{text[0]} {text[0]}s"))
            else:
                out.append(text.replace("%s", "% s") if self.marks else text)
        return "".join(out)

    def text(self) -> str:
        """Its text as it came."""
        return "".join(part.text for part in self.parts)


_AS_CODE: Final = {"quoted": "''", "comment": " ", "mark": "?"}
